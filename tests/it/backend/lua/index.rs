//! The index of occupied channels: pages of `list_occupied`, and agreement of the index with the
//! channels' own counts.

use std::collections::BTreeMap;

use rand::RngExt;
use rand::rngs::StdRng;

use super::calls::{NODES, Update, list};
use super::client::items;
use super::stage::Stage;
use crate::support::{Seed, bounded};

const USERS: [&str; 3] = ["ann", "bob", "eve"];
const CHANNELS: [&str; 4] = ["a", "b:c", "presence-a", "presence-b"];

impl Stage {
    async fn listed(&mut self, from: &str, to: &str, count_max: u64) -> Vec<(String, String)> {
        let [names, counts] = items(self.run(&list(from, to, count_max)).await).try_into().unwrap();
        let (names, counts) = (items(names), items(counts));
        assert_eq!(names.len(), counts.len());
        names.iter().zip(&counts).map(|(name, counts)| (name.text(), counts.text())).collect()
    }
}

#[tokio::test]
async fn occupied_channels_are_listed_by_prefix_and_page() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert_eq!(stage.listed("-", "+", 1_000).await, []);
        for (at, channel) in ["b", "a-2", "a", "a-1", "a;", "presence-a-1", "B"].iter().enumerate() {
            stage.total(channel, NODES[0], at as u64 + 1).await;
        }
        stage.update(&Update::members("presence-a-1", NODES[0], 3, &[("ann", 2), ("bob", 1)])).await;
        stage.total("a-2", NODES[0], 0).await;
        let names =
            |listed: Vec<(String, String)>| listed.into_iter().map(|(name, _)| name).collect::<Vec<_>>();
        let all = stage.listed("[", "[~", 1_000).await;
        assert_eq!(names(all.clone()), ["B", "a", "a-1", "a;", "b", "presence-a-1"]);
        assert_eq!(all[1..3], [("a".into(), "3 0".into()), ("a-1".into(), "4 0".into())]);
        assert_eq!(all[5].1, "3 2");
        assert_eq!(names(stage.listed("[a", "[a~", 1_000).await), ["a", "a-1", "a;"]);
        assert_eq!(names(stage.listed("[a", "[a~", 2).await), ["a", "a-1"]);
        assert_eq!(names(stage.listed("(a-1", "[a~", 2).await), ["a;"]);
        assert_eq!(stage.listed("[c", "[c~", 2).await, []);
    })
    .await;
}

#[tokio::test]
async fn occupied_channels_are_listed_in_pages_of_1000() {
    bounded(async {
        let mut stage = Stage::start().await;
        let names: Vec<String> = (0..2_500).map(|number| format!("channel-{number:04}")).collect();
        for name in &names {
            stage.total(name, NODES[0], 1).await;
        }
        let (mut from, mut pages) = ("[channel".to_owned(), Vec::new());
        loop {
            let page = stage.listed(&from, "[channel~", 1_000).await;
            let Some((last, _)) = page.last() else { break };
            from = format!("({last}");
            pages.push(page);
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1_000, 1_000, 500]);
        assert!(pages.concat().into_iter().map(|(name, _)| name).eq(names));
    })
    .await;
}

/// The expected connections by channel, node and user.
type Model = BTreeMap<&'static str, [[u64; 3]; 3]>;

/// Three nodes that update, repeat updates, leave, die and are swept.
#[tokio::test]
async fn index_counts_and_channels_agree_after_random_updates() {
    bounded(async {
        let mut rng = Seed::new().rng();
        let mut stage = Stage::start().await;
        let mut model: Model = CHANNELS.map(|channel| (channel, [[0; 3]; 3])).into();
        for step in 0..400 {
            if rng.random_ratio(1, 20) {
                sweep(&mut stage, &mut model, rng.random_range(0..3)).await;
            } else {
                change(&mut stage, &mut model, &mut rng).await;
            }
            assert_agrees(&mut stage, &model, step).await;
        }
    })
    .await;
}

async fn change(stage: &mut Stage, model: &mut Model, rng: &mut StdRng) {
    let channel = CHANNELS[rng.random_range(0..CHANNELS.len())];
    let node = rng.random_range(0..3);
    let users = &mut model.get_mut(channel).unwrap()[node];
    let user = rng.random_range(0..3);
    users[user] = if rng.random() { rng.random_range(0..4) } else { 0 };
    let users = *users;
    let count = users.iter().sum();
    let update = match channel.starts_with("presence-") {
        true => Update::members(channel, NODES[node], count, &[(USERS[user], users[user])]),
        false => Update::new(channel, NODES[node], count),
    };
    assert_eq!(stage.update(&update).await.total.cast_unsigned(), total(&model[channel]));
}

/// Removes all subscriptions of a node, one user at a time.
async fn sweep(stage: &mut Stage, model: &mut Model, node: usize) {
    let channels = stage.redis.command(&["SMEMBERS", &format!("channels:{}", NODES[node])]).await;
    for channel_id in items(channels) {
        let channel = channel_id.text().split_once(':').unwrap().1.to_owned();
        let left: &[u64] = if channel.starts_with("presence-") { &[2, 1, 0] } else { &[0] };
        for (at, left) in left.iter().enumerate() {
            let users = [(USERS[at], 0)];
            let update = match channel.starts_with("presence-") {
                true => Update::members(&channel, NODES[node], *left, &users),
                false => Update::new(&channel, NODES[node], *left),
            };
            stage.update(&update.sweeping()).await;
        }
    }
    for nodes in model.values_mut() {
        nodes[node] = [0; 3];
    }
}

fn total(nodes: &[[u64; 3]; 3]) -> u64 {
    nodes.iter().flatten().sum()
}

/// Compares the five keys in Redis with the model.
async fn assert_agrees(stage: &mut Stage, model: &Model, step: usize) {
    let mut listed = Vec::new();
    for (channel, nodes) in model {
        let subs = stage.hash(&format!("subs:{channel}")).await;
        let is_presence = channel.starts_with("presence-");
        let users = (0..3).filter(|user| is_presence && nodes.iter().any(|node| node[*user] > 0)).count();
        let members = stage.hash(&format!("users:{channel}")).await;
        assert_eq!(members.len(), users, "step {step}: users of {channel}");
        for (at, node) in NODES.iter().enumerate() {
            let count: u64 = nodes[at].iter().sum();
            let expected = (count > 0).then(|| count.to_string());
            assert_eq!(subs.get(*node), expected.as_ref(), "step {step}: {channel} on {node}");
            let is_member = ["SISMEMBER", &format!("channels:{node}"), &format!("1:{channel}")];
            let is_member = stage.redis.command(&is_member).await.integer() == 1;
            assert_eq!(is_member, count > 0, "step {step}: {channel} in the channels of {node}");
        }
        if total(nodes) > 0 {
            let counts = (total(nodes).to_string(), users.to_string());
            assert_eq!((&subs["total"], &subs["users"]), (&counts.0, &counts.1), "step {step}: {channel}");
            listed.push(((*channel).to_owned(), format!("{} {}", counts.0, counts.1)));
        } else {
            assert!(subs.is_empty(), "step {step}: {channel} is empty");
        }
    }
    assert_eq!(stage.listed("-", "+", 1_000).await, listed, "step {step}: the index");
    let counts: Vec<(String, String)> = stage.hash("counts").await.into_iter().collect();
    assert_eq!(counts, listed, "step {step}: the counts");
}
