//! Subscription counts: sent at once while there are few subscriptions, and once in each interval
//! while there are many.

use fanfare::entry::Body;

use super::calls::{NODES, Update, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

const INTERVAL_MS: u32 = 60_000;

/// A node's membership update, with count entries and the webhook, in an interval that does not
/// end.
fn update(node: usize, count: u64) -> Update {
    let rules = rules(&["subscription_count"], true, false);
    Update { interval_ms: INTERVAL_MS.into(), ..Update::new("a", NODES[node], count).with(&rules) }
}

fn webhook_events(counts: &[u64]) -> Vec<String> {
    counts.iter().map(|count| format!("subscription_count 1:a count={count}")).collect()
}

fn count_entries(counts: &[u64]) -> Vec<Body> {
    counts.iter().map(|count| Body::SubscriptionCount(*count)).collect()
}

#[tokio::test]
async fn count_is_sent_at_each_change_up_to_100() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (node, count) in [(0, 1), (0, 1), (1, 98), (0, 2), (0, 0), (2, 0), (1, 0)] {
            stage.update(&update(node, count)).await;
        }
        assert_eq!(stage.bodies().await, count_entries(&[1, 99, 100, 98]), "a count of 0 has no subscribers");
        assert_eq!(stage.webhook_events().await, webhook_events(&[1, 99, 100, 98, 0]));
        assert_eq!(stage.due().await, []);
    })
    .await;
}

#[tokio::test]
async fn count_above_100_is_sent_after_interval() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (node, count) in [(0, 101), (0, 102), (1, 50), (1, 48)] {
            stage.update(&update(node, count)).await;
        }
        assert_eq!(stage.bodies().await, count_entries(&[101]));
        let due = stage.due().await;
        assert_eq!((due.len(), &*due[0].0), (1, "count 1:a"));
        assert!((1..=INTERVAL_MS.into()).contains(&due[0].1), "one interval after the last count: {due:?}");
        stage.run(&settle("a", "count 1:a", 10_000)).await;
        assert_eq!(stage.bodies().await, count_entries(&[150]), "the current count");
        assert_eq!(stage.webhook_events().await, webhook_events(&[101, 150]));
        assert_eq!(stage.due().await, []);
        // A new interval begins.
        stage.update(&update(1, 49)).await;
        assert_eq!(stage.bodies().await, []);
        assert_eq!(stage.due().await.len(), 1);
    })
    .await;
}

/// A count that is sent at once cancels the scheduled one.
#[tokio::test]
async fn count_falling_to_100_is_sent_once() {
    bounded(async {
        let mut stage = Stage::start().await;
        for count in [101, 102, 100] {
            stage.update(&update(0, count)).await;
        }
        assert_eq!(stage.bodies().await, count_entries(&[101, 100]));
        assert_eq!(stage.due().await, []);
        // The interval has not ended.
        stage.update(&update(0, 103)).await;
        assert_eq!((stage.bodies().await, stage.due().await.len()), (vec![], 1));
    })
    .await;
}

#[tokio::test]
async fn count_is_sent_when_interval_has_ended() {
    bounded(async {
        let mut stage = Stage::start().await;
        let short = |count| Update { interval_ms: 30, ..update(0, count) };
        for count in [101, 102] {
            stage.update(&short(count)).await;
            stage.wait_ms(40).await;
        }
        assert_eq!(stage.bodies().await, count_entries(&[101, 102]));
    })
    .await;
}

#[tokio::test]
async fn count_webhook_and_count_entry_follow_their_own_rules() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (hooked, sends) in [(true, false), (false, true), (false, false)] {
            let hooked_events: &[&str] = if hooked { &["subscription_count"] } else { &[] };
            let rules = rules(hooked_events, sends, false);
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [5, 101, 102] {
                stage.update(&update(0, count).with(&rules)).await;
            }
            assert_eq!(stage.due().await.len(), usize::from(hooked || sends));
            stage.run(&settle("a", "count 1:a", 10_000)).await;
            assert_eq!(stage.bodies().await, count_entries(if sends { &[5, 101, 102] } else { &[] }));
            assert_eq!(
                stage.webhook_events().await,
                webhook_events(if hooked { &[5, 101, 102] } else { &[] })
            );
        }
    })
    .await;
}
