//! `message_rate_limit` (protocol.md 6): the rate limit of messages per connection.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{AppSpec, Server};

const FOUR_MESSAGES: &str = "{ enabled = true, max_attempts = 4, decay_seconds = 60 }";

#[tokio::test]
async fn message_rate_limit_counts_all_messages_except_pings() {
    let server =
        Server::builder().app(AppSpec::new("4").set("message_rate_limit", FOUR_MESSAGES)).start().await;
    let mut client = server.browser("key4").await;
    // Four messages of any kind, with pings between them.
    client.subscribe("news").await;
    client.settle().await;
    client.send_text("not json").await;
    client.expect_error().await;
    client.settle().await;
    client.send_message(Message::binary("x")).await;
    client.expect_error().await;
    client.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "olds" } })).await;
    // The next message exceeds the limit and has no effect.
    client.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
    let message = client.expect_error_code(4301).await;
    assert!(message.contains("4 messages per 60s"), "{message}");
    // An excess subscription receives a subscription error: without one, the client would
    // wait for the confirmation forever.
    client.request_subscription("olds").await;
    let error = client.expect_subscription_error("olds").await;
    assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4301)), "{error}");
    // The connection stays open and subscribed. Other connections are not affected.
    client.settle().await;
    server.caller("4").publish("news", "e", "").await;
    client.expect_event("news", "e").await;
    server.browser("key4").await.subscribe("news").await;
}

#[tokio::test]
async fn message_rate_limit_resets_with_the_next_window() {
    let rate = "{ enabled = true, max_attempts = 1, decay_seconds = 1 }";
    let server = Server::builder().app(AppSpec::new("4").set("message_rate_limit", rate)).start().await;
    let mut client = server.browser("key4").await;
    let began = Instant::now();
    client.subscribe("news").await;
    // Within the window each subscription is refused; in the next one it succeeds.
    loop {
        client.request_subscription("olds").await;
        let frame = client.next().await;
        if frame.event == "pusher_internal:subscription_succeeded" {
            break;
        }
        assert_eq!(frame.event, "pusher:subscription_error", "{}", frame.text);
        client.expect_error_code(4300).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test]
async fn message_rate_limit_with_terminate_on_limit_closes_the_connection() {
    let rate = "{ enabled = true, max_attempts = 1, decay_seconds = 60, terminate_on_limit = true }";
    let server = Server::builder().app(AppSpec::new("4").set("message_rate_limit", rate)).start().await;
    let mut client = server.browser("key4").await;
    client.subscribe("news").await;
    client.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
    client.expect_error_code(4301).await;
    assert_eq!(client.closed().await, 4100);
    server.caller("4").count_becomes("news", 0).await;
}
