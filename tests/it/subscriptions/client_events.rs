//! Client events (protocol.md 2.7): from one subscriber to all others.

use fanfare::limits;
use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![
    client_event_reaches_all_subscribers_except_sender,
    client_event_on_presence_channel_carries_sender_user_id,
    client_events_of_one_sender_keep_order,
];

const ROOM: &str = "private-room";

fn app() -> AppSpec {
    AppSpec::new("4").set("enable_client_messages", true)
}

async fn client_event_reaches_all_subscribers_except_sender(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app()).start().await;
    let mut sender = cluster.first().browser("key4").await;
    let mut others = cluster.browsers("key4").await;
    for channel in [ROOM, "private-encrypted-room"] {
        sender.subscribe(channel).await;
        for other in &mut others {
            other.subscribe(channel).await;
        }
        let forms = [
            (json!("text"), json!("text")),
            (json!({ "a": [1, "ü"] }), json!(r#"{"a":[1,"ü"]}"#)),
            (json!(7), json!("7")),
            (Value::Null, json!("null")),
        ];
        for (sent, received) in forms {
            sender.trigger(channel, "client-a", sent).await;
            for other in &mut others {
                let frame = other.expect_event(channel, "client-a").await;
                assert_eq!(
                    frame.text,
                    format!(r#"{{"event":"client-a","channel":"{channel}","data":{received}}}"#)
                );
            }
        }
        // Further members of the frame are not forwarded.
        sender.send(json!({ "event": "client-b", "channel": channel, "user_id": "ben", "more": 1 })).await;
        for other in &mut others {
            let frame = other.expect_event(channel, "client-b").await;
            assert_eq!(frame.text, format!(r#"{{"event":"client-b","channel":"{channel}","data":"{{}}"}}"#));
        }
        cluster.caller("4").publish(channel, "marker", "").await;
        sender.expect_nothing_before(channel, "marker").await;
        for other in &mut others {
            other.expect_event(channel, "marker").await;
        }
    }
}

async fn client_event_on_presence_channel_carries_sender_user_id(backend: Backend) {
    let cluster = Cluster::builder(backend).app(app()).start().await;
    let mut ann = cluster.first().browser("key4").await;
    let mut ben = cluster.second().browser("key4").await;
    // User ids that need escaping are valid.
    ann.join("presence-room", "an\"n").await;
    ben.join("presence-room", "ben").await;
    ann.expect_event("presence-room", "pusher_internal:member_added").await;
    ann.send(json!({ "event": "client-a", "channel": "presence-room", "data": "x", "user_id": "ben" })).await;
    let frame = ben.expect_event("presence-room", "client-a").await;
    assert_eq!(frame.text, r#"{"event":"client-a","channel":"presence-room","data":"x","user_id":"an\"n"}"#);
    ben.trigger("presence-room", "client-b", json!("y")).await;
    // The sender does not receive its own event first.
    let frame = ann.expect_event("presence-room", "client-b").await;
    assert_eq!(frame.text, r#"{"event":"client-b","channel":"presence-room","data":"y","user_id":"ben"}"#);
}

async fn client_events_of_one_sender_keep_order(backend: Backend) {
    let cluster =
        Cluster::builder(backend).app(app().set("max_client_events_per_second", 1_000)).start().await;
    let mut sender = cluster.first().browser("key4").await;
    let mut other = cluster.second().browser("key4").await;
    sender.subscribe(ROOM).await;
    other.subscribe(ROOM).await;
    for number in 0..50 {
        sender.trigger(ROOM, "client-a", json!(number)).await;
    }
    for number in 0..50 {
        assert_eq!(other.expect_event(ROOM, "client-a").await.data_text(), number.to_string());
    }
}

/// Each is answered with 4301 and the reason, and is not forwarded.
#[tokio::test]
async fn invalid_client_event_is_refused_with_reason() {
    let server = Server::builder().app(app()).start().await;
    let mut sender = server.browser("key4").await;
    let mut other = server.browser("key4").await;
    for channel in [ROOM, "news"] {
        sender.subscribe(channel).await;
        other.subscribe(channel).await;
    }
    sender.sign_in("ann").await;
    let event =
        |name: &str, channel: &str, data: Value| json!({ "event": name, "channel": channel, "data": data });
    let name_max = limits::EVENT_NAME_CHARS_MAX - "client-".len();
    let name = |chars: usize| format!("client-{}", "語".repeat(chars));
    let data_max = limits::PAYLOAD_BYTES_MAX;
    let refused = [
        (json!({ "event": "client-a", "data": {} }), "`channel`"),
        (json!({ "event": "client-a", "channel": 7, "data": {} }), "`channel`"),
        (event("client-a", "news", json!({})), "private"),
        (event("client-a", "public-but-elsewhere", json!({})), "private"),
        (event("client-a", "#server-to-user-ann", json!({})), "private"),
        (event("client-a", "private-elsewhere", json!({})), "not subscribed"),
        (event("client-a", "presence-elsewhere", json!({})), "not subscribed"),
        (event("client-a", "private room", json!({})), "character"),
        (event(&name(name_max + 1), ROOM, json!({})), "201 characters"),
        (event("client-a", ROOM, "x".repeat(data_max + 1).into()), "bytes"),
        (event("client-a", ROOM, json!({ "a": "x".repeat(data_max) })), "bytes"),
    ];
    for (frame, reason) in refused {
        sender.send(frame.clone()).await;
        let message = sender.expect_error_code(4301).await;
        assert!(message.contains(reason), "{frame}: {message}");
    }
    for (name, data) in [(name(name_max), json!("")), ("client-".into(), json!("x".repeat(data_max)))] {
        sender.trigger(ROOM, &name, data).await;
        other.expect_event(ROOM, &name).await;
    }
    // These are not client events.
    for name in ["a", "Client-a", "pusher:client-a", "pusher_internal:member_added"] {
        sender.trigger(ROOM, name, json!({})).await;
        assert!(sender.expect_error().await.contains(name));
    }
    server.caller("4").publish(ROOM, "marker", "").await;
    other.expect_nothing_before(ROOM, "marker").await;
}

#[tokio::test]
async fn client_event_is_refused_unless_enabled_for_app() {
    let server = Server::builder().start().await;
    let mut sender = server.browser("key1").await;
    let mut other = server.browser("key1").await;
    sender.subscribe(ROOM).await;
    other.subscribe(ROOM).await;
    sender.trigger(ROOM, "client-a", json!({})).await;
    let message = sender.expect_error_code(4301).await;
    assert!(message.contains("not enabled"), "{message}");
    server.caller("1").publish(ROOM, "marker", "").await;
    other.expect_nothing_before(ROOM, "marker").await;
}

#[tokio::test]
async fn client_event_after_unsubscribe_is_refused() {
    let server = Server::builder().app(app()).start().await;
    let mut sender = server.browser("key4").await;
    sender.subscribe(ROOM).await;
    sender.unsubscribe(ROOM).await;
    sender.trigger(ROOM, "client-a", json!({})).await;
    assert!(sender.expect_error_code(4301).await.contains("not subscribed"));
}

/// Sends `count` events, which the other socket receives.
async fn exchange(sender: &mut Browser, other: &mut Browser, count: usize) {
    for _ in 0..count {
        sender.trigger(ROOM, "client-a", json!({})).await;
        other.expect_event(ROOM, "client-a").await;
    }
}

#[tokio::test]
async fn client_event_rate_limit_is_per_connection() {
    let app = app().set("max_client_events_per_second", 3).set("decay_seconds", 60);
    let server = Server::builder().app(app).start().await;
    let mut sender = server.browser("key4").await;
    let mut other = server.browser("key4").await;
    sender.subscribe(ROOM).await;
    other.subscribe(ROOM).await;
    // An event refused for another reason does not count towards the rate limit.
    sender.trigger("news", "client-a", json!({})).await;
    sender.expect_error_code(4301).await;
    exchange(&mut sender, &mut other, 3).await;
    for _ in 0..2 {
        sender.trigger(ROOM, "client-a", json!({})).await;
        let message = sender.expect_error_code(4301).await;
        assert!(message.contains("3 client events per 60s"), "{message}");
    }
    // The sender may still do everything else, and the other socket has a rate
    // limit of its own.
    sender.settle().await;
    sender.subscribe("news").await;
    exchange(&mut other, &mut sender, 3).await;
    assert_eq!(server.metrics().await.sum("fanfare_messages_rate_limited_total"), 2.0);
}

#[tokio::test]
async fn client_event_over_rate_limit_closes_connection_with_terminate_on_limit() {
    let app =
        app().set("max_client_events_per_second", 1).set("decay_seconds", 60).set("terminate_on_limit", true);
    let server = Server::builder().app(app).start().await;
    let mut sender = server.browser("key4").await;
    let mut other = server.browser("key4").await;
    sender.subscribe(ROOM).await;
    other.subscribe(ROOM).await;
    exchange(&mut sender, &mut other, 1).await;
    sender.trigger(ROOM, "client-b", json!({})).await;
    sender.expect_error_code(4301).await;
    assert_eq!(sender.closed().await, 4100);
    server.caller("4").publish(ROOM, "marker", "").await;
    other.expect_nothing_before(ROOM, "marker").await;
}
