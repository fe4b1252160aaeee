//! `update_members`: who is in a presence channel, over several nodes.

use std::collections::BTreeMap;

use fanfare::entry::Body;
use fanfare::presence::MemberChange;

use super::answers::UpdatedMembership;
use super::calls::{Assert, N1, N2, N3};
use super::stage::Stage;
use crate::support::bounded;

const CHANNEL: &str = "presence-a";

fn added(user: &str, info: &str) -> MemberChange {
    MemberChange::Added { user_id: user.into(), info: info.to_owned().into() }
}

fn removed(user: &str) -> MemberChange {
    MemberChange::Removed { user_id: user.into() }
}

/// One user at a time, which is all that its node has.
async fn asserts(stage: &mut Stage, node: &'static str, user: &str, count: u64) -> UpdatedMembership {
    stage.assert(&Assert::members(CHANNEL, node, count, &[(user, count)])).await
}

impl Stage {
    /// Who came and who left, since the last call.
    async fn changes(&mut self) -> Vec<MemberChange> {
        let said = self.said().await.into_iter();
        let changes = said.flat_map(|body| match body {
            Body::Members(changes) => changes,
            other => panic!("not members: {other:?}"),
        });
        changes.collect()
    }

    /// Users with their nodes.
    async fn members(&mut self) -> BTreeMap<String, String> {
        let users = self.hash("users:presence-a").await.into_iter();
        users.map(|(user, value)| (user, value.split_once('\n').unwrap().0.to_owned())).collect()
    }
}

#[tokio::test]
async fn first_and_last_connection_in_the_cluster_are_announced() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (node, count, total, changes) in [
            (N1, 1, 1, vec![added("ann", "\"ann\"")]),
            (N1, 1, 1, vec![]),
            (N2, 2, 3, vec![]),
            (N1, 3, 5, vec![]),
            (N1, 0, 2, vec![]),
            (N1, 0, 2, vec![]),
            (N3, 1, 3, vec![]),
            (N2, 0, 1, vec![]),
            (N3, 0, 0, vec![removed("ann")]),
            (N3, 0, 0, vec![]),
        ] {
            let asserted = asserts(&mut stage, node, "ann", count).await;
            assert_eq!(asserted.total, total, "{node} has {count}");
            assert_eq!(stage.changes().await, changes, "{node} has {count}");
            assert_eq!(asserted.at.unwrap().seq, stage.head(CHANNEL, "seq").await, "with what was said");
        }
        assert_eq!(stage.keys().await, ["head:presence-a", "log:presence-a"]);
    })
    .await;
}

/// Several users in one call are one entry, in their order.
#[tokio::test]
async fn several_users_are_one_announcement() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.assert(&Assert::members(CHANNEL, N1, 3, &[("ann", 2), ("bob", 1)])).await;
        stage.assert(&Assert::members(CHANNEL, N2, 1, &[("bob", 1)])).await;
        stage
            .assert(&Assert::members(CHANNEL, N1, 1, &[("eve", 1), ("ann", 0), ("bob", 0), ("zoe", 0)]))
            .await;
        let said = stage.said().await;
        let first = Body::Members(vec![added("ann", "\"ann\""), added("bob", "\"bob\"")]);
        assert_eq!(said, [first, Body::Members(vec![added("eve", "\"eve\""), removed("ann")])]);
        let members = stage.members().await;
        assert_eq!(
            members,
            BTreeMap::from([("bob".into(), format!("{N2} 1")), ("eve".into(), format!("{N1} 1"))])
        );
        assert_eq!(stage.hash("subs:presence-a").await["users"], "2");
        assert_eq!(stage.hash("counts").await, BTreeMap::from([(CHANNEL.into(), "2 2".into())]));
    })
    .await;
}

/// Until all connections have left.
#[tokio::test]
async fn info_of_the_first_connection_stays() {
    bounded(async {
        let mut stage = Stage::set().await;
        let with = |node, count, info: &str| Assert::new(CHANNEL, node, count).user("ann", count, true, info);
        let odd = "{\"a\":\n\"\\n\u{0}é\"}\n";
        for (node, count, info) in [(N1, 1, odd), (N2, 1, "\"second\""), (N1, 0, ""), (N2, 2, "\"third\"")] {
            stage.assert(&with(node, count, info)).await;
        }
        let value = stage.hash("users:presence-a").await.remove("ann").unwrap();
        assert_eq!(value, format!("{N2} 2\n{odd}"));
        stage.assert(&with(N2, 0, "")).await;
        stage.assert(&with(N2, 1, "\"fourth\"")).await;
        let expected = [added("ann", odd), removed("ann"), added("ann", "\"fourth\"")];
        assert_eq!(stage.changes().await, expected);
    })
    .await;
}

#[tokio::test]
async fn any_text_may_name_a_user() {
    bounded(async {
        let mut stage = Stage::set().await;
        let long = "ü".repeat(128);
        let users = [
            "a b",
            " ",
            "a:b",
            "1:presence-a x",
            "héé 🎉",
            "a\nb",
            "total",
            "node-a---------- 1",
            "{}",
            &long,
        ];
        let of = |count| users.map(|user| (user, count));
        for node in [N1, N2] {
            stage.assert(&Assert::members(CHANNEL, node, users.len() as u64, &of(1))).await;
        }
        let all_added: Vec<MemberChange> =
            users.iter().map(|user| added(user, &format!("\"{user}\""))).collect();
        assert_eq!(stage.changes().await, all_added);
        stage.assert(&Assert::members(CHANNEL, N2, 0, &of(0))).await;
        assert_eq!(stage.members().await.len(), users.len());
        assert!(stage.members().await.values().all(|nodes| *nodes == format!("{N1} 1")));
        stage.assert(&Assert::members(CHANNEL, N1, 0, &of(0))).await;
        assert_eq!(stage.changes().await, users.map(removed));
        assert_eq!(stage.keys().await, ["head:presence-a", "log:presence-a"]);
    })
    .await;
}

#[tokio::test]
async fn a_full_channel_refuses_new_users_and_does_not_count_them() {
    bounded(async {
        let mut stage = Stage::set().await;
        let two = |assert: Assert| Assert { members_max: 2, ..assert };
        let full = two(Assert::members(CHANNEL, N1, 6, &[("ann", 1), ("bob", 2), ("eve", 3)]));
        let asserted = stage.assert(&full).await;
        assert_eq!((asserted.total, asserted.refused), (3, vec![2]));
        assert_eq!(stage.changes().await.len(), 2);
        // Users who are there may come again, on any node.
        let again = two(Assert::members(CHANNEL, N2, 5, &[("zoe", 1), ("ann", 3), ("max", 1)]));
        let asserted = stage.assert(&again).await;
        assert_eq!((asserted.total, asserted.refused), (6, vec![0, 2]));
        // One who leaves in the same call makes room.
        let change = two(Assert::members(CHANNEL, N1, 2, &[("bob", 0), ("eve", 1)]));
        assert_eq!(stage.assert(&change).await.refused, [0; 0]);
        assert_eq!(stage.changes().await, [removed("bob"), added("eve", "\"eve\"")]);
        // Who has been in is told of again, not refused: Redis had lost it.
        let told = two(Assert::new(CHANNEL, N3, 1).user("old", 1, false, "null"));
        assert_eq!(stage.assert(&told).await.refused, [0; 0]);
        assert_eq!(stage.changes().await, [added("old", "null")]);
        assert_eq!(stage.hash("subs:presence-a").await["users"], "3");
    })
    .await;
}

#[tokio::test]
async fn a_refused_user_leaves_no_trace() {
    bounded(async {
        let mut stage = Stage::set().await;
        let refused = Assert { members_max: 0, ..Assert::members(CHANNEL, N1, 4, &[("ann", 3), ("bob", 1)]) };
        let asserted = stage.assert(&refused).await;
        assert_eq!((asserted.at, asserted.total, asserted.refused), (None, 0, vec![0, 1]));
        assert_eq!((stage.keys().await, stage.heard().await), (vec![], vec![]));
    })
    .await;
}

/// As the server does it: so many users at a time, and the number last.
#[tokio::test]
async fn a_dead_node_is_swept_in_steps() {
    bounded(async {
        let mut stage = Stage::set().await;
        let names: Vec<String> = (0..7).map(|number| format!("user {number}")).collect();
        let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        stage.assert(&Assert::members(CHANNEL, N1, 14, &all)).await;
        stage.assert(&Assert::members(CHANNEL, N2, 1, &[("user 3", 1)])).await;
        stage.changes().await;
        let gone: Vec<(&str, u64)> = all.iter().map(|(name, _)| (*name, 0)).collect();
        let steps: Vec<Assert> = [(4, 0..3), (1, 3..6), (0, 6..7)]
            .map(|(left, users)| Assert::members(CHANNEL, N1, left, &gone[users]).sweeping())
            .into();
        let mut totals = Vec::new();
        for step in &steps {
            totals.push(stage.assert(step).await.total);
        }
        assert_eq!(totals, [5, 2, 1]);
        let left: Vec<String> = stage.members().await.into_keys().collect();
        assert_eq!(left, ["user 3"]);
        assert_eq!(stage.changes().await.len(), 6);
        assert!(!stage.exists(&format!("channels:{N1}")).await);
        // Another sweeper comes late, and brings nothing back.
        let before = stage.everything().await;
        for step in &steps {
            assert_eq!(stage.assert(step).await.total, 1);
        }
        assert!(stage.everything().await == before);
        assert_eq!(stage.heard().await, []);
    })
    .await;
}
