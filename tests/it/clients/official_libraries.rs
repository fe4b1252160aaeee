//! The official libraries, unmodified, through HAProxy to three nodes: `pusher` for Node
//! and for Python publish and query, `pusher-js` subscribes (protocol.md 8).

use serde_json::{Value, json};

use crate::support::bounded;
use crate::support::haproxy::Site;
use crate::support::json_lines::{Client, Launch};

/// The encryption master key, 32 bytes in base64, shared by backends and browsers.
const MASTER_KEY: &str = "ZmFuZmFyZS1mYW5mYXJlLWZhbmZhcmUtZmFuZmFyZSE=";

const CHANNELS: [&str; 3] = ["news", "private-room", "private-encrypted-room"];

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

/// Subscribes and waits for the first event on the channel.
async fn subscribe(browser: &mut Client, channel: &str) -> Value {
    browser.send(&json!({ "cmd": "subscribe", "channel": channel }));
    let of_channel = |report: &Value| report["type"] == "event" && report["channel"] == channel;
    browser.find("answer to a subscription", of_channel).await
}

async fn subscribed(browser: &mut Client, channel: &str) {
    let answer = subscribe(browser, channel).await;
    assert_eq!(answer["event"], "pusher:subscription_succeeded", "{answer}");
}

/// Three browsers, one on each node, subscribed to all channels.
async fn subscribers(site: &Site) -> Vec<Client> {
    let mut subscribers = Vec::new();
    for _ in 0..3 {
        let mut browser = browser(site, &site.app().secret).await;
        for channel in CHANNELS {
            subscribed(&mut browser, channel).await;
        }
        subscribers.push(browser);
    }
    assert_eq!(site.sockets().await, [1, 1, 1]);
    subscribers
}

/// Expects this event as the next one of each subscriber.
async fn expect(subscribers: &mut [Client], channel: &str, event: &str, data: &Value) {
    for browser in subscribers {
        let report = browser.next().await;
        let expected = json!({ "type": "event", "channel": channel, "event": event, "data": data });
        assert_eq!(report, expected);
    }
}

/// The result of a command that succeeds; Node's library also returns the status.
async fn ask(server: &mut Client, command: Value) -> Value {
    let report = server.request(&command).await;
    assert_eq!(report["type"], "result", "{report} to {command}");
    assert!(report.get("status").is_none_or(|status| status == 200), "{report}");
    report["body"].clone()
}

/// Ten events over three kinds of channels; every third event requests `info`.
fn batch() -> Vec<Value> {
    let event = |number: usize| {
        let data = json!({ "number": number, "text": "čeština \"🎺\"" });
        let mut event =
            json!({ "channel": CHANNELS[number % 3], "name": format!("e{number}"), "data": data });
        if number.is_multiple_of(3) {
            event["info"] = "subscription_count".into();
        }
        event
    };
    (0..10).map(event).collect()
}

async fn expect_batch(subscribers: &mut [Client]) {
    // The channels of a batch are published in the order of their first event (P2).
    for channel in CHANNELS {
        for event in batch().iter().filter(|event| event["channel"] == channel) {
            let name = event["name"].as_str().unwrap();
            expect(subscribers, channel, name, &event["data"]).await;
        }
    }
}

fn batch_answer() -> Value {
    let slot =
        |number: usize| if number.is_multiple_of(3) { json!({ "subscription_count": 3 }) } else { json!({}) };
    json!({ "batch": (0..10).map(slot).collect::<Vec<_>>() })
}

#[tokio::test]
async fn cluster_node_library_publishes_and_queries() {
    bounded(async {
        let site = Site::start("").await;
        let mut subscribers = subscribers(&site).await;
        let mut server = node_server(&site, &site.app().secret);

        let answer = ask(&mut server, json!({ "cmd": "triggerBatch", "batch": batch() })).await;
        assert_eq!(answer, batch_answer());
        expect_batch(&mut subscribers).await;
        let no_info = json!([{ "channel": "news", "name": "no-info", "data": "plain text" }]);
        assert_eq!(ask(&mut server, json!({ "cmd": "triggerBatch", "batch": no_info })).await, json!({}));
        expect(&mut subscribers, "news", "no-info", &json!("plain text")).await;

        for channel in CHANNELS {
            let data = json!({ "to": channel });
            let command = json!({ "cmd": "trigger", "channels": channel, "event": "one", "data": data });
            assert_eq!(ask(&mut server, command).await, json!({}));
            expect(&mut subscribers, channel, "one", &data).await;
        }
        let params = json!({ "info": "subscription_count" });
        let channels = json!(["news", "empty"]);
        let command =
            json!({ "cmd": "trigger", "channels": channels, "event": "two", "data": 7, "params": params });
        let counts = json!({ "news": { "subscription_count": 3 }, "empty": { "subscription_count": 0 } });
        assert_eq!(ask(&mut server, command).await, json!({ "channels": counts }));
        expect(&mut subscribers, "news", "two", &json!(7)).await;

        let command = json!({ "cmd": "get", "path": "/channels/private-room", "params": params });
        assert_eq!(ask(&mut server, command).await, json!({ "occupied": true, "subscription_count": 3 }));
        let command = json!({ "cmd": "get", "path": "/channels/empty" });
        assert_eq!(ask(&mut server, command).await, json!({ "occupied": false }));
    })
    .await;
}

#[tokio::test]
async fn cluster_python_library_publishes_and_queries() {
    bounded(async {
        let site = Site::start("").await;
        let mut subscribers = subscribers(&site).await;
        let mut server = python_server(&site, &site.app().secret);

        let answer = ask(&mut server, json!({ "cmd": "trigger_batch", "batch": batch() })).await;
        assert_eq!(answer, batch_answer());
        expect_batch(&mut subscribers).await;

        for channel in CHANNELS {
            let data = json!({ "to": channel });
            let command = json!({ "cmd": "trigger", "channels": channel, "event": "one", "data": data });
            assert_eq!(ask(&mut server, command).await, json!({}));
            expect(&mut subscribers, channel, "one", &data).await;
        }
        let command = json!({ "cmd": "trigger", "channels": ["news", "empty"], "event": "two", "data": "x" });
        assert_eq!(ask(&mut server, command).await, json!({}));
        expect(&mut subscribers, "news", "two", &json!("x")).await;

        let command = |channel: &str, attributes: Value| {
            json!({ "cmd": "channel_info", "channel": channel, "attributes": attributes })
        };
        let counted = ask(&mut server, command("private-room", json!(["subscription_count"]))).await;
        assert_eq!(counted, json!({ "occupied": true, "subscription_count": 3 }));
        assert_eq!(ask(&mut server, command("empty", json!([]))).await, json!({ "occupied": false }));
    })
    .await;
}

/// `socket_id` excludes the sender of an event, on whichever node it is connected.
#[tokio::test]
async fn cluster_socket_id_of_a_publish_excludes_the_sender_on_every_node() {
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
                    { "channel": "news", "name": "excluded", "data": "x", "socket_id": socket_id },
                    { "channel": "news", "name": "for-all", "data": "x" },
                ]);
                ask(server, json!({ "cmd": command, "batch": batch })).await;
                for (number, (browser, _)) in browsers.iter_mut().enumerate() {
                    let expected: &[&str] =
                        if number == sender { &["for-all"] } else { &["excluded", "for-all"] };
                    for name in expected {
                        assert_eq!(browser.next().await["event"], **name);
                    }
                }
            }
        }
    })
    .await;
}

/// Two backends publish in turn; every browser receives each event once and in order.
#[tokio::test]
async fn cluster_browsers_receive_every_event_once_in_order() {
    bounded(async {
        let site = Site::start("").await;
        let mut subscribers = subscribers(&site).await;
        let mut servers = [
            ("triggerBatch", node_server(&site, &site.app().secret)),
            ("trigger_batch", python_server(&site, &site.app().secret)),
        ];
        for round in 0..30 {
            let (command, server) = &mut servers[round % 2];
            let event = |number: usize| {
                json!({ "channel": CHANNELS[round % 3], "name": "e", "data": { "number": number } })
            };
            let batch: Vec<Value> = (round * 10..round * 10 + 10).map(event).collect();
            assert_eq!(ask(server, json!({ "cmd": command, "batch": batch })).await, json!({}));
        }
        for round in 0..30 {
            for number in round * 10..round * 10 + 10 {
                expect(&mut subscribers, CHANNELS[round % 3], "e", &json!({ "number": number })).await;
            }
        }
    })
    .await;
}

/// Each library raises its own kind of error.
#[tokio::test]
async fn cluster_errors_are_raised_by_the_libraries() {
    bounded(async {
        let site = Site::start("").await;
        let too_many: Vec<Value> =
            (0..11).map(|_| json!({ "channel": "news", "name": "e", "data": "x" })).collect();
        for (command, start) in [
            ("triggerBatch", node_server as fn(&Site, &str) -> Client),
            ("trigger_batch", python_server as fn(&Site, &str) -> Client),
        ] {
            let mut wrong = start(&site, "not the secret");
            let report = wrong.request(&json!({ "cmd": command, "batch": [too_many[0]] })).await;
            assert_eq!((&report["type"], &report["status"]), (&"failed".into(), &401.into()), "{report}");
            assert_eq!(report["body"]["code"], "auth_failed", "{report}");
            let error = report["error"].as_str().unwrap();
            assert!(error.contains("401") || error.contains("PusherBadAuth"), "{error}");

            let mut right = start(&site, &site.app().secret);
            let report = right.request(&json!({ "cmd": command, "batch": too_many })).await;
            assert_eq!((&report["type"], &report["status"]), (&"failed".into(), &400.into()), "{report}");
            assert_eq!(report["body"]["code"], "limit_exceeded", "{report}");
            let good = right.request(&json!({ "cmd": command, "batch": [too_many[0]] })).await;
            assert_eq!(good["type"], "result", "the next request succeeds: {good}");
        }
    })
    .await;
}

#[tokio::test]
async fn cluster_pusher_js_reports_refused_subscriptions_and_connections() {
    bounded(async {
        let site = Site::start("").await;
        let mut eve = browser(&site, "not the secret").await;
        for channel in ["private-room", "private-encrypted-room"] {
            let answer = subscribe(&mut eve, channel).await;
            assert_eq!(answer["event"], "pusher:subscription_error", "{answer}");
            assert_eq!(answer["data"]["status"], 401, "{answer}");
        }
        subscribed(&mut eve, "news").await;

        // An unknown app key: pusher-js receives 4001 and does not reconnect.
        let mut lost = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg("nobody").start();
        let error = lost.find("error", |report| report["type"] == "error").await;
        assert_eq!(error["error"]["error"]["data"]["code"], 4001, "{error}");
        lost.find("end", |report| report["current"] == "disconnected").await;
    })
    .await;
}
