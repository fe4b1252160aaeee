//! `max_connections`: the connection limit of an app, over all nodes.

use std::time::Duration;

use futures_util::future::join_all;

use crate::support::browser::Incoming;
use crate::support::server::AppSpec;
use crate::support::{
    Backend, Browser, Cluster, STEP_TIMEOUT, Server, bounded, eventually, on_both_backends,
};

on_both_backends![
    connection_over_limit_is_refused,
    closed_connection_frees_one_for_any_node,
    concurrent_connections_are_accepted_exactly_up_to_limit,
];

const PATH: &str = "/app/key5?protocol=7&client=js&version=8.6.0&flash=false";

fn app(connections_max: usize) -> AppSpec {
    AppSpec::new("5").set("max_connections", connections_max)
}

/// Connects, or returns the code of the refusal.
async fn try_connect(node: &Server) -> Result<Browser, u16> {
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

async fn connect(node: &Server) -> Browser {
    try_connect(node).await.unwrap_or_else(|code| panic!("closed with {code}"))
}

async fn expect_full(node: &Server) {
    assert_eq!(try_connect(node).await.err(), Some(4004));
}

/// No event reports that the cluster has counted a closed connection.
async fn connect_soon(node: &Server, within: Duration) -> Browser {
    eventually("one more connection is accepted", within, async || {
        try_connect(node).await.map_err(|code| format!("closed with {code}"))
    })
    .await
}

async fn connection_over_limit_is_refused(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app(3)).start().await;
    let _one = connect(cluster.first()).await;
    let _two = connect(cluster.second()).await;
    let _three = connect(cluster.first()).await;
    for node in &cluster.nodes {
        expect_full(node).await;
        // Other apps are not affected.
        node.browser("key1").await.settle().await;
    }
    let closed = cluster.first().metrics().await;
    assert_eq!(closed.0[r#"fanfare_connections_closed_total{reason="over_connection_quota"}"#], 1.0);
}

async fn closed_connection_frees_one_for_any_node(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app(2)).start().await;
    let (first, second) = (cluster.first(), cluster.second());
    let mut here = connect(first).await;
    let mut there = connect(second).await;
    for _ in 0..5 {
        expect_full(first).await;
        here.close().await;
        // The other node takes the free connection, and in the other direction.
        let again = connect_soon(second, STEP_TIMEOUT).await;
        expect_full(second).await;
        drop(there);
        here = connect_soon(first, STEP_TIMEOUT).await;
        there = again;
    }
    here.settle().await;
    there.settle().await;
}

async fn concurrent_connections_are_accepted_exactly_up_to_limit(backend: Backend) {
    const LIMIT: usize = 40;
    let cluster = Cluster::builder(backend).app(app(LIMIT)).start().await;
    let nodes = &cluster.nodes;
    let all = join_all((0..4 * LIMIT).map(|number| try_connect(&nodes[number % nodes.len()]))).await;
    let (mut accepted, refused): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!((accepted.len(), refused.len()), (LIMIT, 3 * LIMIT));
    for node in nodes {
        expect_full(node).await;
    }
    for browser in accepted.iter_mut().flatten() {
        browser.settle().await;
    }
    drop(accepted);
    wait_until_all_free(&cluster, LIMIT).await;
}

/// Waits until each node can accept all of them: no closed connection is still
/// counted.
async fn wait_until_all_free(cluster: &Cluster, limit: usize) {
    for node in &cluster.nodes {
        eventually("all connections are accepted", STEP_TIMEOUT, async || {
            let all = join_all((0..limit).map(|_| try_connect(node))).await;
            let accepted: Vec<Browser> = all.into_iter().flatten().collect();
            let count = accepted.len();
            join_all(accepted.into_iter().map(Browser::close)).await;
            if count == limit { Ok(()) } else { Err(format!("{count} accepted")) }
        })
        .await;
    }
}

/// The connections of a dead node are free again when its lease has expired.
#[tokio::test]
async fn connections_of_killed_node_are_freed_after_lease_expiry() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).app(app(3)).quick_detection().start().await;
        let _gone = (connect(&cluster.nodes[0]).await, connect(&cluster.nodes[0]).await);
        let _one = connect(&cluster.nodes[1]).await;
        expect_full(&cluster.nodes[1]).await;
        cluster.nodes[0].kill9();
        let live_node = &cluster.nodes[1];
        let _two = connect_soon(live_node, 3 * STEP_TIMEOUT).await;
        let _three = connect_soon(live_node, STEP_TIMEOUT).await;
        expect_full(live_node).await;
    })
    .await;
}

/// Without Redis, every connection is accepted. When Redis is back, empty, each
/// node reports its count again, and the limit applies.
#[tokio::test]
async fn connections_without_redis_are_accepted_and_counted_later() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).app(app(2)).quick_detection().start().await;
        let mut here = vec![connect(cluster.first()).await];
        let there = connect(cluster.second()).await;
        expect_full(cluster.first()).await;
        cluster.redis_mut().kill();
        for _ in 0..3 {
            here.push(connect(cluster.first()).await);
        }
        cluster.redis_mut().restart().await;
        // In this order: a refusal by the first node is the reply to a report of its count, and
        // the second node is refused because of that count, not of its own earlier probes.
        for node in &cluster.nodes {
            eventually("the limit applies again", Duration::from_secs(30), async || {
                match try_connect(node).await {
                    Err(4004) => Ok(()),
                    other => Err(format!("{:?}", other.map(drop))),
                }
            })
            .await;
        }
        // Five are connected and two allowed: four must close before one is
        // accepted.
        for browser in here.drain(1..) {
            browser.close().await;
            expect_full(cluster.second()).await;
        }
        there.close().await;
        connect_soon(cluster.second(), STEP_TIMEOUT).await.settle().await;
        assert!(cluster.first().metrics().await.sum("fanfare_connection_limits_unenforced_total") >= 1.0);
    })
    .await;
}
