//! `update_subscriptions` of a user's own channel: whether the user is online.

use fanfare::entry::Body;

use super::calls::{Assert, NODES, rules};
use super::stage::Stage;
use crate::support::bounded;

const CHANNEL: &str = "#server-to-user-ann";

fn assert(node: usize, count: u64, rules: &str) -> Assert {
    Assert::new(CHANNEL, NODES[node], count).with(rules)
}

#[tokio::test]
async fn status_is_announced_when_it_changes() {
    bounded(async {
        let mut stage = Stage::set().await;
        let rules = rules(&[], false, true);
        for (node, count, said) in [
            (0, 0, None),
            (0, 1, Some(true)),
            (0, 1, None),
            (1, 2, None),
            (0, 0, None),
            (1, 1, None),
            (1, 0, Some(false)),
            (1, 0, None),
            (2, 5, Some(true)),
        ] {
            let asserted = stage.assert(&assert(node, count, &rules)).await;
            let expected: Vec<Body> = said.map(|online| Body::UserStatus { online }).into_iter().collect();
            assert_eq!(stage.said().await, expected, "{} has {count}", NODES[node]);
            if said.is_some() {
                assert_eq!(asserted.at.unwrap().seq, stage.head(CHANNEL, "seq").await, "with what was said");
            }
        }
        // A dead node's user goes by the rules that its channel remembers.
        stage.assert(&assert(2, 0, "")).await;
        assert_eq!(stage.said().await, [Body::UserStatus { online: false }]);
    })
    .await;
}

#[tokio::test]
async fn status_is_not_announced_to_nobody() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (node, count) in [(0, 1), (0, 0)] {
            stage.assert(&assert(node, count, &rules(&[], true, false))).await;
        }
        assert_eq!(stage.heard().await, []);
    })
    .await;
}

/// Users' own channels are nobody's business but the users'.
#[tokio::test]
async fn neither_index_nor_webhooks_know_of_them() {
    bounded(async {
        let mut stage = Stage::set().await;
        let all = ["channel_occupied", "channel_vacated", "subscription_count", "member_added"];
        let rules = rules(&all, true, true);
        stage.assert(&assert(0, 200, &rules)).await;
        stage.assert(&assert(0, 201, &rules)).await;
        let own = ["channels:node-a----------", "head:#server-to-user-ann", "log:#server-to-user-ann"];
        assert_eq!(stage.keys().await, [&own[..], &["subs:#server-to-user-ann"]].concat());
        stage.assert(&assert(0, 0, &rules)).await;
        assert_eq!(stage.keys().await, own[1..]);
        let said = [true, false].map(|online| Body::UserStatus { online });
        assert_eq!(stage.said().await, said);
    })
    .await;
}
