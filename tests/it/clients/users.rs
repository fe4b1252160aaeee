//! User ids and `channel_data` by the official libraries: those of Node and
//! Python sign and publish, `pusher-js` subscribes and signs in.

use serde_json::{Value, json};

use crate::support::json_lines::{Client, Launch};
use crate::support::{Backend, Cluster, Server, bounded, on_both_backends};

/// 32 bytes, as shared by applications and their backends.
const MASTER_KEY: &str = "ZmFuZmFyZS1mYW5mYXJlLWZhbmZhcmUtZmFuZmFyZSE=";

on_both_backends![
    pusher_js_with_any_user_id_is_reached_and_terminated_by_node,
    pusher_js_with_encoded_user_id_is_terminated_by_node,
    pusher_js_with_plain_user_id_is_reached_by_python,
];

fn node_server(server: &Server) -> Client {
    backend(Launch::node("node_server.js"), server)
}

fn python_server(server: &Server) -> Client {
    backend(Launch::python("python_server.py"), server)
}

fn backend(launch: Launch, server: &Server) -> Client {
    let app = server.app("1");
    let launch = launch.addr(server.addr()).arg(&app.id).arg(&app.key).arg(&app.secret);
    launch.env("ENCRYPTION_MASTER_KEY", MASTER_KEY).start()
}

/// `pusher-js`, connected to this node.
async fn pusher_js(server: &Server) -> Client {
    let app = server.app("1");
    let launch = Launch::node("pusher_js.js").addr(server.addr()).arg(&app.key);
    let mut client = launch.env("APP_SECRET", &app.secret).env("ENCRYPTION_MASTER_KEY", MASTER_KEY).start();
    client.find("connection", |report| report["current"] == "connected").await;
    client
}

/// Signs in and waits for the subscription to the user's own channel.
async fn sign_in(client: &mut Client, id: &str) {
    let user = json!({ "id": id, "user_info": { "name": format!("name of {id}") } });
    client.send(&json!({ "cmd": "sign_in", "user": user }));
    let report = find(client, "signed_in").await;
    let channel = format!("#server-to-user-{id}");
    assert_eq!(report, json!({ "type": "signed_in", "user": user, "channel": channel }));
}

async fn find(client: &mut Client, kind: &str) -> Value {
    client.find(kind, |report| report["type"] == kind).await
}

async fn expect_user_event(client: &mut Client, event: &str, data: &Value) {
    let report = find(client, "user_event").await;
    assert_eq!(report, json!({ "type": "user_event", "event": event, "data": data }));
}

/// Closed for good: `pusher-js` does not reconnect by itself.
async fn expect_terminated(client: &mut Client, id: &str) {
    let is_close = |report: &Value| report["error"]["type"] == "WebSocketError";
    let report = client.find("close code", is_close).await;
    assert_eq!(report["error"]["error"]["data"]["code"], 4009, "{id}: {report}");
    client.find("end of the connection", |report| report["current"] == "disconnected").await;
}

/// The answer to a command that succeeds.
async fn send_command(server: &mut Client, command: Value) -> Value {
    let report = server.request(&command).await;
    assert_eq!(report["type"], "result", "{report} to {command}");
    report["body"].clone()
}

/// Sends to a user and expects the event on all of the user's connections.
async fn reach(server: &mut Client, command: &str, id: &str, tabs: &mut [Client]) {
    let data = json!({ "to": id, "text": "čeština \"🎺\"" });
    let command = json!({ "cmd": command, "user": id, "event": "greeting", "data": data });
    assert_eq!(send_command(server, command).await, json!({}));
    for tab in tabs {
        expect_user_event(tab, "greeting", &data).await;
    }
}

/// Ids that the Node library can put into a path unchanged.
const USERS: [&str; 8] = [
    "auth0|5f7c",
    "anna+x@example.com",
    "Jürgen Müller",
    "🦊 of the 🌲",
    "O'Hara \"Bob\" `x`",
    "<a&b>{c}[d]^e",
    "urn:uuid:6e8bc430=;,.",
    "日本語",
];

/// Ids with characters that have a meaning in paths. The library does not encode
/// them, so the application must.
const ENCODED_USERS: [&str; 9] = [
    "team/anna",
    "a?b=c&d",
    "a#b",
    "100%",
    "%41",
    "back\\slash",
    "Jürgen \"J\" Müller | 🦊/../x",
    // encodeURIComponent keeps the quote, and the library encodes it after it has signed.
    "O'Hara (\"Bob\")",
    "team/O'Hara",
];

async fn pusher_js_with_any_user_id_is_reached_and_terminated_by_node(backend: Backend) {
    reach_and_terminate(backend, &USERS, false).await;
}

async fn pusher_js_with_encoded_user_id_is_terminated_by_node(backend: Backend) {
    reach_and_terminate(backend, &ENCODED_USERS, true).await;
}

/// A user has a connection on each node. The user `auth0` stays connected, and
/// receives no event of others.
async fn reach_and_terminate(backend: Backend, users: &[&str], encode: bool) {
    let cluster = Cluster::start(backend).await;
    let mut server = node_server(cluster.first());
    let mut tabs = [pusher_js(cluster.first()).await, pusher_js(cluster.second()).await];
    let mut other = pusher_js(cluster.second()).await;
    sign_in(&mut other, "auth0").await;
    for id in users {
        for tab in &mut tabs {
            sign_in(tab, id).await;
        }
        reach(&mut server, "sendToUser", id, &mut tabs).await;
        let command = json!({ "cmd": "terminateUserConnections", "user": id, "encode": encode });
        assert_eq!(send_command(&mut server, command).await, json!({}));
        for tab in &mut tabs {
            expect_terminated(tab, id).await;
        }
    }
    reach(&mut server, "sendToUser", "auth0", &mut [other]).await;
}

/// The library accepts the characters of channel names only.
const PYTHON_USERS: [&str; 3] = ["anna", "anna@example.com", "a-b_c=d;e,f.g"];

async fn pusher_js_with_plain_user_id_is_reached_by_python(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut server = python_server(cluster.first());
    for id in PYTHON_USERS {
        let mut tabs = [pusher_js(cluster.first()).await, pusher_js(cluster.second()).await];
        for tab in &mut tabs {
            sign_in(tab, id).await;
        }
        reach(&mut server, "send_to_user", id, &mut tabs).await;
    }
}

/// Neither request reaches the server.
#[tokio::test]
async fn python_user_id_outside_of_channel_characters_is_refused_by_library() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut python = python_server(&server);
        for id in USERS.iter().chain(&ENCODED_USERS) {
            for command in ["send_to_user", "terminate_user_connections"] {
                let command = json!({ "cmd": command, "user": id, "event": "greeting", "data": "x" });
                let report = python.request(&command).await;
                assert_eq!(
                    (&report["type"], &report["status"]),
                    (&"failed".into(), &Value::Null),
                    "{report}"
                );
                assert!(report["error"].as_str().unwrap().starts_with("ValueError"), "{report}");
            }
        }
    })
    .await;
}

/// `pusher` 3.3.4 posts to `/users/{id}/terminate_connections`, without the app: no server can
/// route it. The user stays connected.
#[tokio::test]
async fn python_terminate_user_connections_has_no_app_id_and_is_not_found() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut python = python_server(&server);
        let mut tab = pusher_js(&server).await;
        sign_in(&mut tab, "anna").await;
        let report = python.request(&json!({ "cmd": "terminate_user_connections", "user": "anna" })).await;
        assert_eq!((&report["type"], &report["status"]), (&"failed".into(), &404.into()), "{report}");
        reach(&mut python, "send_to_user", "anna", &mut [tab]).await;
    })
    .await;
}

const CHANNELS: [&str; 4] =
    ["private-room", "private-encrypted-room", "private-cache-room", "private-encrypted-cache-room"];

/// Only presence channels need `channel_data`. Backends that always pass some sign it everywhere.
fn channel_data() -> Value {
    json!({ "user_id": "auth0|5f7c", "user_info": { "name": "Jürgen \"J\" Müller", "of": "a/b 🦊" } })
}

#[tokio::test]
async fn pusher_js_with_channel_data_signed_by_node_is_subscribed() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut node = node_server(&server);
        let mut client = pusher_js(&server).await;
        for channel in CHANNELS {
            let command = json!({ "cmd": "subscribe", "channel": channel, "channel_data": channel_data() });
            client.send(&command);
            let answer = find(&mut client, "event").await;
            let seen = (&answer["channel"], &answer["event"]);
            assert_eq!(seen, (&channel.into(), &"pusher:subscription_succeeded".into()), "{answer}");
            if channel.contains("-cache-") {
                assert_eq!(find(&mut client, "event").await["event"], "pusher:cache_miss");
            }
            let data = json!({ "to": channel });
            let command = json!({ "cmd": "trigger", "channels": channel, "event": "one", "data": data });
            send_command(&mut node, command).await;
            let expected = json!({ "type": "event", "channel": channel, "event": "one", "data": data });
            assert_eq!(find(&mut client, "event").await, expected);
        }
    })
    .await;
}

/// Python writes JSON with spaces and escapes: the signature covers `channel_data` byte for byte.
#[tokio::test]
async fn channel_data_signed_by_python_is_subscribed_and_altered_is_refused() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut python = python_server(&server);
        let mut browser = server.browser("key1").await;
        for channel in CHANNELS {
            let socket_id = browser.socket_id();
            let command = json!({
                "cmd": "authenticate", "channel": channel, "socket_id": socket_id, "data": channel_data(),
            });
            let answer = send_command(&mut python, command).await;
            let data = |channel_data: &str| {
                json!({ "channel": channel, "auth": answer["auth"], "channel_data": channel_data })
            };
            let signed = answer["channel_data"].as_str().unwrap();
            browser.subscribe_raw(data(&signed.replace("a/b", "b/a"))).await;
            let refused = browser.find_event("pusher:subscription_error").await;
            assert_eq!(refused.channel.as_deref(), Some(channel), "{}", refused.text);
            assert_eq!(refused.data["status"], 401, "{}", refused.text);
            browser.subscribe_raw(data(signed)).await;
            browser.confirmed(channel).await;
        }
    })
    .await;
}

#[tokio::test]
async fn sign_in_signed_by_python_succeeds() {
    bounded(async {
        let server = Server::builder().start().await;
        let mut python = python_server(&server);
        let mut browser = server.browser("key1").await;
        let user = json!({ "id": "anna@example.com", "user_info": { "name": "Jürgen \"J\" Müller 🦊" } });
        let command = json!({ "cmd": "authenticate_user", "socket_id": browser.socket_id(), "user": user });
        let data = send_command(&mut python, command).await;
        browser.send(json!({ "event": "pusher:signin", "data": data })).await;
        let frame = browser.find_event("pusher:signin_success").await;
        assert_eq!(frame.data["user_data"], data["user_data"]);
    })
    .await;
}
