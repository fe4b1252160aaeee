//! `update_members`: the members of a presence channel, over several nodes.

use std::collections::BTreeMap;

use fanfare::entry::Body;
use fanfare::presence::MemberChange;

use super::answers::UpdatedMembership;
use super::calls::{N1, N2, N3, Update};
use super::stage::Stage;
use crate::support::bounded;

const CHANNEL: &str = "presence-a";

fn added(user: &str, info: &str) -> MemberChange {
    MemberChange::Added { user_id: user.into(), info: info.to_owned().into() }
}

fn removed(user: &str) -> MemberChange {
    MemberChange::Removed { user_id: user.into() }
}

/// Updates a node that has a single user.
async fn update_user(stage: &mut Stage, node: &'static str, user: &str, count: u64) -> UpdatedMembership {
    stage.update(&Update::members(CHANNEL, node, count, &[(user, count)])).await
}

impl Stage {
    /// Member changes since the last call.
    async fn changes(&mut self) -> Vec<MemberChange> {
        let bodies = self.bodies().await.into_iter();
        let changes = bodies.flat_map(|body| match body {
            Body::Members(changes) => changes,
            other => panic!("expected member changes, received {other:?}"),
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
async fn members_change_with_first_and_last_connection_in_cluster() {
    bounded(async {
        let mut stage = Stage::start().await;
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
            let updated = update_user(&mut stage, node, "ann", count).await;
            assert_eq!(updated.total, total, "{node} has {count}");
            assert_eq!(stage.changes().await, changes, "{node} has {count}");
            assert_eq!(updated.at.unwrap().seq, stage.head(CHANNEL, "seq").await, "with what was bodies");
        }
        assert_eq!(stage.keys().await, ["head:presence-a", "log:presence-a"]);
    })
    .await;
}

/// The changes of several users in one call are one entry, in the order of the call.
#[tokio::test]
async fn members_of_one_update_are_one_entry() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.update(&Update::members(CHANNEL, N1, 3, &[("ann", 2), ("bob", 1)])).await;
        stage.update(&Update::members(CHANNEL, N2, 1, &[("bob", 1)])).await;
        stage
            .update(&Update::members(CHANNEL, N1, 1, &[("eve", 1), ("ann", 0), ("bob", 0), ("zoe", 0)]))
            .await;
        let bodies = stage.bodies().await;
        let first = Body::Members(vec![added("ann", "\"ann\""), added("bob", "\"bob\"")]);
        assert_eq!(bodies, [first, Body::Members(vec![added("eve", "\"eve\""), removed("ann")])]);
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

/// The first `user_info` stays until all connections of the user have left.
#[tokio::test]
async fn members_keep_info_of_first_connection() {
    bounded(async {
        let mut stage = Stage::start().await;
        let with = |node, count, info: &str| Update::new(CHANNEL, node, count).user("ann", count, true, info);
        let odd = "{\"a\":\n\"\\n\u{0}é\"}\n";
        for (node, count, info) in [(N1, 1, odd), (N2, 1, "\"second\""), (N1, 0, ""), (N2, 2, "\"third\"")] {
            stage.update(&with(node, count, info)).await;
        }
        let value = stage.hash("users:presence-a").await.remove("ann").unwrap();
        assert_eq!(value, format!("{N2} 2\n{odd}"));
        stage.update(&with(N2, 0, "")).await;
        stage.update(&with(N2, 1, "\"fourth\"")).await;
        let expected = [added("ann", odd), removed("ann"), added("ann", "\"fourth\"")];
        assert_eq!(stage.changes().await, expected);
    })
    .await;
}

#[tokio::test]
async fn members_accept_any_text_as_user_id() {
    bounded(async {
        let mut stage = Stage::start().await;
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
            stage.update(&Update::members(CHANNEL, node, users.len() as u64, &of(1))).await;
        }
        let all_added: Vec<MemberChange> =
            users.iter().map(|user| added(user, &format!("\"{user}\""))).collect();
        assert_eq!(stage.changes().await, all_added);
        stage.update(&Update::members(CHANNEL, N2, 0, &of(0))).await;
        assert_eq!(stage.members().await.len(), users.len());
        assert!(stage.members().await.values().all(|nodes| *nodes == format!("{N1} 1")));
        stage.update(&Update::members(CHANNEL, N1, 0, &of(0))).await;
        assert_eq!(stage.changes().await, users.map(removed));
        assert_eq!(stage.keys().await, ["head:presence-a", "log:presence-a"]);
    })
    .await;
}

#[tokio::test]
async fn full_channel_refuses_new_users_without_counting_them() {
    bounded(async {
        let mut stage = Stage::start().await;
        let two = |update: Update| Update { members_max: 2, ..update };
        let full = two(Update::members(CHANNEL, N1, 6, &[("ann", 1), ("bob", 2), ("eve", 3)]));
        let updated = stage.update(&full).await;
        assert_eq!((updated.total, updated.refused), (3, vec![2]));
        assert_eq!(stage.changes().await.len(), 2);
        // Existing members may open further connections, on any node.
        let again = two(Update::members(CHANNEL, N2, 5, &[("zoe", 1), ("ann", 3), ("max", 1)]));
        let updated = stage.update(&again).await;
        assert_eq!((updated.total, updated.refused), (6, vec![0, 2]));
        // A removal in the same call frees capacity.
        let change = two(Update::members(CHANNEL, N1, 2, &[("bob", 0), ("eve", 1)]));
        assert_eq!(stage.update(&change).await.refused, [0; 0]);
        assert_eq!(stage.changes().await, [removed("bob"), added("eve", "\"eve\"")]);
        // A repeated update of an earlier member is not refused: Redis had lost the member.
        let repeated = two(Update::new(CHANNEL, N3, 1).user("old", 1, false, "null"));
        assert_eq!(stage.update(&repeated).await.refused, [0; 0]);
        assert_eq!(stage.changes().await, [added("old", "null")]);
        assert_eq!(stage.hash("subs:presence-a").await["users"], "3");
    })
    .await;
}

#[tokio::test]
async fn refused_user_writes_nothing() {
    bounded(async {
        let mut stage = Stage::start().await;
        let refused = Update { members_max: 0, ..Update::members(CHANNEL, N1, 4, &[("ann", 3), ("bob", 1)]) };
        let updated = stage.update(&refused).await;
        assert_eq!((updated.at, updated.total, updated.refused), (None, 0, vec![0, 1]));
        assert_eq!((stage.keys().await, stage.messages().await), (vec![], vec![]));
    })
    .await;
}

/// The same steps as the server: a bounded number of users at a time, and the node's number last.
#[tokio::test]
async fn dead_node_is_swept_in_steps() {
    bounded(async {
        let mut stage = Stage::start().await;
        let names: Vec<String> = (0..7).map(|number| format!("user {number}")).collect();
        let all: Vec<(&str, u64)> = names.iter().map(|name| (name.as_str(), 2)).collect();
        stage.update(&Update::members(CHANNEL, N1, 14, &all)).await;
        stage.update(&Update::members(CHANNEL, N2, 1, &[("user 3", 1)])).await;
        stage.changes().await;
        let removals: Vec<(&str, u64)> = all.iter().map(|(name, _)| (*name, 0)).collect();
        let steps: Vec<Update> = [(4, 0..3), (1, 3..6), (0, 6..7)]
            .map(|(left, users)| Update::members(CHANNEL, N1, left, &removals[users]).sweeping())
            .into();
        let mut totals = Vec::new();
        for step in &steps {
            totals.push(stage.update(step).await.total);
        }
        assert_eq!(totals, [5, 2, 1]);
        let left: Vec<String> = stage.members().await.into_keys().collect();
        assert_eq!(left, ["user 3"]);
        assert_eq!(stage.changes().await.len(), 6);
        assert!(!stage.exists(&format!("channels:{N1}")).await);
        // A late concurrent sweep restores nothing.
        let before = stage.dump().await;
        for step in &steps {
            assert_eq!(stage.update(step).await.total, 1);
        }
        assert!(stage.dump().await == before);
        assert_eq!(stage.messages().await, []);
    })
    .await;
}

/// Users of a node that begins a new incarnation stay members.
#[tokio::test]
async fn members_of_a_replaced_incarnation_stay() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.update(&Update::members(CHANNEL, N1, 2, &[("ann", 1), ("ben", 1)])).await;
        stage.changes().await;
        let update = Update::members(CHANNEL, N2, 2, &[("ann", 1), ("ben", 1)]).replacing(N1);
        assert_eq!(stage.update(&update).await.total, 2);
        assert_eq!(stage.changes().await, []);
        let members = stage.members().await;
        assert_eq!(members.values().collect::<Vec<_>>(), [&format!("{N2} 1"), &format!("{N2} 1")]);
        update_user(&mut stage, N1, "ann", 0).await;
        assert_eq!(stage.members().await, members);
        assert_eq!(update_user(&mut stage, N3, "ann", 1).await.total, 3);
    })
    .await;
}
