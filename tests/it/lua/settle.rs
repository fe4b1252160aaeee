//! `settle_due`: what has changed back is not told.

use super::calls::{Assert, NODES, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

#[tokio::test]
async fn what_came_back_is_not_told() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.total("a", NODES[0], 1).await;
        stage.assert(&Assert::members("presence-a", NODES[0], 1, &[("ann lee", 1)])).await;
        let entries = ["vacated 1:a", "removed 1:presence-a ann lee"];
        for entry in entries {
            stage.redis.command(&["ZADD", "due", "1", entry]).await;
        }
        stage.run(&settle("a", entries[0], 10_000)).await;
        stage.run(&settle("presence-a", entries[1], 10_000)).await;
        assert_eq!(stage.webhook_events().await, [""; 0]);
        assert_eq!(stage.due().await, [], "it is settled");
    })
    .await;
}

/// Two consumers may settle the same at once.
#[tokio::test]
async fn what_is_settled_already_is_not_told_again() {
    bounded(async {
        let mut stage = Stage::set().await;
        let rules = rules(&["subscription_count"], true, false);
        stage.assert(&Assert::new("a", NODES[0], 300).with(&rules)).await;
        for entry in ["vacated 1:b", "removed 1:presence-b ann lee: x", "count 1:a"] {
            let channel = entry.split([':', ' ']).nth(2).unwrap();
            stage.redis.command(&["ZADD", "due", "1", entry]).await;
            for expected in [1, 0] {
                stage.heard().await;
                let before = stage.webhook_events().await.len();
                stage.run(&settle(channel, entry, 10_000)).await;
                assert_eq!(stage.webhook_events().await.len() - before, expected, "{entry}");
                let announced = if entry.starts_with("count") { expected } else { 0 };
                assert_eq!(stage.heard().await.len(), announced, "{entry}");
            }
        }
        let told = stage.webhook_events().await;
        assert_eq!(told[1..3], ["channel_vacated 1:b", "member_removed 1:presence-b user=ann lee: x"]);
    })
    .await;
}

#[tokio::test]
async fn count_of_a_channel_that_is_empty_by_now_is_not_told() {
    bounded(async {
        let mut stage = Stage::set().await;
        let rules = rules(&["subscription_count"], true, false);
        for count in [300, 301, 0] {
            stage.assert(&Assert::new("a", NODES[0], count).with(&rules)).await;
        }
        stage.heard().await;
        stage.redis.command(&["ZADD", "due", "1", "count 1:a"]).await;
        let told = stage.webhook_events().await;
        stage.run(&settle("a", "count 1:a", 10_000)).await;
        assert_eq!((stage.heard().await, stage.webhook_events().await), (vec![], told));
        assert!(!stage.exists("subs:a").await, "nothing is left of it");
    })
    .await;
}
