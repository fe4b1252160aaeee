//! Opening a WebSocket (protocol.md 2.1).

use std::collections::BTreeSet;

use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{Backend, Cluster, PATIENCE, Server, Signal, http, on_both_backends};

on_both_backends![no_two_sockets_have_the_same_id];

#[tokio::test]
async fn a_socket_is_greeted_with_its_id() {
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

/// A connection for which there is no room to wait is not answered at all, and its
/// client sends again after a second.
#[tokio::test]
async fn a_crowd_that_comes_at_once_has_room_to_wait() {
    let server = Server::builder().start().await;
    server.signal(Signal::Stop);
    let mut crowd = Vec::new();
    for number in 0..500 {
        let connected = timeout(PATIENCE, TcpStream::connect(server.addr())).await;
        crowd.push(connected.unwrap_or_else(|_| panic!("no room for {number}")).unwrap());
    }
    server.signal(Signal::Continue);
    server.browser("key1").await;
}

async fn no_two_sockets_have_the_same_id(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        for node in cluster.nodes() {
            assert!(ids.insert(node.browser("key1").await.socket_id().to_owned()));
        }
    }
}

#[tokio::test]
async fn protocols_four_to_seven_are_spoken() {
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

/// The upgrade is accepted and the socket closed with a code: an HTTP status
/// would be a 1006 in browsers, which makes them try for ever.
#[tokio::test]
async fn whoever_may_not_connect_is_told_by_a_close_code() {
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
async fn unknown_path_is_not_found_by_a_plain_request_and_closed_for_a_socket() {
    let server = Server::builder().start().await;
    for path in ["/nothing", "/app", "/apps/1/events/more", "/app/key1/more"] {
        assert_eq!(server.connect(path).await.closed().await, 4005, "{path}");
        server.get(path).await.expect_refused(404);
    }
}

#[tokio::test]
async fn a_plain_request_for_a_socket_is_refused_in_json() {
    let server = Server::builder().start().await;
    let answer = server.get("/app/key1?protocol=7").await;
    assert!([400, 426].contains(&answer.status), "{}", answer.status);
    answer.expect_refused(answer.status);
    http::request(server.addr(), "POST", "/app/key1").await.expect_refused(405);
}

#[tokio::test]
async fn a_closed_socket_leaves_the_others_alone() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut audience = cluster.listeners(&["news"]).await;
    let mut leaves = cluster.first().browser("key1").await;
    leaves.subscribe("news").await;
    leaves.close().await;
    drop(cluster.first().connect("/app/key1").await);
    caller.publish("news", "still-here", "").await;
    audience.expect_event("news", "still-here").await;
}

#[tokio::test]
async fn a_server_shows_that_it_lives() {
    let server = Server::builder().start().await;
    assert_eq!(server.get("/live").await.status, 200);
    assert_eq!(server.get("/ready").await.status, 200);
    assert_eq!(server.get("/up").await.status, 200);
    let _browser = server.browser("key1").await;
    assert!(!server.metrics().await.0.is_empty());
}
