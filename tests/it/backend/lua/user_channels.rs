//! `update_subscriptions` on a user channel: the online status of the user.

use fanfare::entry::Body;

use super::calls::{NODES, Update, rules};
use super::stage::Stage;
use crate::support::bounded;

const CHANNEL: &str = "#server-to-user-ann";

fn update(node: usize, count: u64, rules: &str) -> Update {
    Update::new(CHANNEL, NODES[node], count).with(rules)
}

#[tokio::test]
async fn user_status_is_sent_when_it_changes() {
    bounded(async {
        let mut stage = Stage::start().await;
        let rules = rules(&[], false, true);
        for (node, count, status) in [
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
            let updated = stage.update(&update(node, count, &rules)).await;
            let expected: Vec<Body> = status.map(|online| Body::UserStatus { online }).into_iter().collect();
            assert_eq!(stage.bodies().await, expected, "{} has {count}", NODES[node]);
            if status.is_some() {
                assert_eq!(
                    updated.at.unwrap().seq,
                    stage.head(CHANNEL, "seq").await,
                    "including the update's own entry"
                );
            }
        }
        // The sweep of a dead node uses the stored rules of the channel.
        stage.update(&update(2, 0, "")).await;
        assert_eq!(stage.bodies().await, [Body::UserStatus { online: false }]);
    })
    .await;
}

#[tokio::test]
async fn user_status_is_not_sent_without_watchlists() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (node, count) in [(0, 1), (0, 0)] {
            stage.update(&update(node, count, &rules(&[], true, false))).await;
        }
        assert_eq!(stage.messages().await, []);
    })
    .await;
}

/// User channels appear in neither the index nor webhooks.
#[tokio::test]
async fn user_channels_are_absent_from_index_and_webhooks() {
    bounded(async {
        let mut stage = Stage::start().await;
        let all = ["channel_occupied", "channel_vacated", "subscription_count", "member_added"];
        let rules = rules(&all, true, true);
        stage.update(&update(0, 200, &rules)).await;
        stage.update(&update(0, 201, &rules)).await;
        let own = ["channels:node-a----------", "head:#server-to-user-ann", "log:#server-to-user-ann"];
        assert_eq!(stage.keys().await, [&own[..], &["subs:#server-to-user-ann"]].concat());
        stage.update(&update(0, 0, &rules)).await;
        assert_eq!(stage.keys().await, own[1..]);
        let status = [true, false].map(|online| Body::UserStatus { online });
        assert_eq!(stage.bodies().await, status);
    })
    .await;
}
