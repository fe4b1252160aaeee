//! The keepalive of a socket (protocol.md 2.2).

use bytes::Bytes;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Incoming;
use crate::support::{STEP_TIMEOUT, Server};

#[tokio::test]
async fn pusher_ping_is_answered_with_pong() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    for ping in [
        r#"{"event":"pusher:ping","data":{}}"#,
        r#"{"event":"pusher:ping","data":"{}"}"#,
        r#"{"event":"pusher:ping","data":null}"#,
        r#"{"event":"pusher:ping"}"#,
    ] {
        browser.send_text(ping).await;
        assert_eq!(browser.next().await.text, r#"{"event":"pusher:pong","data":"{}"}"#, "{ping}");
    }
}

#[tokio::test]
async fn websocket_ping_is_answered_with_pong() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    browser.send_message(Message::Ping(Bytes::from_static(b"are you there"))).await;
    assert_eq!(browser.expect_websocket_pong().await, "are you there");
}

#[tokio::test]
async fn activity_timeout_is_taken_from_configuration() {
    let server = Server::builder().config("activity_timeout = 7").start().await;
    let mut browser = server.connect("/app/key1?protocol=7").await;
    assert_eq!(browser.expect_greeting().await.data_json()["activity_timeout"], 7);
}

#[tokio::test]
async fn silent_socket_receives_ping_and_stays_open_after_pong() {
    // The pong timeout is as long.
    let server = Server::builder().config("activity_timeout = 3").start().await;
    let mut browser = server.browser("key1").await;
    for _ in 0..2 {
        let frame = browser.next().await;
        assert_eq!(frame.event, "pusher:ping", "{}", frame.text);
        browser.send(json!({ "event": "pusher:pong", "data": {} })).await;
    }
    // The socket is alive and usable.
    browser.subscribe("news").await;
}

/// The pong timeout is at most the silence before the ping.
#[tokio::test]
async fn socket_without_pong_is_closed_with_4201() {
    let server = Server::builder().config("activity_timeout = 1").start().await;
    let mut browser = server.browser("key1").await;
    let Incoming::Frame(ping) = browser.incoming_within(STEP_TIMEOUT).await else {
        panic!("a ping comes first")
    };
    assert_eq!(ping.event, "pusher:ping");
    let end = browser.incoming_within(STEP_TIMEOUT).await;
    assert!(matches!(end, Incoming::Closed(4201)), "{end:?}");
}
