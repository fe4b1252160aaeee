//! A node's crowd vanishes at once, as when a load balancer or a mobile network
//! fails: whoever comes back meanwhile is served before the tidying is over.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use crate::support::{Backend, Caller, Cluster, Extra, PATIENCE, Server, eventually};
use crate::witness::within;

const CROWD: usize = 15_000;
/// Channels that each of the crowd has for itself: nothing about them can be told
/// together.
const SEATS: usize = 3;
const NEWCOMERS: usize = 500;
/// Descriptors of either process that are no sockets of the crowd.
const OTHER_DESCRIPTORS: usize = 1_000;
/// Connects under way at once: the backlog of a listener is finite.
const CONNECTS_MAX: usize = 64;
const LIMIT: Duration = Duration::from_secs(150);

#[tokio::test]
async fn cluster_serves_newcomers_before_a_dropped_crowd_is_tidied_up() {
    within(LIMIT, async {
        let cluster = Cluster::start(Backend::Redis).await;
        let size = crowd_size();
        let crowd = come(cluster.first(), size, wanted_by_crowd).await;
        let (first, second) = (cluster.first().caller("1"), cluster.second().caller("1"));
        assert_eq!(second.subscription_count("stadium").await, size);
        let occupied = seats(&second).await;
        assert_eq!(occupied, size * SEATS);

        crowd.into_iter().for_each(Extra::reset);
        let begun = eventually("the first seat left", PATIENCE, async || match seats(&second).await {
            left if left < occupied => Ok(left),
            _ => Err("none".to_owned()),
        })
        .await;
        // A third of them goes where the crowd has been.
        let newcomers = come(cluster.first(), NEWCOMERS, |n| match n % 3 {
            0 => vec!["stadium".into()],
            1 => vec!["lobby".into()],
            _ => vec![format!("lobby-{n}")],
        })
        .await;
        // Seats are only ever left: who was served last was served before this.
        let left = seats(&second).await;
        println!("seats: {occupied}; {begun} when the first of {NEWCOMERS} came, {left} when all were in");
        assert!(left > 0, "someone was served when it was all over");

        for caller in [&first, &second] {
            eventually("all seats left", LIMIT, async || match seats(caller).await {
                0 => Ok(()),
                left => Err(left.to_string()),
            })
            .await;
            caller.count_becomes("stadium", NEWCOMERS.div_ceil(3)).await;
            caller.count_becomes("lobby", (NEWCOMERS - 1).div_ceil(3)).await;
        }
        newcomers.into_iter().for_each(Extra::reset);
        for caller in [&first, &second] {
            eventually("nothing occupied", PATIENCE, async || {
                let answer = caller.get("/channels", &[]).await.expect_ok();
                if answer == json!({ "channels": {} }) { Ok(()) } else { Err(answer.to_string()) }
            })
            .await;
            assert_eq!(caller.subscription_count("stadium").await, 0);
        }
    })
    .await;
}

/// Each of `count` sockets is subscribed to the channels that it wants.
async fn come(node: &Server, count: usize, wants: impl Fn(usize) -> Vec<String>) -> Vec<Extra> {
    let wants = &wants;
    let one = |n| async move {
        let mut extra = Extra::connect(node.addr(), "key1").await;
        extra.subscribe(&wants(n)).await;
        extra
    };
    futures_util::stream::iter(0..count).map(one).buffer_unordered(CONNECTS_MAX).collect().await
}

fn wanted_by_crowd(n: usize) -> Vec<String> {
    let seats = (0..SEATS).map(|seat| format!("seat-{n}-{seat}"));
    seats.chain(["stadium".to_owned()]).collect()
}

/// Seats that the cluster takes for occupied.
async fn seats(caller: &Caller) -> usize {
    let answer = caller.get("/channels", &[("filter_by_prefix", "seat-")]).await.expect_ok();
    answer["channels"].as_object().expect("an object").len()
}

/// The node has one end of each socket and this process the other.
fn crowd_size() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let size = CROWD.min(soft.saturating_sub(OTHER_DESCRIPTORS));
    if size < CROWD {
        println!("only {size} sockets, not {CROWD}: `ulimit -n` is {soft}");
    }
    size
}
