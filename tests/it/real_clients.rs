//! The official libraries, unmodified, through HAProxy to three nodes: Node's
//! and Python's `pusher` publish and ask, `pusher-js` listens (protocol.md 8).

use serde_json::{Value, json};

use crate::support::bounded;
use crate::support::haproxy::Site;
use crate::support::json_lines::{Client, Launch};

/// 32 bytes, as applications and their backends share them.
const MASTER_KEY: &str = "ZmFuZmFyZS1mYW5mYXJlLWZhbmZhcmUtZmFuZmFyZSE=";

const ROOMS: [&str; 3] = ["news", "private-room", "private-encrypted-room"];

fn node_server(site: &Site, secret: &str) -> Client {
    backend(Launch::node("node_server.js"), site, secret)
}

fn python_server(site: &Site, secret: &str) -> Client {
    backend(Launch::python("python_server.py"), site, secret)
}

fn backend(launch: Launch, site: &Site, secret: &str) -> Client {
    let (addr, app) = (site.haproxy.addr(), site.app());
    let launch = launch.addr(addr).arg(&app.id).arg(&app.key).arg(secret);
    launch.env("ENCRYPTION_MASTER_KEY", MASTER_KEY).start()
}

/// `pusher-js`, connected.
async fn browser(site: &Site, secret: &str) -> Client {
    let (addr, app) = (site.haproxy.addr(), site.app());
    let launch = Launch::node("pusher_js.js").addr(addr).arg(&app.key);
    let mut browser = launch.env("APP_SECRET", secret).env("ENCRYPTION_MASTER_KEY", MASTER_KEY).start();
    browser.find("connection", |report| report["current"] == "connected").await;
    browser
}

/// Subscribes and waits for the channel's first word.
async fn subscribe(browser: &mut Client, channel: &str) -> Value {
    browser.tell(&json!({ "cmd": "subscribe", "channel": channel }));
    let of_channel = |report: &Value| report["type"] == "event" && report["channel"] == channel;
    browser.find("answer to a subscription", of_channel).await
}

async fn subscribed(browser: &mut Client, channel: &str) {
    let answer = subscribe(browser, channel).await;
    assert_eq!(answer["event"], "pusher:subscription_succeeded", "{answer}");
}

/// Three browsers in all rooms: one on each node.
async fn audience(site: &Site) -> Vec<Client> {
    let mut audience = Vec::new();
    for _ in 0..3 {
        let mut browser = browser(site, &site.app().secret).await;
        for room in ROOMS {
            subscribed(&mut browser, room).await;
        }
        audience.push(browser);
    }
    assert_eq!(site.sockets().await, [1, 1, 1]);
    audience
}

/// The next event of each, which must be this one.
async fn expect(audience: &mut [Client], channel: &str, event: &str, data: &Value) {
    for browser in audience {
        let report = browser.next().await;
        let expected = json!({ "type": "event", "channel": channel, "event": event, "data": data });
        assert_eq!(report, expected);
    }
}

/// The answer to a command that succeeds; Node's library also tells the status.
async fn ask(server: &mut Client, command: Value) -> Value {
    let report = server.ask(&command).await;
    assert_eq!(report["type"], "result", "{report} to {command}");
    assert!(report.get("status").is_none_or(|status| status == 200), "{report}");
    report["body"].clone()
}

/// Ten events over three kinds of channels, every third of which asks.
fn batch() -> Vec<Value> {
    let event = |number: usize| {
        let data = json!({ "number": number, "text": "čeština \"🎺\"" });
        let mut event = json!({ "channel": ROOMS[number % 3], "name": format!("e{number}"), "data": data });
        if number.is_multiple_of(3) {
            event["info"] = "subscription_count".into();
        }
        event
    };
    (0..10).map(event).collect()
}

async fn expect_batch(audience: &mut [Client]) {
    // Channels are announced in the order in which they first appear (promise P2).
    for room in ROOMS {
        for event in batch().iter().filter(|event| event["channel"] == room) {
            let name = event["name"].as_str().unwrap();
            expect(audience, room, name, &event["data"]).await;
        }
    }
}

fn batch_answer() -> Value {
    let slot =
        |number: usize| if number.is_multiple_of(3) { json!({ "subscription_count": 3 }) } else { json!({}) };
    json!({ "batch": (0..10).map(slot).collect::<Vec<_>>() })
}

#[tokio::test]
async fn node_publishes_to_a_cluster() {
    bounded(async {
        let site = Site::start("").await;
        let mut audience = audience(&site).await;
        let mut server = node_server(&site, &site.app().secret);

        let answer = ask(&mut server, json!({ "cmd": "triggerBatch", "batch": batch() })).await;
        assert_eq!(answer, batch_answer());
        expect_batch(&mut audience).await;
        let silent = json!([{ "channel": "news", "name": "silent", "data": "plain text" }]);
        assert_eq!(ask(&mut server, json!({ "cmd": "triggerBatch", "batch": silent })).await, json!({}));
        expect(&mut audience, "news", "silent", &json!("plain text")).await;

        for room in ROOMS {
            let data = json!({ "to": room });
            let command = json!({ "cmd": "trigger", "channels": room, "event": "one", "data": data });
            assert_eq!(ask(&mut server, command).await, json!({}));
            expect(&mut audience, room, "one", &data).await;
        }
        let params = json!({ "info": "subscription_count" });
        let channels = json!(["news", "empty"]);
        let command =
            json!({ "cmd": "trigger", "channels": channels, "event": "two", "data": 7, "params": params });
        let counts = json!({ "news": { "subscription_count": 3 }, "empty": { "subscription_count": 0 } });
        assert_eq!(ask(&mut server, command).await, json!({ "channels": counts }));
        expect(&mut audience, "news", "two", &json!(7)).await;

        let command = json!({ "cmd": "get", "path": "/channels/private-room", "params": params });
        assert_eq!(ask(&mut server, command).await, json!({ "occupied": true, "subscription_count": 3 }));
        let command = json!({ "cmd": "get", "path": "/channels/empty" });
        assert_eq!(ask(&mut server, command).await, json!({ "occupied": false }));
    })
    .await;
}

#[tokio::test]
async fn python_publishes_to_a_cluster() {
    bounded(async {
        let site = Site::start("").await;
        let mut audience = audience(&site).await;
        let mut server = python_server(&site, &site.app().secret);

        let answer = ask(&mut server, json!({ "cmd": "trigger_batch", "batch": batch() })).await;
        assert_eq!(answer, batch_answer());
        expect_batch(&mut audience).await;

        for room in ROOMS {
            let data = json!({ "to": room });
            let command = json!({ "cmd": "trigger", "channels": room, "event": "one", "data": data });
            assert_eq!(ask(&mut server, command).await, json!({}));
            expect(&mut audience, room, "one", &data).await;
        }
        let command = json!({ "cmd": "trigger", "channels": ["news", "empty"], "event": "two", "data": "x" });
        assert_eq!(ask(&mut server, command).await, json!({}));
        expect(&mut audience, "news", "two", &json!("x")).await;

        let command = |channel: &str, attributes: Value| {
            json!({ "cmd": "channel_info", "channel": channel, "attributes": attributes })
        };
        let counted = ask(&mut server, command("private-room", json!(["subscription_count"]))).await;
        assert_eq!(counted, json!({ "occupied": true, "subscription_count": 3 }));
        assert_eq!(ask(&mut server, command("empty", json!([]))).await, json!({ "occupied": false }));
    })
    .await;
}

/// The sender of an event, by its socket id, wherever it is connected.
#[tokio::test]
async fn the_sender_is_left_out_on_every_node_of_a_cluster() {
    bounded(async {
        let site = Site::start("").await;
        let mut servers = [
            ("triggerBatch", node_server(&site, &site.app().secret)),
            ("trigger_batch", python_server(&site, &site.app().secret)),
        ];
        let mut browsers = Vec::new();
        for _ in 0..3 {
            let launch = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg(&site.app().key);
            let mut browser = launch.start();
            let state = browser.find("connection", |report| report["current"] == "connected").await;
            subscribed(&mut browser, "news").await;
            browsers.push((browser, state["socket_id"].clone()));
        }
        for (command, server) in &mut servers {
            for sender in 0..3 {
                let socket_id = browsers[sender].1.clone();
                let batch = json!([
                    { "channel": "news", "name": "mine", "data": "x", "socket_id": socket_id },
                    { "channel": "news", "name": "everybody's", "data": "x" },
                ]);
                ask(server, json!({ "cmd": command, "batch": batch })).await;
                for (number, (browser, _)) in browsers.iter_mut().enumerate() {
                    let expected: &[&str] =
                        if number == sender { &["everybody's"] } else { &["mine", "everybody's"] };
                    for name in expected {
                        assert_eq!(browser.next().await["event"], **name);
                    }
                }
            }
        }
    })
    .await;
}

/// In order and each once, from two backends in turn, to every browser.
#[tokio::test]
async fn browsers_of_a_cluster_see_every_event_in_order() {
    bounded(async {
        let site = Site::start("").await;
        let mut audience = audience(&site).await;
        let mut servers = [
            ("triggerBatch", node_server(&site, &site.app().secret)),
            ("trigger_batch", python_server(&site, &site.app().secret)),
        ];
        for round in 0..30 {
            let (command, server) = &mut servers[round % 2];
            let event = |number: usize| {
                json!({ "channel": ROOMS[round % 3], "name": "e", "data": { "number": number } })
            };
            let batch: Vec<Value> = (round * 10..round * 10 + 10).map(event).collect();
            assert_eq!(ask(server, json!({ "cmd": command, "batch": batch })).await, json!({}));
        }
        for round in 0..30 {
            for number in round * 10..round * 10 + 10 {
                expect(&mut audience, ROOMS[round % 3], "e", &json!({ "number": number })).await;
            }
        }
    })
    .await;
}

/// Each library says it in its own way.
#[tokio::test]
async fn libraries_of_a_cluster_raise_their_own_errors() {
    bounded(async {
        let site = Site::start("").await;
        let too_many: Vec<Value> =
            (0..11).map(|_| json!({ "channel": "news", "name": "e", "data": "x" })).collect();
        for (command, start) in [
            ("triggerBatch", node_server as fn(&Site, &str) -> Client),
            ("trigger_batch", python_server as fn(&Site, &str) -> Client),
        ] {
            let mut wrong = start(&site, "not the secret");
            let report = wrong.ask(&json!({ "cmd": command, "batch": [too_many[0]] })).await;
            assert_eq!((&report["type"], &report["status"]), (&"failed".into(), &401.into()), "{report}");
            assert_eq!(report["body"]["code"], "auth_failed", "{report}");
            let error = report["error"].as_str().unwrap();
            assert!(error.contains("401") || error.contains("PusherBadAuth"), "{error}");

            let mut right = start(&site, &site.app().secret);
            let report = right.ask(&json!({ "cmd": command, "batch": too_many })).await;
            assert_eq!((&report["type"], &report["status"]), (&"failed".into(), &400.into()), "{report}");
            assert_eq!(report["body"]["code"], "limit_exceeded", "{report}");
            let good = right.ask(&json!({ "cmd": command, "batch": [too_many[0]] })).await;
            assert_eq!(good["type"], "result", "it goes on: {good}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_browser_of_a_cluster_is_told_why_not() {
    bounded(async {
        let site = Site::start("").await;
        let mut eve = browser(&site, "not the secret").await;
        for room in ["private-room", "private-encrypted-room"] {
            let answer = subscribe(&mut eve, room).await;
            assert_eq!(answer["event"], "pusher:subscription_error", "{answer}");
            assert_eq!(answer["data"]["status"], 401, "{answer}");
        }
        subscribed(&mut eve, "news").await;

        // A key that no app has: pusher-js is told so, and does not come back.
        let mut lost = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg("nobody").start();
        let error = lost.find("error", |report| report["type"] == "error").await;
        assert_eq!(error["error"]["error"]["data"]["code"], 4001, "{error}");
        lost.find("end", |report| report["current"] == "disconnected").await;
    })
    .await;
}
