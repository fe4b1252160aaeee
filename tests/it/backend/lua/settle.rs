//! `settle_due`: a transition that no longer holds is not reported.

use super::calls::{NODES, Update, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

#[tokio::test]
async fn reverted_transition_is_not_reported() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.total("a", NODES[0], 1).await;
        stage.update(&Update::members("presence-a", NODES[0], 1, &[("ann lee", 1)])).await;
        let transitions = ["vacated 1:a", "removed 1:presence-a ann lee"];
        for transition in transitions {
            stage.redis.command(&["ZADD", "due", "1", transition]).await;
        }
        stage.run(&settle("a", transitions[0], 10_000)).await;
        stage.run(&settle("presence-a", transitions[1], 10_000)).await;
        assert_eq!(stage.webhook_events().await, [""; 0]);
        assert_eq!(stage.due().await, [], "the transition is settled");
    })
    .await;
}

/// Two consumers may settle the same transition at once.
#[tokio::test]
async fn settled_transition_is_not_reported_again() {
    bounded(async {
        let mut stage = Stage::start().await;
        let rules = rules(&["subscription_count"], true, false);
        stage.update(&Update::new("a", NODES[0], 300).with(&rules)).await;
        for transition in ["vacated 1:b", "removed 1:presence-b ann lee: x", "count 1:a"] {
            let channel = transition.split([':', ' ']).nth(2).unwrap();
            stage.redis.command(&["ZADD", "due", "1", transition]).await;
            for expected in [1, 0] {
                stage.messages().await;
                let before = stage.webhook_events().await.len();
                stage.run(&settle(channel, transition, 10_000)).await;
                assert_eq!(stage.webhook_events().await.len() - before, expected, "{transition}");
                let published = if transition.starts_with("count") { expected } else { 0 };
                assert_eq!(stage.messages().await.len(), published, "{transition}");
            }
        }
        let reported = stage.webhook_events().await;
        assert_eq!(reported[1..3], ["channel_vacated 1:b", "member_removed 1:presence-b user=ann lee: x"]);
    })
    .await;
}

#[tokio::test]
async fn count_of_vacated_channel_is_not_reported() {
    bounded(async {
        let mut stage = Stage::start().await;
        let rules = rules(&["subscription_count"], true, false);
        for count in [300, 301, 0] {
            stage.update(&Update::new("a", NODES[0], count).with(&rules)).await;
        }
        stage.messages().await;
        stage.redis.command(&["ZADD", "due", "1", "count 1:a"]).await;
        let reported = stage.webhook_events().await;
        stage.run(&settle("a", "count 1:a", 10_000)).await;
        assert_eq!((stage.messages().await, stage.webhook_events().await), (vec![], reported));
        assert!(!stage.exists("subs:a").await, "the counts are removed");
    })
    .await;
}
