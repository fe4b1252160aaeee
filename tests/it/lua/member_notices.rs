//! The webhooks of a presence channel's members.

use super::calls::{Assert, NODES, rules, settle};
use super::stage::Stage;
use crate::support::bounded;

fn asserts(node: usize, user: &str, count: u64) -> Assert {
    let both = rules(&["member_added", "member_removed"], false, false);
    Assert::members("presence-a:b", NODES[node], count, &[(user, count)]).with(&both)
}

#[tokio::test]
async fn members_are_told_when_they_come_and_some_time_after_they_have_gone() {
    bounded(async {
        let mut stage = Stage::set().await;
        for user in ["ann lee", "é:🎉", "1:presence-a:b x"] {
            stage.redis.command(&["FLUSHALL"]).await;
            for (node, count) in [(0, 1), (1, 1), (0, 0), (0, 1), (1, 0)] {
                stage.assert(&asserts(node, user, count)).await;
            }
            let came = format!("member_added 1:presence-a:b user={user}");
            assert_eq!(stage.webhook_events().await, std::slice::from_ref(&came));
            assert_eq!(stage.due().await, []);
            stage.assert(&asserts(0, user, 0)).await;
            let due = stage.due().await;
            let entry = format!("removed 1:presence-a:b {user}");
            assert_eq!(due[0].0, entry);
            assert!((1..=3_000).contains(&due[0].1), "{due:?}");
            stage.run(&settle("presence-a:b", &entry, 10_000)).await;
            assert_eq!(
                stage.webhook_events().await,
                [came, format!("member_removed 1:presence-a:b user={user}")]
            );
        }
    })
    .await;
}

#[tokio::test]
async fn member_that_comes_back_within_the_grace_is_not_told_of() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (node, user, count) in [(0, "ann", 1), (0, "ann", 0), (1, "bob", 1), (0, "ann", 1)] {
            stage.assert(&asserts(node, user, count)).await;
        }
        let told = stage.webhook_events().await;
        assert_eq!(told, ["member_added 1:presence-a:b user=ann", "member_added 1:presence-a:b user=bob"]);
        assert_eq!(stage.due().await, []);
        // A node that has died takes its members along.
        stage.assert(&asserts(0, "ann", 0).sweeping()).await;
        assert_eq!(stage.due().await[0].0, "removed 1:presence-a:b ann");
        // The others hear of each coming and going.
        assert_eq!(stage.heard().await.len(), 5);
    })
    .await;
}

#[tokio::test]
async fn members_are_told_only_to_who_wants_to_hear_of_them() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (hooked, webhook_events, due) in [
            (vec![], 0, 0),
            (vec!["channel_occupied", "subscription_count"], 1, 0),
            (vec!["member_added"], 1, 0),
            (vec!["member_removed"], 0, 1),
            (vec!["channel_vacated", "member_removed"], 0, 2),
        ] {
            stage.redis.command(&["FLUSHALL"]).await;
            for count in [1, 0] {
                stage.assert(&asserts(0, "ann", count).with(&rules(&hooked, true, true))).await;
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
