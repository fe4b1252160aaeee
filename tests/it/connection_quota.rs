//! `max_connections`: how many sockets an app may have, over all nodes.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::browser::Incoming;
use crate::support::server::AppSpec;
use crate::support::{
    Backend, Browser, Cluster, PATIENCE, Redis, Server, bounded, eventually, on_both_backends,
};

on_both_backends![
    one_more_than_the_limit_is_refused,
    whoever_leaves_makes_room,
    of_many_that_come_at_once_exactly_the_limit_get_in,
];

const PATH: &str = "/app/key5?protocol=7&client=js&version=8.6.0&flash=false";

fn app(connections_max: usize) -> AppSpec {
    AppSpec::new("5").set("max_connections", connections_max)
}

/// Connects, or is told why not.
async fn enter(node: &Server) -> Result<Browser, u16> {
    let mut browser = node.connect(PATH).await;
    match browser.incoming().await {
        Incoming::Frame(frame) if frame.event == "pusher:connection_established" => Ok(browser),
        Incoming::Frame(frame) => {
            assert_eq!((frame.event.as_str(), &frame.data["code"]), ("pusher:error", &4004.into()));
            Err(browser.closed().await)
        }
        other => panic!("expected a frame, got {other:?}"),
    }
}

async fn get_in(node: &Server) -> Browser {
    enter(node).await.unwrap_or_else(|code| panic!("closed with {code}"))
}

async fn expect_full(node: &Server) {
    assert_eq!(enter(node).await.err(), Some(4004));
}

/// Whoever leaves is not told when the cluster knows it.
async fn gets_in_soon(node: &Server, within: Duration) -> Browser {
    eventually("room for one more", within, async || {
        enter(node).await.map_err(|code| format!("closed with {code}"))
    })
    .await
}

async fn one_more_than_the_limit_is_refused(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app(3)).start().await;
    let _one = get_in(cluster.first()).await;
    let _two = get_in(cluster.second()).await;
    let _three = get_in(cluster.first()).await;
    for node in cluster.nodes() {
        expect_full(node).await;
        // Other apps are not concerned.
        node.browser("key1").await.settle().await;
    }
    let closed = cluster.first().metrics().await;
    assert_eq!(closed.0[r#"fanfare_connections_closed_total{reason="over_connection_quota"}"#], 1.0);
}

async fn whoever_leaves_makes_room(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app(2)).start().await;
    let (first, second) = (cluster.first(), cluster.second());
    let mut here = get_in(first).await;
    let mut there = get_in(second).await;
    for _ in 0..5 {
        expect_full(first).await;
        here.close().await;
        // Taken on the other node, and the other way round.
        let again = gets_in_soon(second, PATIENCE).await;
        expect_full(second).await;
        drop(there);
        here = gets_in_soon(first, PATIENCE).await;
        there = again;
    }
    here.settle().await;
    there.settle().await;
}

async fn of_many_that_come_at_once_exactly_the_limit_get_in(backend: Backend) {
    const LIMIT: usize = 40;
    let cluster = Cluster::builder(backend).app(app(LIMIT)).start().await;
    let nodes = cluster.nodes();
    let all = join_all((0..4 * LIMIT).map(|number| enter(&nodes[number % nodes.len()]))).await;
    let (mut inside, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((inside.len(), refused.len()), (LIMIT, 3 * LIMIT));
    for node in nodes {
        expect_full(node).await;
    }
    for browser in inside.iter_mut().flatten() {
        browser.settle().await;
    }
    drop(inside);
    all_have_left(&cluster, LIMIT).await;
}

/// Waits until each node could take them all: nobody is left behind in a count.
async fn all_have_left(cluster: &Cluster, limit: usize) {
    for node in cluster.nodes() {
        eventually("room for all", PATIENCE, async || {
            let all = join_all((0..limit).map(|_| enter(node))).await;
            let inside: Vec<Browser> = all.into_iter().flatten().collect();
            let count = inside.len();
            join_all(inside.into_iter().map(Browser::close)).await;
            if count == limit { Ok(()) } else { Err(format!("{count} got in")) }
        })
        .await;
    }
}

async fn two_nodes(redis: &Redis, limit: usize) -> (Server, Server) {
    let node = |name: &str| Server::builder().name(name).app(app(limit)).redis(redis).start();
    tokio::join!(node("node a"), node("node b"))
}

/// What a dead node held is free again when its lease has run out.
#[tokio::test]
async fn a_killed_node_leaves_its_share() {
    bounded(async {
        let redis = Redis::start().await;
        let (mut dies, lives) = two_nodes(&redis, 3).await;
        let _gone = (get_in(&dies).await, get_in(&dies).await);
        let _one = get_in(&lives).await;
        expect_full(&lives).await;
        dies.kill9();
        let _two = gets_in_soon(&lives, 3 * PATIENCE).await;
        let _three = gets_in_soon(&lives, PATIENCE).await;
        expect_full(&lives).await;
    })
    .await;
}

/// Without Redis everybody is let in. When it is back, empty, each node says its
/// number again, and the limit holds.
#[tokio::test]
async fn without_redis_everybody_gets_in_and_is_counted_later() {
    bounded(async {
        let mut redis = Redis::start().await;
        let (a, b) = two_nodes(&redis, 2).await;
        let mut here = vec![get_in(&a).await];
        let there = get_in(&b).await;
        expect_full(&a).await;
        redis.kill();
        for _ in 0..3 {
            here.push(get_in(&a).await);
        }
        redis.restart().await;
        // It takes the other node's number to know that there is no room here.
        eventually("the limit holds again", Duration::from_secs(30), async || match enter(&b).await {
            Err(4004) => Ok(()),
            other => Err(format!("{:?}", other.map(drop))),
        })
        .await;
        // Five are there and two allowed: it takes four to leave before one gets in.
        for browser in here.drain(1..) {
            browser.close().await;
            expect_full(&b).await;
        }
        there.close().await;
        gets_in_soon(&b, PATIENCE).await.settle().await;
        assert!(a.metrics().await.sum("fanfare_connection_limits_unenforced_total") >= 1.0);
    })
    .await;
}
