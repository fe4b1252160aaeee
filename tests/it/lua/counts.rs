//! How many subscriptions a channel has: told at once while there are few, and
//! once in each interval while there are many.

use fanfare::entry::Body;

use super::calls::{Assert, NODES, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

const INTERVAL_MS: u32 = 60_000;

/// WebhookEventKind a node says, with both ways of telling, in an interval that does not end.
fn assert(node: usize, count: u64) -> Assert {
    let rules = rules(&["subscription_count"], true, false);
    Assert { interval_ms: INTERVAL_MS.into(), ..Assert::new("a", NODES[node], count).with(&rules) }
}

fn webhook_events(counts: &[u64]) -> Vec<String> {
    counts.iter().map(|count| format!("subscription_count 1:a count={count}")).collect()
}

fn said(counts: &[u64]) -> Vec<Body> {
    counts.iter().map(|count| Body::SubscriptionCount(*count)).collect()
}

#[tokio::test]
async fn each_change_is_told_up_to_a_hundred() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (node, count) in [(0, 1), (0, 1), (1, 98), (0, 2), (0, 0), (2, 0), (1, 0)] {
            stage.assert(&assert(node, count)).await;
        }
        assert_eq!(stage.said().await, said(&[1, 99, 100, 98]), "nobody is left to hear of none");
        assert_eq!(stage.webhook_events().await, webhook_events(&[1, 99, 100, 98, 0]));
        assert_eq!(stage.due().await, []);
    })
    .await;
}

#[tokio::test]
async fn above_a_hundred_the_last_count_is_told_later() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (node, count) in [(0, 101), (0, 102), (1, 50), (1, 48)] {
            stage.assert(&assert(node, count)).await;
        }
        assert_eq!(stage.said().await, said(&[101]));
        let due = stage.due().await;
        assert_eq!((due.len(), &*due[0].0), (1, "count 1:a"));
        assert!((1..=INTERVAL_MS.into()).contains(&due[0].1), "an interval after the last: {due:?}");
        stage.run(&settle("a", "count 1:a", 10_000)).await;
        assert_eq!(stage.said().await, said(&[150]), "what it is by then");
        assert_eq!(stage.webhook_events().await, webhook_events(&[101, 150]));
        assert_eq!(stage.due().await, []);
        // From then on, an interval begins anew.
        stage.assert(&assert(1, 49)).await;
        assert_eq!(stage.said().await, []);
        assert_eq!(stage.due().await.len(), 1);
    })
    .await;
}

/// WebhookEventKind was told at once need not be told later.
#[tokio::test]
async fn falling_below_is_told_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        for count in [101, 102, 100] {
            stage.assert(&assert(0, count)).await;
        }
        assert_eq!(stage.said().await, said(&[101, 100]));
        assert_eq!(stage.due().await, []);
        // The interval still runs.
        stage.assert(&assert(0, 103)).await;
        assert_eq!((stage.said().await, stage.due().await.len()), (vec![], 1));
    })
    .await;
}

#[tokio::test]
async fn an_interval_ends() {
    bounded(async {
        let mut stage = Stage::set().await;
        let soon = |count| Assert { interval_ms: 30, ..assert(0, count) };
        for count in [101, 102] {
            stage.assert(&soon(count)).await;
            stage.pass_ms(40).await;
        }
        assert_eq!(stage.said().await, said(&[101, 102]));
    })
    .await;
}

#[tokio::test]
async fn webhooks_and_subscribers_are_told_each_by_their_own_rule() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (hooked, tells) in [(true, false), (false, true), (false, false)] {
            let hooks: &[&str] = if hooked { &["subscription_count"] } else { &[] };
            let rules = rules(hooks, tells, false);
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [5, 101, 102] {
                stage.assert(&assert(0, count).with(&rules)).await;
            }
            assert_eq!(stage.due().await.len(), usize::from(hooked || tells));
            stage.run(&settle("a", "count 1:a", 10_000)).await;
            assert_eq!(stage.said().await, said(if tells { &[5, 101, 102] } else { &[] }));
            assert_eq!(
                stage.webhook_events().await,
                webhook_events(if hooked { &[5, 101, 102] } else { &[] })
            );
        }
    })
    .await;
}
