//! Keeping a socket alive (protocol.md 2.2).

use bytes::Bytes;
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Incoming;
use crate::support::{PATIENCE, Server};

#[tokio::test]
async fn a_ping_is_answered() {
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
async fn a_websocket_ping_is_answered() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    browser.send_message(Message::Ping(Bytes::from_static(b"are you there"))).await;
    assert_eq!(browser.expect_websocket_pong().await, "are you there");
}

#[tokio::test]
async fn the_timeout_is_the_configured_one() {
    let server = Server::builder().config("activity_timeout = 7").start().await;
    let mut browser = server.connect("/app/key1?protocol=7").await;
    assert_eq!(browser.expect_greeting().await.data_json()["activity_timeout"], 7);
}

#[tokio::test]
async fn a_silent_socket_is_asked_whether_it_lives() {
    // As long it waits for the answer, too.
    let server = Server::builder().config("activity_timeout = 3").start().await;
    let mut browser = server.browser("key1").await;
    for _ in 0..2 {
        let frame = browser.next().await;
        assert_eq!(frame.event, "pusher:ping", "{}", frame.text);
        browser.send(json!({ "event": "pusher:pong", "data": {} })).await;
    }
    // It lives, and is served.
    browser.subscribe("news").await;
}

/// The server waits no longer for the answer than it waited before it asked.
#[tokio::test]
async fn a_socket_that_does_not_answer_is_closed() {
    let server = Server::builder().config("activity_timeout = 1").start().await;
    let mut browser = server.browser("key1").await;
    let Incoming::Frame(ping) = browser.next_within(PATIENCE).await else { panic!("a ping comes first") };
    assert_eq!(ping.event, "pusher:ping");
    let end = browser.next_within(PATIENCE).await;
    assert!(matches!(end, Incoming::Closed(4201)), "{end:?}");
}
