//! Sockudo's client library for Python, unmodified and with its default protocol: it uses
//! the event prefix `sockudo:` and enables deltas, which it cannot decode (protocol.md 2.1,
//! 3.6).

use serde_json::{Value, json};

use crate::support::json_lines::{Client, Launch};
use crate::support::{AppSpec, Caller, Server, bounded};

const CHANNELS: [&str; 2] = ["news", "private-room"];

async fn server() -> Server {
    let app = AppSpec::new("1").set("enable_client_messages", true);
    Server::builder().app(app).config("[delta_compression]\nfull_message_interval = 0").start().await
}

/// A connected client whose request for deltas has been confirmed.
async fn python(server: &Server, user: &str) -> Client {
    let app = server.app("1");
    let launch = Launch::python("sockudo_client.py").addr(server.addr()).arg(&app.key).arg(user);
    let mut client = launch.env("APP_SECRET", &app.secret).start();
    for state in ["connecting", "connected"] {
        assert_eq!(client.next().await["current"], state);
    }
    let answer = json!({ "type": "deltas", "data": { "enabled": true, "algorithm": "fossil" } });
    assert_eq!(client.next().await, answer);
    client
}

async fn subscribed(client: &mut Client, channel: &str) -> Value {
    client.send(&json!({ "cmd": "subscribe", "channel": channel }));
    let answer = client.next().await;
    assert_eq!(answer["event"], "sockudo:subscription_succeeded", "{answer}");
    assert_eq!(answer["channel"], channel);
    answer["data"].clone()
}

/// Expects this event as the next report.
async fn expect(client: &mut Client, channel: &str, event: &str, data: &Value) {
    let expected = json!({ "type": "event", "channel": channel, "event": event, "data": data });
    assert_eq!(client.next().await, expected);
}

/// Long event data that compresses well as a delta.
fn text(number: usize) -> Value {
    json!({ "number": number, "same": "všude totéž \"🎺\" ".repeat(20) })
}

async fn publish_batch(caller: &Caller, channels: &[&str], numbers: std::ops::Range<usize>) {
    let event = |number: usize| {
        let channel = channels[number % channels.len()];
        json!({ "channel": channel, "name": format!("e{}", number % 3), "data": text(number).to_string() })
    };
    let answer = caller.post_batch(numbers.map(event).collect()).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[tokio::test]
async fn sockudo_python_receives_batches_in_order_and_without_deltas() {
    bounded(async {
        let server = server().await;
        let mut client = python(&server, "ann").await;
        for channel in CHANNELS {
            subscribed(&mut client, channel).await;
        }
        // Another subscriber receives deltas of the same events.
        let mut reader = server.browser("key1").await;
        reader.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
        reader.subscribe("news").await;
        let caller = server.caller("1");
        for round in 0..10 {
            let numbers = round * 10..round * 10 + 10;
            publish_batch(&caller, &CHANNELS, numbers.clone()).await;
            for (at, channel) in CHANNELS.iter().enumerate() {
                for number in numbers.clone().filter(|number| number % 2 == at) {
                    expect(&mut client, channel, &format!("e{}", number % 3), &text(number)).await;
                }
            }
        }
        reader.find_event("pusher:delta").await;
        let stats = client.request(&json!({ "cmd": "stats" })).await;
        assert_eq!(stats, json!({ "type": "stats", "full": 0, "delta": 0, "errors": 0 }));
    })
    .await;
}

#[tokio::test]
async fn sockudo_python_resubscribes_after_unsubscribing() {
    bounded(async {
        let server = server().await;
        let mut client = python(&server, "ann").await;
        let caller = server.caller("1");
        for channel in CHANNELS {
            subscribed(&mut client, channel).await;
        }
        client.send(&json!({ "cmd": "unsubscribe", "channel": "news" }));
        caller.count_becomes("news", 0).await;
        caller.publish("news", "missed", "x").await;
        caller.publish("private-room", "marker", "x").await;
        expect(&mut client, "private-room", "marker", &json!("x")).await;
        subscribed(&mut client, "news").await;
        caller.publish("news", "back", "x").await;
        expect(&mut client, "news", "back", &json!("x")).await;
    })
    .await;
}

#[tokio::test]
async fn sockudo_python_exchanges_client_events_with_both_event_prefixes() {
    bounded(async {
        let server = server().await;
        let mut ann = python(&server, "ann").await;
        let mut bob = python(&server, "bob").await;
        let mut cid = server.browser("key1").await;
        subscribed(&mut ann, "private-room").await;
        subscribed(&mut bob, "private-room").await;
        cid.subscribe("private-room").await;
        let data = json!({ "text": "ahoj" });
        ann.send(
            &json!({ "cmd": "trigger", "channel": "private-room", "event": "client-text", "data": data }),
        );
        expect(&mut bob, "private-room", "client-text", &data).await;
        let frame = cid.expect_event("private-room", "client-text").await;
        assert_eq!(frame.data_json(), data);
        cid.send(json!({ "event": "client-back", "channel": "private-room", "data": data })).await;
        expect(&mut ann, "private-room", "client-back", &data).await;
        expect(&mut bob, "private-room", "client-back", &data).await;
    })
    .await;
}

#[tokio::test]
async fn sockudo_python_receives_the_roster_and_its_changes() {
    bounded(async {
        let server = server().await;
        let mut ann = python(&server, "ann").await;
        assert_eq!(subscribed(&mut ann, "presence-room").await, json!(["ann"]));
        let mut bob = python(&server, "bob").await;
        assert_eq!(subscribed(&mut bob, "presence-room").await, json!(["ann", "bob"]));
        expect(&mut ann, "presence-room", "sockudo:member_added", &json!("bob")).await;
        publish_batch(&server.caller("1"), &["presence-room"], 0..10).await;
        for number in 0..10 {
            for client in [&mut ann, &mut bob] {
                expect(client, "presence-room", &format!("e{}", number % 3), &text(number)).await;
            }
        }
        bob.send(&json!({ "cmd": "disconnect" }));
        expect(&mut ann, "presence-room", "sockudo:member_removed", &json!("bob")).await;
    })
    .await;
}
