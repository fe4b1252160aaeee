//! A cluster with very many occupied channels can be asked for all of them, and
//! Redis goes on serving everybody else meanwhile (protocol.md 1.5).

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::support::{Backend, Caller, Cluster, Extra, Server};
use crate::witness::within;

const CHANNELS: usize = 100_000;
/// As many as one socket may have.
const CHANNELS_PER_SOCKET: usize = 10_000;
/// Channels that both nodes have a subscriber of.
const SHARED: usize = 1_000;
/// Longer than any of our commands may keep Redis to itself.
const SLOW_MICROS: &str = "10000";
/// A busy machine makes commands slow that are not: one round without is proof.
const ROUNDS_MAX: usize = 5;
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn cluster_lists_a_hundred_thousand_channels_and_keeps_redis_free() {
    within(LIMIT, async {
        let cluster = Cluster::start(Backend::Redis).await;
        let _sockets = fill(&cluster).await;
        let redis = cluster.redis();
        redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS]).await;
        let publisher = cluster.second().caller("1");
        let mut slow = Vec::new();
        for _ in 0..ROUNDS_MAX {
            redis.command(&["SLOWLOG", "RESET"]).await;
            tokio::select! {
                () = publish_on(&publisher) => unreachable!("it never ends"),
                () = ask_all(cluster.nodes()) => {}
            }
            slow.push(redis.command(&["SLOWLOG", "GET", "10"]).await.text());
            if slow.last().is_some_and(String::is_empty) {
                println!("rounds with slow commands: {slow:?}");
                return;
            }
        }
        panic!("in each round a command took more than {SLOW_MICROS} µs: {slow:#?}");
    })
    .await;
}

/// Half of the channels are occupied through each node, some through both.
async fn fill(cluster: &Cluster) -> Vec<Extra> {
    let names: Vec<String> = (0..CHANNELS).map(name).collect();
    let blocks = names.chunks(CHANNELS_PER_SOCKET).zip(cluster.nodes().iter().cycle());
    let mut sockets = join_all(blocks.map(|(channels, node)| occupy(node, channels))).await;
    for node in cluster.nodes() {
        sockets.push(occupy(node, &names[..SHARED]).await);
    }
    sockets
}

async fn occupy(node: &Server, channels: &[String]) -> Extra {
    let mut extra = Extra::connect(node.addr(), "key1").await;
    extra.subscribe(channels).await;
    extra
}

/// Every second name begins with `even-`.
fn name(n: usize) -> String {
    format!("{}-{n:06}", if n.is_multiple_of(2) { "even" } else { "odd" })
}

/// The first have a subscriber of their own and one on each node.
fn subscriptions(n: usize) -> usize {
    if n < SHARED { 3 } else { 1 }
}

/// Each question to each node, complete and exact.
async fn ask_all(nodes: &[Server]) {
    let counted: Map<String, Value> =
        (0..CHANNELS).map(|n| (name(n), json!({ "subscription_count": subscriptions(n) }))).collect();
    let bare: Map<String, Value> = counted.keys().map(|name| (name.clone(), json!({}))).collect();
    let even = |all: &Map<String, Value>| -> Map<String, Value> {
        let even = all.iter().filter(|(name, _)| name.starts_with("even-"));
        even.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    let (prefix, info) = (("filter_by_prefix", "even-"), ("info", "subscription_count"));
    for node in nodes {
        let caller = node.caller("1");
        expect_channels(&caller, &[], &bare).await;
        expect_channels(&caller, &[info], &counted).await;
        expect_channels(&caller, &[prefix], &even(&bare)).await;
        expect_channels(&caller, &[prefix, info], &even(&counted)).await;
        expect_channels(&caller, &[("filter_by_prefix", "odd-099999")], &one(&bare)).await;
    }
}

fn one(all: &Map<String, Value>) -> Map<String, Value> {
    all.iter().filter(|(name, _)| *name == "odd-099999").map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// No dump of a hundred thousand names: only what is not as it should be.
async fn expect_channels(caller: &Caller, query: &[(&str, &str)], expected: &Map<String, Value>) {
    let answer = caller.get("/channels", query).await.expect_ok();
    let found = answer["channels"].as_object().expect("an object");
    let wrong = expected.iter().find(|(name, value)| found.get(*name) != Some(*value));
    let wrong = wrong.map(|(name, value)| (name, value, found.get(name)));
    assert_eq!(wrong, None, "{query:?}: a channel, what it should be, what it is");
    assert_eq!(found.len(), expected.len(), "{query:?}");
}

/// Somebody else's work, which does not stop.
async fn publish_on(caller: &Caller) {
    loop {
        caller.publish("even-000000", "e", "x").await;
        caller.publish("elsewhere", "e", "x").await;
    }
}
