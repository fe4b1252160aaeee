//! Users (protocol.md 2.9, 1.7): sign-in, events for a user, termination of connections.

use fanfare::auth;
use fanfare::limits;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Incoming;
use crate::support::{AppSpec, Backend, Cluster, STEP_TIMEOUT, Server, on_both_backends};

on_both_backends![
    signin_user_channel_reaches_all_connections_of_the_user,
    signin_lasts_until_the_connection_closes,
    signin_terminated_user_is_closed_on_every_node,
    signin_user_id_may_be_any_text,
];

const ANN: &str = "#server-to-user-ann";

#[tokio::test]
async fn signin_success_repeats_the_signed_user_data() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let frame = ann.sign_in_with(r#" {"id":"ann", "n":1.0, "ü":"\u00fc"} "#).await;
    assert_eq!(
        frame.text,
        r#"{"event":"pusher:signin_success","data":{"user_data":" {\"id\":\"ann\", \"n\":1.0, \"ü\":\"\\u00fc\"} "}}"#
    );
}

async fn signin_user_channel_reaches_all_connections_of_the_user(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut tabs = cluster.browsers("key1").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
        // pusher-js subscribes to the user channel after sign-in; some libraries send an empty
        // `auth`.
        let frame = tab.subscribe(ANN).await;
        assert_eq!(frame.data_text(), "{}");
        tab.subscribe_with(ANN, json!({ "auth": "" })).await;
        tab.subscribe("news").await;
    }
    let mut ben = cluster.second().browser("key1").await;
    ben.sign_in("ben").await;
    ben.subscribe("news").await;
    caller.publish(ANN, "to-ann", "x").await;
    for tab in &mut tabs {
        let frame = tab.expect_event(ANN, "to-ann").await;
        assert_eq!(frame.text, r##"{"event":"to-ann","channel":"#server-to-user-ann","data":"x"}"##);
    }
    caller.publish("news", "marker", "").await;
    ben.expect_nothing_before("news", "marker").await;
    // After a second sign-in and subscriptions to the user channel, each event still arrives
    // once.
    assert_eq!(
        tabs[0].sign_in("ann").await.data["user_data"],
        json!({ "id": "ann", "user_info": { "name": "ann" } }).to_string()
    );
    caller.publish(ANN, "again", "").await;
    caller.publish("news", "marker", "").await;
    tabs[0].expect_event("news", "marker").await;
    tabs[0].expect_event(ANN, "again").await;
    tabs[0].expect_event("news", "marker").await;
}

async fn signin_lasts_until_the_connection_closes(backend: Backend) {
    let app = AppSpec::new("4").set("enable_watchlist_events", true);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let caller = cluster.caller("4");
    let mut ann = cluster.second().browser("key4").await;
    ann.sign_in("ann").await;
    let mut eve = cluster.first().browser("key4").await;
    eve.sign_in_with(&json!({ "id": "eve", "watchlist": ["ann"] }).to_string()).await;
    eve.expect_watchlist(&["ann"], &[]).await;
    ann.subscribe(ANN).await;
    ann.unsubscribe(ANN).await;
    caller.publish(ANN, "still-here", "").await;
    ann.expect_event(ANN, "still-here").await;
    // A sign-in as another user fails and does not end the first one.
    ann.request_sign_in(r#"{"id":"ben"}"#).await;
    assert!(ann.expect_error_code(4009).await.contains("another user"));
    caller.publish(ANN, "still-here", "").await;
    ann.expect_event(ANN, "still-here").await;
    ann.close().await;
    // The first watchlist event about ann since her sign-in.
    eve.expect_watchlist(&[], &["ann"]).await;
}

async fn signin_terminated_user_is_closed_on_every_node(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut tabs = cluster.browsers("key1").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
    }
    let mut ben = cluster.second().browser("key1").await;
    ben.sign_in("ben").await;
    // A presence member with the user id of ann has not signed in.
    ben.join("presence-room", "ann").await;
    let answer =
        cluster.caller("1").request("POST", "/users/ann/terminate_connections").json(&json!({})).send().await;
    assert_eq!(answer.expect_ok(), json!({}));
    for tab in &mut tabs {
        assert_eq!(tab.closed().await, 4009);
    }
    cluster.caller("1").publish("presence-room", "marker", "").await;
    ben.expect_nothing_before("presence-room", "marker").await;
}

#[tokio::test]
async fn signin_with_a_wrong_signature_closes_the_connection() {
    let server = Server::builder().start().await;
    let data = r#"{"id":"ann"}"#;
    for case in
        ["nothing", "no key", "another key", "other data", "another socket", "a subscription", "no hex"]
    {
        let mut ann = server.browser("key1").await;
        let right = ann.sign_text(&auth::signin_text(ann.socket_id(), data));
        let auth = match case {
            "nothing" => String::new(),
            "no key" => right.split(':').nth(1).unwrap().into(),
            "another key" => right.replace("key1", "key2"),
            "other data" => ann.sign_text(&auth::signin_text(ann.socket_id(), r#"{"id":"ben"}"#)),
            "another socket" => ann.sign_text(&auth::signin_text("1.1", data)),
            "a subscription" => ann.sign("private-room"),
            _ => "key1:zz".into(),
        };
        ann.send(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": data } })).await;
        // Later messages of the connection have no effect.
        let _ = ann.try_send_message(Message::text("not json")).await;
        let message = ann.expect_error_code(4009).await;
        assert!(
            !message.contains("secret1") && !message.contains(right.split(':').nth(1).unwrap()),
            "{message}"
        );
        let end = ann.incoming_within(STEP_TIMEOUT).await;
        assert!(matches!(end, Incoming::Closed(4009)), "{case}: {end:?}");
    }
}

#[tokio::test]
async fn signin_error_names_the_invalid_field_of_user_data() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let long = json!({ "id": "i".repeat(limits::USER_ID_CHARS_MAX + 1) }).to_string();
    for (data, reason) in [
        ("ann", "`user_data`"),
        ("[]", "`user_data`"),
        ("{}", "`id`"),
        (r#"{"id":42}"#, "`id`"),
        (r#"{"id":""}"#, "`id`"),
        (r#"{"id":"a\nb"}"#, "`id` is refused: the user id has the control character"),
        (r#"{"id":"\u009f"}"#, "`id`"),
        (r#"{"id":"\ud83d"}"#, "half of a surrogate pair"),
        (&long, "`id`"),
        (r#"{"id":"ann","watchlist":"ben"}"#, "`watchlist`"),
    ] {
        ann.request_sign_in(data).await;
        let message = ann.expect_error_code(4009).await;
        assert!(message.contains(reason), "{data}: {message}");
    }
    for (data, reason) in [
        (json!({}), "`auth`"),
        (json!({ "auth": "key1:00" }), "`user_data`"),
        (json!({ "auth": "key1:00", "user_data": { "id": "ann" } }), "`user_data`"),
        (json!(7), "`data`"),
    ] {
        ann.send(json!({ "event": "pusher:signin", "data": data })).await;
        let message = ann.expect_error_code(4009).await;
        assert!(message.contains(reason), "{data}: {message}");
    }
    // Invalid `user_data` with a valid signature does not close the connection.
    ann.sign_in(&"🎺".repeat(limits::USER_ID_CHARS_MAX)).await;
}

/// User ids as identity providers create them, and ids that are no valid channel names.
async fn signin_user_id_may_be_any_text(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let longest = "🎺".repeat(limits::USER_ID_CHARS_MAX);
    for id in [
        "auth0|5f7c",
        "ann+x@example.com",
        "Jürgen Müller",
        "a/b\\c\"d'e",
        "{x}:log:1:news",
        ":#server-to-user-",
        "*?[a-z]%41",
        " ",
        longest.as_str(),
    ] {
        let channel = format!("#server-to-user-{id}");
        let mut tabs = cluster.browsers("key1").await;
        for tab in &mut tabs {
            tab.sign_in(id).await;
            // pusher-js subscribes to the user channel too.
            tab.subscribe(&channel).await;
        }
        caller.publish(&channel, "to-user", "x").await;
        for tab in &mut tabs {
            tab.expect_event(&channel, "to-user").await;
        }
        let path = format!("/channels/{}", encoded(&channel));
        let counted = caller.get(&path, &[("info", "subscription_count")]).await.expect_ok();
        assert_eq!(counted["subscription_count"], tabs.len(), "{id}");
        let path = format!("/users/{}/terminate_connections", encoded(id));
        // Some libraries sign the path with the unencoded id.
        let signed = format!("/apps/1/users/{id}/terminate_connections");
        caller.request("POST", &path).signed_as(&signed).send().await.expect_ok();
        for tab in &mut tabs {
            assert_eq!(tab.closed().await, 4009, "{id}");
        }
    }
    let listed = caller.get("/channels", &[]).await.expect_ok();
    assert_eq!(listed, json!({ "channels": {} }), "a user channel is listed");
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn signin_user_channel_refuses_other_users() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let refused = |error: &Value| error["type"] == "AuthError" && error["status"] == 401;
    ann.request_subscription(ANN).await;
    let error = ann.expect_subscription_error(ANN).await;
    assert!(refused(&error), "{error}");
    ann.sign_in("ann").await;
    let bens = "#server-to-user-ben";
    let auth = ann.sign(bens);
    for members in [json!({}), json!({ "auth": "" }), json!({ "auth": auth })] {
        ann.request_subscription_with(bens, members).await;
        let error = ann.expect_subscription_error(bens).await;
        assert!(refused(&error), "{error}");
    }
    ann.subscribe(ANN).await;
    server.caller("1").publish(bens, "to-ben", "").await;
    server.caller("1").publish(ANN, "to-ann", "").await;
    ann.expect_nothing_before(ANN, "to-ann").await;
}

#[tokio::test]
async fn signin_timeout_closes_connections_without_a_signature() {
    let app = AppSpec::new("4").set("enable_user_authentication", true).set("user_authentication_timeout", 2);
    let server = Server::builder().app(app).start().await;
    // The timeout of 2 s begins with each connection.
    let mut signed_in = server.browser("key4").await;
    signed_in.sign_in("ann").await;
    let mut subscriber = server.browser("key4").await;
    subscriber.subscribe("private-room").await;
    let mut member = server.browser("key4").await;
    member.join("presence-room", "ben").await;
    // A public subscription and a refused one do not authorise the connection.
    let mut unauthorised = server.browser("key4").await;
    unauthorised.subscribe("news").await;
    unauthorised.subscribe_raw(json!({ "channel": "private-room", "auth": "key4:00" })).await;
    unauthorised.expect_subscription_error("private-room").await;
    let end = unauthorised.incoming_within(STEP_TIMEOUT).await;
    assert!(matches!(end, Incoming::Closed(4009)), "{end:?}");
    // The other connections are older and stay open.
    for browser in [&mut signed_in, &mut subscriber, &mut member] {
        browser.subscribe("news").await;
    }
}
