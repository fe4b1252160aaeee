//! Opening a WebSocket (protocol.md 2.1).

use std::collections::BTreeSet;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Backend, Cluster, STEP_TIMEOUT, Server, Signal, http, on_both_backends};

on_both_backends![socket_ids_are_unique];

#[tokio::test]
async fn connection_established_carries_socket_id_and_activity_timeout() {
    let server = Server::builder().start().await;
    let mut browser = server.connect("/app/key1?protocol=7&client=js&version=8.6.0&flash=false").await;
    let frame = browser.expect_greeting().await;
    let id = browser.socket_id();
    // `data` is a string, and pusher-js throws without an activity_timeout.
    assert_eq!(frame.data_json(), serde_json::json!({ "socket_id": id, "activity_timeout": 120 }));
    assert_eq!(frame.channel, None);
    let (left, right) = id.split_once('.').unwrap();
    for half in [left, right] {
        assert!(!half.is_empty() && half.bytes().all(|byte| byte.is_ascii_digit()), "{id}");
    }
}

/// The kernel drops a connection that does not fit into the accept backlog, and its
/// client retries after a second.
#[tokio::test]
async fn accept_backlog_holds_five_hundred_connections() {
    let server = Server::builder().start().await;
    server.signal(Signal::Stop);
    let mut connections = Vec::new();
    for number in 0..500 {
        let connected = timeout(STEP_TIMEOUT, TcpStream::connect(server.addr())).await;
        connections.push(
            connected.unwrap_or_else(|_| panic!("connection {number} did not fit into the backlog")).unwrap(),
        );
    }
    server.signal(Signal::Continue);
    server.browser("key1").await;
}

async fn socket_ids_are_unique(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        for node in &cluster.nodes {
            assert!(ids.insert(node.browser("key1").await.socket_id().to_owned()));
        }
    }
}

#[tokio::test]
async fn protocol_versions_four_to_seven_are_supported() {
    let server = Server::builder().start().await;
    for query in [
        "",
        "?protocol=4",
        "?protocol=5",
        "?protocol=6",
        "?protocol=7",
        "?client=js&version=8.6.0",
        "?flash=false&protocol=7&format=json&echo_messages=true&append_mode=delta&token=&nonsense",
    ] {
        let mut browser = server.connect(&format!("/app/key1{query}")).await;
        browser.expect_greeting().await;
        browser.subscribe("news").await;
    }
}

/// The server accepts the upgrade and closes the socket with a code: browsers
/// report an HTTP status as 1006, and retry for ever.
#[tokio::test]
async fn refused_connection_is_closed_with_code() {
    let server = Server::builder().start().await;
    for (path, code) in [
        ("/app/nobody?protocol=7", 4001),
        ("/app/secret1?protocol=7", 4001),
        ("/app/1?protocol=7", 4001),
        ("/app/key3?protocol=7", 4003),
        ("/app/key3", 4003),
        ("/app/key1?protocol=1", 4007),
        ("/app/key1?protocol=8", 4007),
        ("/app/key1?protocol=3", 4007),
        ("/app/key1?protocol=abc", 4006),
        ("/app/key1?protocol=7.0", 4006),
    ] {
        assert_eq!(server.connect(path).await.closed().await, code, "{path}");
    }
    server.browser("key1").await.subscribe("news").await;
}

#[tokio::test]
async fn unknown_path_returns_404_for_http_and_closes_websocket() {
    let server = Server::builder().start().await;
    for path in ["/nothing", "/app", "/apps/1/events/more", "/app/key1/more"] {
        assert_eq!(server.connect(path).await.closed().await, 4005, "{path}");
        server.get(path).await.expect_refused(404);
    }
}

#[tokio::test]
async fn http_request_to_websocket_path_is_refused_in_json() {
    let server = Server::builder().start().await;
    let answer = server.get("/app/key1?protocol=7").await;
    assert!([400, 426].contains(&answer.status), "{}", answer.status);
    answer.expect_refused(answer.status);
    http::request(server.addr(), "POST", "/app/key1").await.expect_refused(405);
}

#[tokio::test]
async fn closed_socket_does_not_affect_others() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let mut leaving = cluster.first().browser("key1").await;
    leaving.subscribe("news").await;
    leaving.close().await;
    drop(cluster.first().connect("/app/key1").await);
    caller.publish("news", "still-here", "").await;
    subscribers.expect_event("news", "still-here").await;
}

#[tokio::test]
async fn health_endpoints_return_200() {
    let server = Server::builder().start().await;
    assert_eq!(server.get("/live").await.status, 200);
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(server.get("/up").await.status, 200);
    let _browser = server.browser("key1").await;
    assert!(!server.metrics().await.0.is_empty());
}
