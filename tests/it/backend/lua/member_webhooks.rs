//! The webhooks `member_added` and `member_removed`.

use super::calls::{NODES, Update, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

fn member_update(node: usize, user: &str, count: u64) -> Update {
    let both = rules(&["member_added", "member_removed"], false, false);
    Update::members("presence-a:b", NODES[node], count, &[(user, count)]).with(&both)
}

#[tokio::test]
async fn member_added_is_reported_at_once_and_removed_after_grace() {
    bounded(async {
        let mut stage = Stage::start().await;
        for user in ["ann lee", "é:🎉", "1:presence-a:b x"] {
            stage.redis.command(&["FLUSHALL"]).await;
            for (node, count) in [(0, 1), (1, 1), (0, 0), (0, 1), (1, 0)] {
                stage.update(&member_update(node, user, count)).await;
            }
            let added = format!("member_added 1:presence-a:b user={user}");
            assert_eq!(stage.webhook_events().await, std::slice::from_ref(&added));
            assert_eq!(stage.due().await, []);
            stage.update(&member_update(0, user, 0)).await;
            let due = stage.due().await;
            let entry = format!("removed 1:presence-a:b {user}");
            assert_eq!(due[0].0, entry);
            assert!((1..=3_000).contains(&due[0].1), "{due:?}");
            stage.run(&settle("presence-a:b", &entry, 10_000)).await;
            assert_eq!(
                stage.webhook_events().await,
                [added, format!("member_removed 1:presence-a:b user={user}")]
            );
        }
    })
    .await;
}

#[tokio::test]
async fn member_that_returns_within_grace_is_not_reported() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (node, user, count) in [(0, "ann", 1), (0, "ann", 0), (1, "bob", 1), (0, "ann", 1)] {
            stage.update(&member_update(node, user, count)).await;
        }
        let reported = stage.webhook_events().await;
        assert_eq!(
            reported,
            ["member_added 1:presence-a:b user=ann", "member_added 1:presence-a:b user=bob"]
        );
        assert_eq!(stage.due().await, []);
        // The sweep of a dead node removes its members.
        stage.update(&member_update(0, "ann", 0).sweeping()).await;
        assert_eq!(stage.due().await[0].0, "removed 1:presence-a:b ann");
        // Subscribers receive each change.
        assert_eq!(stage.messages().await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn member_webhooks_follow_subscribed_events() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (hooked, webhook_events, due) in [
            (vec![], 0, 0),
            (vec!["channel_occupied", "subscription_count"], 1, 0),
            (vec!["member_added"], 1, 0),
            (vec!["member_removed"], 0, 1),
            (vec!["channel_vacated", "member_removed"], 0, 2),
        ] {
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [1, 0] {
                stage.update(&member_update(0, "ann", count).with(&rules(&hooked, true, true))).await;
            }
            assert_eq!(
                (stage.webhook_events().await.len(), stage.due().await.len()),
                (webhook_events, due),
                "{hooked:?}"
            );
        }
    })
    .await;
}
