//! `message_rate_limit` (protocol.md 6): how often one connection may speak.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{AppSpec, Server};

const FOUR: &str = "{ enabled = true, max_attempts = 4, decay_seconds = 60 }";

#[tokio::test]
async fn all_messages_of_a_connection_are_counted_but_pings() {
    let server = Server::builder().app(AppSpec::new("4").set("message_rate_limit", FOUR)).start().await;
    let mut ann = server.browser("key4").await;
    // Four of any kind, with pings between them.
    ann.subscribe("news").await;
    ann.settle().await;
    ann.send_text("not json").await;
    ann.expect_error().await;
    ann.settle().await;
    ann.send_message(Message::binary("x")).await;
    ann.expect_error().await;
    ann.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "olds" } })).await;
    // The next is one too many, and has no effect.
    ann.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
    let message = ann.expect_error_code(4301).await;
    assert!(message.contains("4 messages per 60s"), "{message}");
    // A subscription is refused as one: its channel would be pending for ever.
    ann.ask_for("olds", json!({})).await;
    let error = ann.expect_subscription_error("olds").await;
    assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4301)), "{error}");
    // It is alive, still subscribed, and others are not concerned.
    ann.settle().await;
    server.caller("4").publish("news", "e", "").await;
    ann.expect_event("news", "e").await;
    server.browser("key4").await.subscribe("news").await;
}

#[tokio::test]
async fn a_new_window_is_a_new_start() {
    let rate = "{ enabled = true, max_attempts = 1, decay_seconds = 1 }";
    let server = Server::builder().app(AppSpec::new("4").set("message_rate_limit", rate)).start().await;
    let mut ann = server.browser("key4").await;
    let began = Instant::now();
    ann.subscribe("news").await;
    // Until the window has ended, each is refused; then one gets through.
    loop {
        ann.ask_for("olds", json!({})).await;
        let frame = ann.next().await;
        if frame.event == "pusher_internal:subscription_succeeded" {
            break;
        }
        assert_eq!(frame.event, "pusher:subscription_error", "{}", frame.text);
        ann.expect_error_code(4300).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn an_app_may_close_who_says_too_much() {
    let rate = "{ enabled = true, max_attempts = 1, decay_seconds = 60, terminate_on_limit = true }";
    let server = Server::builder().app(AppSpec::new("4").set("message_rate_limit", rate)).start().await;
    let mut ann = server.browser("key4").await;
    ann.subscribe("news").await;
    ann.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
    ann.expect_error_code(4301).await;
    assert_eq!(ann.closed().await, 4100);
    server.caller("4").count_becomes("news", 0).await;
}
