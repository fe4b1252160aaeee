//! Users (protocol.md 2.9, 1.7): signing in, being sent to, being sent away.

use fanfare::auth;
use fanfare::limits;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Incoming;
use crate::support::{AppSpec, Backend, Cluster, PATIENCE, Server, on_both_backends};

on_both_backends![
    all_connections_of_a_user_are_reached,
    nothing_but_the_end_signs_a_user_out,
    a_user_is_sent_away_everywhere,
    user_id_of_any_text_is_reached,
];

const ANN: &str = "#server-to-user-ann";

#[tokio::test]
async fn success_repeats_what_was_signed() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let frame = ann.sign_in_with(r#" {"id":"ann", "n":1.0, "ü":"\u00fc"} "#).await;
    assert_eq!(
        frame.text,
        r#"{"event":"pusher:signin_success","data":{"user_data":" {\"id\":\"ann\", \"n\":1.0, \"ü\":\"\\u00fc\"} "}}"#
    );
}

async fn all_connections_of_a_user_are_reached(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut tabs = cluster.browsers("key1").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
        // As pusher-js does then; some libraries send an empty `auth`.
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
    // A second sign-in and subscriptions to the channel are no second connection.
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

async fn nothing_but_the_end_signs_a_user_out(backend: Backend) {
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
    // Nor does it help to say that one is someone else.
    ann.ask_to_sign_in(r#"{"id":"ben"}"#).await;
    assert!(ann.expect_error_code(4009).await.contains("another user"));
    caller.publish(ANN, "still-here", "").await;
    ann.expect_event(ANN, "still-here").await;
    ann.close().await;
    // The first that is said of her since.
    eve.expect_watchlist(&[], &["ann"]).await;
}

async fn a_user_is_sent_away_everywhere(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut tabs = cluster.browsers("key1").await;
    for tab in &mut tabs {
        tab.sign_in("ann").await;
    }
    let mut ben = cluster.second().browser("key1").await;
    ben.sign_in("ben").await;
    // To be called ann on a presence channel is not to have signed in.
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
async fn a_wrong_signature_ends_the_connection() {
    let server = Server::builder().start().await;
    let data = r#"{"id":"ann"}"#;
    for what in
        ["nothing", "no key", "another key", "other data", "another socket", "a subscription", "no hex"]
    {
        let mut ann = server.browser("key1").await;
        let right = ann.sign_text(&auth::signin_text(ann.socket_id(), data));
        let auth = match what {
            "nothing" => String::new(),
            "no key" => right.split(':').nth(1).unwrap().into(),
            "another key" => right.replace("key1", "key2"),
            "other data" => ann.sign_text(&auth::signin_text(ann.socket_id(), r#"{"id":"ben"}"#)),
            "another socket" => ann.sign_text(&auth::signin_text("1.1", data)),
            "a subscription" => ann.sign("private-room"),
            _ => "key1:zz".into(),
        };
        ann.send(json!({ "event": "pusher:signin", "data": { "auth": auth, "user_data": data } })).await;
        // What it says after that has no effect.
        let _ = ann.try_send_message(Message::text("not json")).await;
        let message = ann.expect_error_code(4009).await;
        assert!(
            !message.contains("secret1") && !message.contains(right.split(':').nth(1).unwrap()),
            "{message}"
        );
        let end = ann.next_within(PATIENCE).await;
        assert!(matches!(end, Incoming::Closed(4009)), "{what}: {end:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_the_data_is_named() {
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
        ann.ask_to_sign_in(data).await;
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
    // Mistakes of the app's backend are no reason to end the connection.
    ann.sign_in(&"🎺".repeat(limits::USER_ID_CHARS_MAX)).await;
}

/// Ids as identity providers make them, and others that no channel name could have.
async fn user_id_of_any_text_is_reached(backend: Backend) {
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
            // As pusher-js does.
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
        // Some libraries sign the id as it is.
        let signed = format!("/apps/1/users/{id}/terminate_connections");
        caller.request("POST", &path).signed_as(&signed).send().await.expect_ok();
        for tab in &mut tabs {
            assert_eq!(tab.closed().await, 4009, "{id}");
        }
    }
    let listed = caller.get("/channels", &[]).await.expect_ok();
    assert_eq!(listed, json!({ "channels": {} }), "users are no channels");
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn a_users_channel_is_for_that_user_only() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let refused = |error: &Value| error["type"] == "AuthError" && error["status"] == 401;
    ann.ask_for(ANN, json!({})).await;
    let error = ann.expect_subscription_error(ANN).await;
    assert!(refused(&error), "{error}");
    ann.sign_in("ann").await;
    let bens = "#server-to-user-ben";
    let auth = ann.sign(bens);
    for members in [json!({}), json!({ "auth": "" }), json!({ "auth": auth })] {
        ann.ask_for(bens, members).await;
        let error = ann.expect_subscription_error(bens).await;
        assert!(refused(&error), "{error}");
    }
    ann.subscribe(ANN).await;
    server.caller("1").publish(bens, "to-ben", "").await;
    server.caller("1").publish(ANN, "to-ann", "").await;
    ann.expect_nothing_before(ANN, "to-ann").await;
}

#[tokio::test]
async fn who_shows_no_signature_is_closed_where_that_is_asked_for() {
    let app = AppSpec::new("4").set("enable_user_authentication", true).set("user_authentication_timeout", 2);
    let server = Server::builder().app(app).start().await;
    // Each has its own two seconds, which begin when it connects.
    let mut signed_in = server.browser("key4").await;
    signed_in.sign_in("ann").await;
    let mut listener = server.browser("key4").await;
    listener.subscribe("private-room").await;
    let mut member = server.browser("key4").await;
    member.join("presence-room", "ben").await;
    // Neither a public channel nor a refusal is a signature.
    let mut stranger = server.browser("key4").await;
    stranger.subscribe("news").await;
    stranger.subscribe_raw(json!({ "channel": "private-room", "auth": "key4:00" })).await;
    stranger.expect_subscription_error("private-room").await;
    let end = stranger.next_within(PATIENCE).await;
    assert!(matches!(end, Incoming::Closed(4009)), "{end:?}");
    // The others came before it, and are there after it.
    for browser in [&mut signed_in, &mut listener, &mut member] {
        browser.subscribe("news").await;
    }
}
