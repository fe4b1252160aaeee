//! Refused subscriptions as client libraries report them: `pusher-js` and
//! Sockudo's client on the channel, Pysher on the connection. A refusal leaves
//! the connection open.

use serde_json::{Value, json};

use crate::support::json_lines::{Client, Launch};
use crate::support::{AppSpec, Server, bounded};

/// Clients reconnect on codes from 4000 to 4299: this one is outside that range.
const CODE: u16 = 4300;

/// Pysher, with these subscriptions made as soon as it is connected.
async fn pysher(server: &Server, subscriptions: Value) -> Client {
    let app = server.app("1");
    let launch = Launch::python("pysher_client.py").addr(server.addr()).arg(&app.key);
    let mut client = launch.env("APP_SECRET", &app.secret).start();
    client.send(&json!({ "cmd": "connect", "subscriptions": subscriptions }));
    let connected = client.next().await;
    assert_eq!(connected["type"], "connected", "{connected}");
    client
}

const PYSHER_EVENTS: [&str; 3] =
    ["pusher_internal:subscription_succeeded", "pusher:subscription_error", "hello"];

/// Expects a subscription error of the channel, then `pusher:error` with the same text.
async fn expect_pysher_refusal(client: &mut Client, channel: &str) {
    let refused = client.next().await;
    assert_eq!(refused["event"], "pusher:subscription_error", "{refused}");
    assert_eq!(refused["channel"], channel, "{refused}");
    let error = client.next().await;
    let message = json_of(&refused["data"])["error"].take();
    assert!(message.as_str().is_some_and(|text| !text.is_empty()), "{refused}");
    let data = json!({ "channel": channel, "code": CODE, "message": message });
    assert_eq!(error, json!({ "type": "error", "data": data }));
}

/// Pysher passes text to callbacks where the frame has text.
fn json_of(data: &Value) -> Value {
    data.as_str().map_or_else(|| data.clone(), |text| serde_json::from_str(text).unwrap())
}

/// Channels are confirmed in any order.
async fn expect_pysher_success(client: &mut Client, channel: &str) {
    let is_confirmation = |report: &Value| report["channel"] == channel;
    let report = client.find("confirmation", is_confirmation).await;
    assert_eq!(report["event"], "pusher_internal:subscription_succeeded", "{report}");
}

#[tokio::test]
async fn pysher_refused_private_subscription_reaches_handlers_and_keeps_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let subscriptions = json!([
            { "channel": "private-wrong", "events": PYSHER_EVENTS, "auth": format!("key1:{}", "0".repeat(64)) },
            { "channel": "private-malformed", "events": PYSHER_EVENTS, "auth": "key1" },
            { "channel": "private-typed", "events": PYSHER_EVENTS, "auth": { "key1": "signature" } },
            { "channel": "no such#channel", "events": PYSHER_EVENTS },
            { "channel": "news", "events": PYSHER_EVENTS },
            { "channel": "private-room", "events": PYSHER_EVENTS },
        ]);
        let mut client = pysher(&server, subscriptions).await;
        for channel in ["private-wrong", "private-malformed", "private-typed", "no such#channel"] {
            expect_pysher_refusal(&mut client, channel).await;
        }
        for channel in ["news", "private-room"] {
            expect_pysher_success(&mut client, channel).await;
        }
        let caller = server.caller("1");
        for channel in ["private-wrong", "news", "private-room"] {
            caller.publish(channel, "hello", "one").await;
        }
        // No reconnection is reported before the events, and one channel does not
        // wait for another.
        let mut seen = [client.next().await, client.next().await];
        seen.sort_by_key(|report| report["channel"].to_string());
        let event = |channel| json!({ "type": "event", "channel": channel, "event": "hello", "data": "one" });
        assert_eq!(seen, ["news", "private-room"].map(event));
        let state = client.request(&json!({ "cmd": "state" })).await;
        assert_eq!(state, json!({ "type": "state", "state": "connected" }));
        let opened = server.metrics().await.sum("fanfare_connections_opened_total");
        assert_eq!(opened, 1.0, "Pysher reconnected");
    })
    .await;
}

/// `pusher-js` whose auth endpoint signs with this secret, connected.
async fn pusher_js(server: &Server, secret: &str) -> Client {
    let launch = Launch::node("pusher_js.js").addr(server.addr()).arg(&server.app("1").key);
    let mut client = launch.env("APP_SECRET", secret).env("ENCRYPTION_MASTER_KEY", MASTER_KEY).start();
    client.find("connection", |report| report["current"] == "connected").await;
    // A transition to `connected` may be reported late, if pusher-js made it before
    // the program listened.
    while client.try_next().is_some() {}
    client
}

/// Expects one event of the channel and one error of the connection, with the same text.
async fn expect_pusher_js_refusal(client: &mut Client, channel: &str, status: u16) {
    let refused = client.next().await;
    assert_eq!(refused["event"], "pusher:subscription_error", "{refused}");
    assert_eq!((&refused["channel"], &refused["data"]["status"]), (&channel.into(), &status.into()));
    let data = json!({ "channel": channel, "code": CODE, "message": refused["data"]["error"] });
    let error = json!({ "type": "PusherError", "data": data });
    assert_eq!(client.next().await, json!({ "type": "error", "error": error }));
}

/// 32 bytes, as applications and their backends share them.
const MASTER_KEY: &str = "ZmFuZmFyZS1mYW5mYXJlLWZhbmZhcmUtZmFuZmFyZSE=";

#[tokio::test]
async fn pusher_js_refused_subscription_is_reported_once_and_keeps_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut client = pusher_js(&server, "not the secret").await;
        let channels = ["private-room", "private-encrypted-room", "private-cache-room", "presence-room"];
        for channel in channels {
            let data = channel.starts_with("presence-").then(|| json!({ "user_id": "ann" }));
            client.send(&json!({ "cmd": "subscribe", "channel": channel, "channel_data": data }));
            expect_pusher_js_refusal(&mut client, channel, 401).await;
        }
        client.send(&json!({ "cmd": "subscribe", "channel": "news" }));
        // No frame comes before it: no second report, no state change.
        let answer = client.next().await;
        let seen = (&answer["channel"], &answer["event"]);
        assert_eq!(seen, (&"news".into(), &"pusher:subscription_succeeded".into()), "{answer}");
        let caller = server.caller("1");
        for channel in channels.into_iter().chain(["news"]) {
            caller.publish(channel, "hello", "one").await;
        }
        let expected = json!({ "type": "event", "channel": "news", "event": "hello", "data": "one" });
        assert_eq!(client.next().await, expected);
        let opened = server.metrics().await.sum("fanfare_connections_opened_total");
        assert_eq!(opened, 1.0, "pusher-js reconnected");
    })
    .await;
}

/// The presence channel refuses the subscription, not the validation of the
/// request.
#[tokio::test]
async fn pusher_js_refused_by_full_presence_channel_keeps_connection() {
    bounded(async {
        let app = AppSpec::new("1").set("max_presence_members_per_channel", 1);
        let server = Server::builder().app(app).start().await;
        let mut bob = server.browser("key1").await;
        bob.join("presence-room", "bob").await;
        let mut client = pusher_js(&server, "secret1").await;
        let data = json!({ "user_id": "ann" });
        client.send(&json!({ "cmd": "subscribe", "channel": "presence-room", "channel_data": data }));
        expect_pusher_js_refusal(&mut client, "presence-room", 4100).await;
        client.send(&json!({ "cmd": "subscribe", "channel": "news" }));
        assert_eq!(client.next().await["event"], "pusher:subscription_succeeded");
        server.caller("1").publish("news", "hello", "one").await;
        assert_eq!(client.next().await["event"], "hello");
    })
    .await;
}

/// The event prefix of this client is `sockudo:`, for refusals too.
#[tokio::test]
async fn sockudo_python_refused_subscription_is_reported_once_and_keeps_connection() {
    bounded(async {
        let server = Server::builder().start().await;
        let launch = Launch::python("sockudo_client.py").addr(server.addr()).arg("key1").arg("ann");
        let mut client = launch.env("APP_SECRET", "not the secret").start();
        for state in ["connecting", "connected"] {
            assert_eq!(client.next().await["current"], state);
        }
        assert_eq!(client.next().await["type"], "deltas");
        for channel in ["private-room", "presence-room"] {
            client.send(&json!({ "cmd": "subscribe", "channel": channel }));
            let refused = client.next().await;
            assert_eq!(refused["event"], "sockudo:subscription_error", "{refused}");
            assert_eq!(refused["channel"], channel, "{refused}");
            let error = client.next().await;
            assert_eq!(error["type"], "error", "{error}");
            let text = error["error"].as_str().unwrap();
            assert!(text.contains(&CODE.to_string()) && text.contains(channel), "{error}");
        }
        client.send(&json!({ "cmd": "subscribe", "channel": "news" }));
        assert_eq!(client.next().await["event"], "sockudo:subscription_succeeded");
        server.caller("1").publish("news", "hello", "one").await;
        let expected = json!({ "type": "event", "channel": "news", "event": "hello", "data": "one" });
        assert_eq!(client.next().await, expected);
    })
    .await;
}
