//! `update_subscriptions`: absolute numbers of several nodes, and the webhooks `channel_occupied`
//! and `channel_vacated`.

use super::calls::{Batch, NODES, Update, mark_swept, rules, settle};
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn subscription_numbers_are_absolute() {
    bounded(async {
        let mut stage = Stage::start().await;
        let [n1, n2, n3] = NODES;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        for (node, count, total) in [(n1, 3, 3), (n1, 3, 3), (n2, 4, 7), (n1, 1, 5), (n3, 0, 5)] {
            let updated = stage.update(&Update::new("a", node, count)).await;
            let at = updated.at.unwrap();
            assert_eq!((at.epoch, at.seq), (stage.head("a", "epoch").await, stage.head("a", "seq").await));
            assert_eq!((at.id, at.time_ms), (id(1).to_vec(), stage.head("a", "time").await));
            assert_eq!(updated.total, total, "{node} has {count}");
            assert_eq!((updated.refused, updated.last), (vec![], None));
        }
        let never = stage.update(&Update::new("never", n1, 1)).await;
        assert_eq!((never.at, never.total), (None, 1), "a channel without entries");
        let channels = ["SMISMEMBER", &format!("channels:{n1}"), "1:a", "1:never"];
        assert_eq!(stage.redis.command(&channels).await.text(), "1 1");
        // The next update corrects a wrong total.
        stage.redis.command(&["HSET", "subs:a", "total", "99"]).await;
        assert_eq!(stage.total("a", n1, 1).await, 5);
        assert_eq!(stage.redis.command(&["HGET", "subs:a", "total"]).await.text(), "5");
        // Nodes without subscriptions leave no keys.
        for (node, total) in [(n1, 4), (n2, 0), (n2, 0)] {
            assert_eq!(stage.total("a", node, 0).await, total);
        }
        stage.total("never", n1, 0).await;
        assert_eq!(stage.keys().await, ["head:a", "log:a"]);
        assert_eq!(stage.messages().await.len(), 1, "only the event");
    })
    .await;
}

/// An update of a node that is on its way during the sweep arrives after it, in any partition.
#[tokio::test]
async fn update_after_the_sweep_of_its_node_is_refused() {
    bounded(async {
        let mut stage = Stage::start().await;
        let [n1, n2, _] = NODES;
        for node in [n1, n2] {
            stage.total("a", node, 2).await;
        }
        stage.run(&mark_swept(n1)).await;
        assert_eq!(stage.update(&Update::new("a", n1, 0).sweeping()).await.total, 2);
        let members = |count| Update::members("presence-a", n1, count, &[("ann", count)]);
        for late in [Update::new("a", n1, 3), Update::new("new", n1, 1), Update::new("a", n1, 0), members(1)]
        {
            stage.assert_refused(&late.with(&rules(&[], true, false)).call(), "SWEPT").await;
        }
        assert_eq!(stage.update(&Update::new("a", n2, 1)).await.total, 1, "other nodes are not affected");
        assert!(!stage.exists("subs:new").await && !stage.exists("users:presence-a").await);
    })
    .await;
}

/// The state of channel a, without the order of a hash's fields.
async fn state(stage: &mut Stage) -> impl PartialEq + std::fmt::Debug + use<> {
    let hashes = [stage.hash("subs:a").await, stage.hash("counts").await, stage.hash("head:a").await];
    (stage.keys().await, hashes, stage.webhook_events().await, stage.due().await.len())
}

/// A repeated update changes nothing, appends no entry and no webhook event.
#[tokio::test]
async fn repeated_update_changes_nothing() {
    bounded(async {
        let mut stage = Stage::start().await;
        let all = rules(&["channel_occupied", "channel_vacated", "subscription_count"], true, true);
        for (node, count) in [(NODES[0], 2), (NODES[1], 1)] {
            stage.update(&Update::new("a", node, count).with(&all)).await;
        }
        stage.messages().await;
        let before = state(&mut stage).await;
        for node in [0, 1, 1, 0, 2] {
            let count = [2, 1, 0][node];
            assert_eq!(stage.update(&Update::new("a", NODES[node], count).with(&all)).await.total, 3);
        }
        assert_eq!(state(&mut stage).await, before);
        assert_eq!(stage.messages().await, []);
    })
    .await;
}

#[tokio::test]
async fn occupied_and_vacated_are_reported_with_webhooks() {
    bounded(async {
        let mut stage = Stage::start().await;
        let both = rules(&["channel_occupied", "channel_vacated"], false, false);
        let update = |node, count| Update::new("a:b", NODES[node], count).with(&both);
        for (node, count) in [(0, 1), (1, 2), (0, 0)] {
            stage.update(&update(node, count)).await;
        }
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a:b"]);
        assert_eq!(stage.due().await, [], "another node has subscriptions");
        stage.update(&update(1, 0)).await;
        let due = stage.due().await;
        assert_eq!(due[0].0, "vacated 1:a:b");
        assert!((1..=3_000).contains(&due[0].1), "{due:?}");
        // A repeated update does not change the time.
        stage.update(&Update { grace_ms: 100_000, ..update(1, 0) }).await;
        assert!(stage.due().await[0].1 <= 3_000);
        stage.run(&settle("a:b", "vacated 1:a:b", 10_000)).await;
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a:b", "channel_vacated 1:a:b"]);
        assert_eq!(stage.due().await, []);
        assert_eq!(stage.messages().await, [], "clients receive nothing");
    })
    .await;
}

/// As when a page is reloaded: neither webhook is sent.
#[tokio::test]
async fn channel_that_is_occupied_again_within_grace_is_not_reported() {
    bounded(async {
        let mut stage = Stage::start().await;
        let both = rules(&["channel_occupied", "channel_vacated"], false, false);
        for (node, count) in [(0, 1), (0, 0), (1, 1)] {
            stage.update(&Update::new("a", NODES[node], count).with(&both)).await;
        }
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a"], "the first time");
        assert_eq!(stage.due().await, []);
        // The sweep of a dead node uses the stored rules of the channel.
        stage.update(&Update::new("a", NODES[1], 0).sweeping()).await;
        assert_eq!(stage.due().await[0].0, "vacated 1:a");
    })
    .await;
}

#[tokio::test]
async fn channel_webhooks_follow_subscribed_events() {
    bounded(async {
        let mut stage = Stage::start().await;
        for hooked in [vec![], vec!["member_added", "client_event", "cache_miss"]] {
            let rules = rules(&hooked, false, true);
            for (node, count) in [(0, 1), (1, 200), (0, 0), (1, 0)] {
                stage.update(&Update::new("a", NODES[node], count).with(&rules)).await;
            }
            assert_eq!((stage.webhook_events().await.len(), stage.due().await.len()), (0, 0), "{hooked:?}");
        }
        // Only one of the two.
        for (hooked, webhook_events, due) in [("channel_occupied", 1, 0), ("channel_vacated", 0, 1)] {
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [1, 0] {
                let rules = rules(&[hooked], false, false);
                stage.update(&Update::new("a", NODES[0], count).with(&rules)).await;
            }
            assert_eq!(
                (stage.webhook_events().await.len(), stage.due().await.len()),
                (webhook_events, due),
                "{hooked}"
            );
        }
        assert_eq!(stage.messages().await, []);
    })
    .await;
}

#[tokio::test]
async fn update_over_limit_of_occupied_channels_writes_nothing() {
    bounded(async {
        let mut stage = Stage::start().await;
        let [n1, n2, _] = NODES;
        let limited = |channel, node, count| Update { occupied_max: 1, ..Update::new(channel, node, count) };
        assert!(!stage.update(&limited("a", n1, 1)).await.is_refused);
        let before = (stage.keys().await, stage.hash("counts").await);
        let refused = stage.update(&limited("b", n1, 1)).await;
        assert_eq!((refused.is_refused, refused.total), (true, 0));
        let members = Update { occupied_max: 1, ..Update::members("presence-b", n1, 1, &[("u", 1)]) };
        assert!(stage.update(&members).await.is_refused);
        assert_eq!((stage.keys().await, stage.hash("counts").await), before);
        // More subscriptions of an occupied channel, departures, and updates without the limit.
        assert!(!stage.update(&limited("a", n2, 5)).await.is_refused);
        assert!(!stage.update(&limited("b", n1, 0)).await.is_refused);
        assert!(!stage.update(&Update::new("b", n1, 1)).await.is_refused);
    })
    .await;
}

/// The head and the history of a channel that has had only counts are removed with the last
/// subscription; any other entry keeps them.
#[tokio::test]
async fn channel_of_counts_only_is_removed_with_its_last_subscription() {
    bounded(async {
        let mut stage = Stage::start().await;
        let counts = rules(&[], true, false);
        let update = |node, count| Update::new("a", NODES[node], count).with(&counts);
        for (node, count) in [(0, 2), (1, 1), (0, 1), (1, 0)] {
            stage.update(&update(node, count)).await;
        }
        assert_eq!(stage.hash("head:a").await["counts"], "4");
        let last = stage.update(&update(0, 0)).await;
        assert!(last.at.is_some(), "the position before the removal");
        assert_eq!(stage.keys().await, Vec::<String>::new());
        // The next epoch begins above the last one.
        let next = stage.update(&update(0, 1)).await;
        assert!(next.at.unwrap().epoch > last.at.unwrap().seq);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.update(&update(0, 0)).await;
        assert_eq!(stage.keys().await, ["head:a", "log:a"]);
        // A new epoch counts anew.
        let epoch = stage.head("a", "epoch").await.to_string();
        stage
            .run(&super::calls::call("open_epoch", &["head:a", "bases:a", "base_order:a"], &[&epoch, "0"]))
            .await;
        stage.published(&Batch::new(id(2), "a", "1")).await;
        for count in [1, 0] {
            stage.update(&update(0, count)).await;
        }
        assert_eq!(stage.keys().await, ["head:a", "log:a"]);
    })
    .await;
}

/// A node that begins a new incarnation is never counted twice, and not at all for what it does not
/// report again.
#[tokio::test]
async fn numbers_of_a_replaced_incarnation_are_those_of_the_new_one() {
    bounded(async {
        let mut stage = Stage::start().await;
        let [n1, n2, n3] = NODES;
        let hooked = rules(&["channel_occupied", "channel_vacated"], true, false);
        for (node, total) in [(n1, 3), (n2, 6)] {
            stage.update(&Update::new("a", node, 3).with(&hooked)).await;
            assert_eq!(stage.total("a", node, 3).await, total);
        }
        stage.messages().await;
        let replacing = Update::new("a", n3, 3).with(&hooked).replacing(n1);
        for _ in 0..2 {
            assert_eq!(stage.update(&replacing).await.total, 6);
        }
        assert_eq!(stage.messages().await.len(), 0, "the count is the same");
        assert_eq!(stage.hash("subs:a").await.get(n1), None);
        assert_eq!(stage.total("a", n1, 0).await, 6, "the sweep of the earlier incarnation");
        assert_eq!(stage.update(&Update { count: 0, ..replacing }).await.total, 3);
    })
    .await;
}
