//! `update_subscriptions`: numbers of several nodes, and the webhooks of a
//! channel that is occupied or vacated.

use super::calls::{Assert, Batch, NODES, rules, settle};
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn numbers_are_absolute() {
    bounded(async {
        let mut stage = Stage::set().await;
        let [n1, n2, n3] = NODES;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        for (node, count, total) in [(n1, 3, 3), (n1, 3, 3), (n2, 4, 7), (n1, 1, 5), (n3, 0, 5)] {
            let asserted = stage.assert(&Assert::new("a", node, count)).await;
            let at = asserted.at.unwrap();
            assert_eq!((at.epoch, at.seq), (stage.head("a", "epoch").await, stage.head("a", "seq").await));
            assert_eq!((at.id, at.time_ms), (id(1).to_vec(), stage.head("a", "time").await));
            assert_eq!(asserted.total, total, "{node} has {count}");
            assert_eq!((asserted.refused, asserted.last), (vec![], None));
        }
        let never = stage.assert(&Assert::new("never", n1, 1)).await;
        assert_eq!((never.at, never.total), (None, 1), "nothing was announced there");
        let channels = ["SMISMEMBER", &format!("channels:{n1}"), "1:a", "1:never"];
        assert_eq!(stage.redis.command(&channels).await.text(), "1 1");
        // A total that is wrong is right after the next call.
        stage.redis.command(&["HSET", "subs:a", "total", "99"]).await;
        assert_eq!(stage.total("a", n1, 1).await, 5);
        assert_eq!(stage.redis.command(&["HGET", "subs:a", "total"]).await.text(), "5");
        // Whoever has none leaves nothing behind.
        for (node, total) in [(n1, 4), (n2, 0), (n2, 0)] {
            assert_eq!(stage.total("a", node, 0).await, total);
        }
        stage.total("never", n1, 0).await;
        assert_eq!(stage.keys().await, ["head:a", "log:a"]);
        assert_eq!(stage.heard().await.len(), 1, "the event alone");
    })
    .await;
}

/// All that there is of channel a, without the order of a hash's fields.
async fn state(stage: &mut Stage) -> impl PartialEq + std::fmt::Debug + use<> {
    let hashes = [stage.hash("subs:a").await, stage.hash("counts").await, stage.hash("head:a").await];
    (stage.keys().await, hashes, stage.webhook_events().await, stage.due().await.len())
}

/// WebhookEventKind is said again changes nothing, announces nothing and webhook_events nothing.
#[tokio::test]
async fn saying_it_again_changes_nothing() {
    bounded(async {
        let mut stage = Stage::set().await;
        let all = rules(&["channel_occupied", "channel_vacated", "subscription_count"], true, true);
        for (node, count) in [(NODES[0], 2), (NODES[1], 1)] {
            stage.assert(&Assert::new("a", node, count).with(&all)).await;
        }
        stage.heard().await;
        let before = state(&mut stage).await;
        for node in [0, 1, 1, 0, 2] {
            let count = [2, 1, 0][node];
            assert_eq!(stage.assert(&Assert::new("a", NODES[node], count).with(&all)).await.total, 3);
        }
        assert_eq!(state(&mut stage).await, before);
        assert_eq!(stage.heard().await, []);
    })
    .await;
}

#[tokio::test]
async fn occupied_and_vacated_are_told_when_rules_want_it() {
    bounded(async {
        let mut stage = Stage::set().await;
        let both = rules(&["channel_occupied", "channel_vacated"], false, false);
        let assert = |node, count| Assert::new("a:b", NODES[node], count).with(&both);
        for (node, count) in [(0, 1), (1, 2), (0, 0)] {
            stage.assert(&assert(node, count)).await;
        }
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a:b"]);
        assert_eq!(stage.due().await, [], "another node has some");
        stage.assert(&assert(1, 0)).await;
        let due = stage.due().await;
        assert_eq!(due[0].0, "vacated 1:a:b");
        assert!((1..=3_000).contains(&due[0].1), "{due:?}");
        // Vacated again by whoever says so again: the time stands.
        stage.assert(&Assert { grace_ms: 100_000, ..assert(1, 0) }).await;
        assert!(stage.due().await[0].1 <= 3_000);
        stage.run(&settle("a:b", "vacated 1:a:b", 10_000)).await;
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a:b", "channel_vacated 1:a:b"]);
        assert_eq!(stage.due().await, []);
        assert_eq!(stage.heard().await, [], "clients are told nothing of it");
    })
    .await;
}

/// A page was reloaded: neither webhook is sent.
#[tokio::test]
async fn channel_that_is_occupied_again_within_the_grace_is_not_told_of() {
    bounded(async {
        let mut stage = Stage::set().await;
        let both = rules(&["channel_occupied", "channel_vacated"], false, false);
        for (node, count) in [(0, 1), (0, 0), (1, 1)] {
            stage.assert(&Assert::new("a", NODES[node], count).with(&both)).await;
        }
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a"], "the first time");
        assert_eq!(stage.due().await, []);
        // A node that has died leaves by the rules that its channel remembers.
        stage.assert(&Assert::new("a", NODES[1], 0).sweeping()).await;
        assert_eq!(stage.due().await[0].0, "vacated 1:a");
    })
    .await;
}

#[tokio::test]
async fn nothing_is_told_that_no_rule_wants() {
    bounded(async {
        let mut stage = Stage::set().await;
        for hooked in [vec![], vec!["member_added", "client_event", "cache_miss"]] {
            let rules = rules(&hooked, false, true);
            for (node, count) in [(0, 1), (1, 200), (0, 0), (1, 0)] {
                stage.assert(&Assert::new("a", NODES[node], count).with(&rules)).await;
            }
            assert_eq!((stage.webhook_events().await.len(), stage.due().await.len()), (0, 0), "{hooked:?}");
        }
        // Only the one of the two.
        for (hooked, webhook_events, due) in [("channel_occupied", 1, 0), ("channel_vacated", 0, 1)] {
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [1, 0] {
                let rules = rules(&[hooked], false, false);
                stage.assert(&Assert::new("a", NODES[0], count).with(&rules)).await;
            }
            assert_eq!(
                (stage.webhook_events().await.len(), stage.due().await.len()),
                (webhook_events, due),
                "{hooked}"
            );
        }
        assert_eq!(stage.heard().await, []);
    })
    .await;
}
