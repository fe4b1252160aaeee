//! Sockudo's own client for Python, unmodified and with its default protocol: it
//! speaks the other dialect, and says that it decodes deltas, which it does not
//! (protocol.md 2.1, 3.6).

use serde_json::{Value, json};

use crate::support::json_lines::{Client, Launch};
use crate::support::{AppSpec, Caller, Server, bounded};

const ROOMS: [&str; 2] = ["news", "private-room"];

async fn server() -> Server {
    let app = AppSpec::new("1").set("enable_client_messages", true);
    Server::builder().app(app).config("[delta_compression]\nfull_message_interval = 0").start().await
}

/// Connected, with its opt-in answered.
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
    client.tell(&json!({ "cmd": "subscribe", "channel": channel }));
    let answer = client.next().await;
    assert_eq!(answer["event"], "sockudo:subscription_succeeded", "{answer}");
    assert_eq!(answer["channel"], channel);
    answer["data"].clone()
}

/// The next report, which must be this event.
async fn expect(client: &mut Client, channel: &str, event: &str, data: &Value) {
    let expected = json!({ "type": "event", "channel": channel, "event": event, "data": data });
    assert_eq!(client.next().await, expected);
}

/// Long, and mostly the same each time: worth a delta to whoever reads them.
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
async fn it_gets_every_event_of_a_batch_in_order_and_no_delta() {
    bounded(async {
        let server = server().await;
        let mut client = python(&server, "ann").await;
        for room in ROOMS {
            subscribed(&mut client, room).await;
        }
        // Whoever can decode them does get deltas of the same events.
        let mut reader = server.browser("key1").await;
        reader.send(json!({ "event": "pusher:enable_delta_compression", "data": {} })).await;
        reader.subscribe("news").await;
        let caller = server.caller("1");
        for round in 0..10 {
            let numbers = round * 10..round * 10 + 10;
            publish_batch(&caller, &ROOMS, numbers.clone()).await;
            for (at, room) in ROOMS.iter().enumerate() {
                for number in numbers.clone().filter(|number| number % 2 == at) {
                    expect(&mut client, room, &format!("e{}", number % 3), &text(number)).await;
                }
            }
        }
        reader.find_event("pusher:delta").await;
        let stats = client.ask(&json!({ "cmd": "stats" })).await;
        assert_eq!(stats, json!({ "type": "stats", "full": 0, "delta": 0, "errors": 0 }));
    })
    .await;
}

#[tokio::test]
async fn it_leaves_and_comes_back() {
    bounded(async {
        let server = server().await;
        let mut client = python(&server, "ann").await;
        let caller = server.caller("1");
        for room in ROOMS {
            subscribed(&mut client, room).await;
        }
        client.tell(&json!({ "cmd": "unsubscribe", "channel": "news" }));
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
async fn it_speaks_with_clients_of_both_dialects() {
    bounded(async {
        let server = server().await;
        let mut ann = python(&server, "ann").await;
        let mut bob = python(&server, "bob").await;
        let mut cid = server.browser("key1").await;
        subscribed(&mut ann, "private-room").await;
        subscribed(&mut bob, "private-room").await;
        cid.subscribe("private-room").await;
        let said = json!({ "text": "ahoj" });
        ann.tell(
            &json!({ "cmd": "trigger", "channel": "private-room", "event": "client-said", "data": said }),
        );
        expect(&mut bob, "private-room", "client-said", &said).await;
        let heard = cid.expect_event("private-room", "client-said").await;
        assert_eq!(heard.data_json(), said);
        cid.send(json!({ "event": "client-back", "channel": "private-room", "data": said })).await;
        expect(&mut ann, "private-room", "client-back", &said).await;
        expect(&mut bob, "private-room", "client-back", &said).await;
    })
    .await;
}

#[tokio::test]
async fn it_knows_who_is_there() {
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
        bob.tell(&json!({ "cmd": "disconnect" }));
        expect(&mut ann, "presence-room", "sockudo:member_removed", &json!("bob")).await;
    })
    .await;
}
