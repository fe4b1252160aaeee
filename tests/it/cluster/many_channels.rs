//! A cluster with 100,000 occupied channels lists all of them, and the query does not
//! block Redis for other commands (protocol.md 1.5).

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Map, Value, json};

use crate::support::resp::Reply;
use crate::support::{Backend, BulkClient, Caller, Cluster, Server, within};

const CHANNELS: usize = 100_000;
/// The default limit of subscriptions per connection.
const CHANNELS_PER_SOCKET: usize = 1_000;
/// Channels with an additional subscriber on each node.
const SHARED: usize = 1_000;
/// Upper bound of the time, in µs, for which one command may block Redis.
const SLOW_MICROS: &str = "10000";
/// On a busy machine any command may exceed the bound once. A command that blocks Redis exceeds it
/// in each round.
const ROUNDS_MAX: usize = 5;
const LIMIT: Duration = Duration::from_secs(180);

#[tokio::test]
async fn cluster_channel_query_of_100_000_channels_does_not_block_redis() {
    within(LIMIT, async {
        let cluster = Cluster::start(Backend::Redis).await;
        let _sockets = fill(&cluster).await;
        let redis = cluster.redis();
        redis.command(&["CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROS]).await;
        let publisher = cluster.second().caller("1");
        let mut always_slow: Option<BTreeSet<String>> = None;
        for round in 1..=ROUNDS_MAX {
            redis.command(&["SLOWLOG", "RESET"]).await;
            tokio::select! {
                () = publish_forever(&publisher) => unreachable!("the publisher never ends"),
                () = query_all(&cluster.nodes) => {}
            }
            let slow = slow_commands(&redis.command(&["SLOWLOG", "GET", "-1"]).await);
            println!("slow commands of round {round}: {slow:?}");
            let still_slow = always_slow.map_or(slow.clone(), |before| &before & &slow);
            if still_slow.is_empty() {
                return;
            }
            always_slow = Some(still_slow);
        }
        panic!("slower than {SLOW_MICROS} µs in each round: {always_slow:#?}");
    })
    .await;
}

/// The commands of a slow log, each with its script or key.
fn slow_commands(log: &Reply) -> BTreeSet<String> {
    let Reply::Array(entries) = log else { panic!("not a slow log: {log:?}") };
    let words = |entry: &Reply| match entry {
        Reply::Array(fields) => match &fields[3] {
            Reply::Array(words) => words.iter().take(4).map(Reply::text).collect::<Vec<_>>().join(" "),
            other => panic!("not a command: {other:?}"),
        },
        other => panic!("not an entry: {other:?}"),
    };
    entries.iter().map(words).collect()
}

/// Each node has the subscribers of half of the channels. The first `SHARED` channels
/// have subscribers on both nodes.
async fn fill(cluster: &Cluster) -> Vec<BulkClient> {
    let names: Vec<String> = (0..CHANNELS).map(name).collect();
    let blocks = names.chunks(CHANNELS_PER_SOCKET).zip(cluster.nodes.iter().cycle());
    let mut sockets = join_all(blocks.map(|(channels, node)| occupy(node, channels))).await;
    for node in &cluster.nodes {
        sockets.push(occupy(node, &names[..SHARED]).await);
    }
    sockets
}

async fn occupy(node: &Server, channels: &[String]) -> BulkClient {
    let mut client = BulkClient::connect(node.addr(), "key1").await;
    client.subscribe(channels).await;
    client
}

/// Names of even numbers begin with `even-`.
fn name(n: usize) -> String {
    format!("{}-{n:06}", if n.is_multiple_of(2) { "even" } else { "odd" })
}

/// The first `SHARED` channels have one subscriber of their block and one on each node.
fn subscriptions(n: usize) -> usize {
    if n < SHARED { 3 } else { 1 }
}

/// Sends every form of the query to each node and expects the exact result.
async fn query_all(nodes: &[Server]) {
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

/// On a mismatch, prints the first wrong channel and not 100,000 names.
async fn expect_channels(caller: &Caller, query: &[(&str, &str)], expected: &Map<String, Value>) {
    let answer = caller.get("/channels", query).await.expect_ok();
    let found = answer["channels"].as_object().expect("an object");
    let wrong = expected.iter().find(|(name, value)| found.get(*name) != Some(*value));
    let wrong = wrong.map(|(name, value)| (name, value, found.get(name)));
    assert_eq!(wrong, None, "{query:?}: channel, expected value, actual value");
    assert_eq!(found.len(), expected.len(), "{query:?}");
}

/// Concurrent load on Redis; never returns.
async fn publish_forever(caller: &Caller) {
    loop {
        caller.publish("even-000000", "e", "x").await;
        caller.publish("elsewhere", "e", "x").await;
    }
}
