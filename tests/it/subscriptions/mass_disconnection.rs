//! A node loses many connections at once, as when a load balancer or a mobile network
//! fails. New subscribers are confirmed before the node has cleared the old
//! subscriptions.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Backend, BulkClient, Caller, Cluster, STEP_TIMEOUT, Server, eventually, within};

const SOCKETS: usize = 15_000;
/// Channels of which a socket is the only subscriber. Their membership updates cannot
/// be merged across sockets.
const OWN_CHANNELS: usize = 3;
const NEW_SUBSCRIBERS: usize = 500;
/// File descriptors of either process that are not among the dropped sockets.
const OTHER_DESCRIPTORS: usize = 1_000;
/// Concurrent connection attempts; the backlog of a listener is finite.
const CONCURRENT_CONNECTS_MAX: usize = 64;
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn cluster_new_subscribers_are_confirmed_while_dropped_sockets_are_cleared() {
    within(LIMIT, async {
        let cluster = Cluster::start(Backend::Redis).await;
        let size = socket_count();
        let dropped = connect(cluster.first(), size, channels_of_socket).await;
        let (first, second) = (cluster.first().caller("1"), cluster.second().caller("1"));
        assert_eq!(second.subscription_count("stadium").await, size);
        let occupied = occupied_own(&second).await;
        assert_eq!(occupied, size * OWN_CHANNELS);

        dropped.into_iter().for_each(BulkClient::reset);
        let after_first = eventually("the first channel vacated", STEP_TIMEOUT, async || match occupied_own(&second).await {
            left if left < occupied => Ok(left),
            _ => Err("none".to_owned()),
        })
        .await;
        // A third of them subscribes to a channel that the dropped sockets share.
        let new_subscribers = connect(cluster.first(), NEW_SUBSCRIBERS, |n| match n % 3 {
            0 => vec!["stadium".into()],
            1 => vec!["lobby".into()],
            _ => vec![format!("lobby-{n}")],
        })
        .await;
        // The count only decreases: above 0 here, it was above 0 at every confirmation.
        let left = occupied_own(&second).await;
        println!(
            "occupied channels: {occupied}; {after_first} before the first of {NEW_SUBSCRIBERS} new subscribers, \
             {left} after the last"
        );
        assert!(left > 0, "the last new subscriber was confirmed after all channels were vacated");

        for caller in [&first, &second] {
            eventually("all own channels vacated", LIMIT, async || match occupied_own(caller).await {
                0 => Ok(()),
                left => Err(left.to_string()),
            })
            .await;
            caller.count_becomes("stadium", NEW_SUBSCRIBERS.div_ceil(3)).await;
            caller.count_becomes("lobby", (NEW_SUBSCRIBERS - 1).div_ceil(3)).await;
        }
        new_subscribers.into_iter().for_each(BulkClient::reset);
        for caller in [&first, &second] {
            eventually("nothing occupied", STEP_TIMEOUT, async || {
                let answer = caller.get("/channels", &[]).await.expect_ok();
                if answer == json!({ "channels": {} }) { Ok(()) } else { Err(answer.to_string()) }
            })
            .await;
            assert_eq!(caller.subscription_count("stadium").await, 0);
        }
    })
    .await;
}

/// Opens `count` sockets; socket `n` subscribes to `channels(n)`.
async fn connect(node: &Server, count: usize, channels: impl Fn(usize) -> Vec<String>) -> Vec<BulkClient> {
    let channels = &channels;
    let one = |n| async move {
        let mut client = BulkClient::connect(node.addr(), "key1").await;
        client.subscribe(&channels(n)).await;
        client
    };
    futures_util::stream::iter(0..count).map(one).buffer_unordered(CONCURRENT_CONNECTS_MAX).collect().await
}

fn channels_of_socket(n: usize) -> Vec<String> {
    let own = (0..OWN_CHANNELS).map(|at| format!("own-{n}-{at}"));
    own.chain(["stadium".to_owned()]).collect()
}

/// How many of the channels with a single subscriber are occupied in the cluster.
async fn occupied_own(caller: &Caller) -> usize {
    let answer = caller.get("/channels", &[("filter_by_prefix", "own-")]).await.expect_ok();
    answer["channels"].as_object().expect("an object").len()
}

/// `SOCKETS`, or fewer if `ulimit -n` is lower: the node and this process each hold one
/// file descriptor per socket.
fn socket_count() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let size = SOCKETS.min(soft.saturating_sub(OTHER_DESCRIPTORS));
    if size < SOCKETS {
        println!("only {size} sockets, not {SOCKETS}: `ulimit -n` is {soft}");
    }
    size
}
