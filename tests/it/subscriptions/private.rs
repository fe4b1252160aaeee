//! Private channels (protocol.md 2.4): a subscription needs a signature of the app.

use fanfare::auth;
use serde_json::{Value, json};

use crate::support::{Backend, Cluster, Server, on_both_backends};

on_both_backends![
    private_subscription_with_signature_receives_events,
    private_subscription_refused_receives_nothing
];

async fn private_subscription_with_signature_receives_events(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["private-room"]).await;
    caller.publish("private-room", "e", "x").await;
    let frame = subscribers.expect_event("private-room", "e").await;
    assert_eq!(frame.text, r#"{"event":"e","channel":"private-room","data":"x"}"#);
    assert_eq!(caller.subscription_count("private-room").await, 2);
}

async fn private_subscription_refused_receives_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut refused = cluster.second().browser("key1").await;
    refused.subscribe("news").await;
    refused.subscribe_raw(json!({ "channel": "private-room", "auth": "key1:0000" })).await;
    refused.expect_subscription_error("private-room").await;

    let batch = json!([
        { "name": "secret", "channel": "private-room", "data": "" },
        { "name": "marker", "channel": "news", "data": "", "info": "subscription_count" },
    ]);
    caller.post_batch(batch).await.expect_ok();
    refused.expect_nothing_before("news", "marker").await;
    assert_eq!(caller.subscription_count("private-room").await, 0);

    // The connection stays open, and a signed subscription succeeds.
    refused.subscribe("private-room").await;
    caller.publish("private-room", "e", "").await;
    refused.expect_event("private-room", "e").await;
}

/// The error contains the text to be signed, which the author of an auth endpoint needs
/// most.
#[tokio::test]
async fn private_subscription_error_contains_the_text_to_be_signed() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    let auth = format!("key1:{}", "0".repeat(64));
    browser.subscribe_raw(json!({ "channel": "private-room", "auth": auth })).await;
    let error = browser.expect_subscription_error("private-room").await;
    assert_eq!(error["type"], "AuthError");
    assert_eq!(error["status"], 401);
    let text = error["error"].as_str().unwrap();
    let signed = format!("{}:private-room", browser.socket_id());
    assert!(text.contains(&signed), "{text:?} does not name {signed:?}");
    assert!(!text.contains("secret1"), "{text:?}");
    // The error must not contain the valid signature.
    let right = browser.sign("private-room");
    assert!(!text.contains(right.split(':').nth(1).unwrap()), "{text:?}");
}

#[tokio::test]
async fn private_subscription_with_wrong_signature_is_refused() {
    let server = Server::builder().start().await;
    let mut client = server.browser("key1").await;
    let other_client = server.browser("key1").await;
    let other_app = server.browser("key2").await;
    let right = client.sign("private-room");
    let signature = right.split(':').nth(1).unwrap();
    let wrong: Vec<(&str, Value)> = vec![
        ("none", Value::Null),
        ("empty", "".into()),
        ("no key", signature.into()),
        ("an empty key", format!(":{signature}").into()),
        ("another app's key", format!("key2:{signature}").into()),
        ("an unknown key", format!("nobody:{signature}").into()),
        ("no signature", "key1:".into()),
        ("half a signature", format!("key1:{}", &signature[..32]).into()),
        ("a signature and more", format!("{right}00").into()),
        ("no hex", format!("key1:{}", "z".repeat(64)).into()),
        ("of another socket", other_client.sign("private-room").into()),
        ("of another channel", client.sign("private-other").into()),
        ("of another app", other_app.sign("private-room").into()),
    ];
    for (case, auth) in wrong {
        client.subscribe_raw(json!({ "channel": "private-room", "auth": auth })).await;
        let error = client.expect_subscription_error("private-room").await;
        assert_eq!(error["type"], "AuthError", "{case}: {error}");
        assert_eq!(error["status"], 401, "{case}: {error}");
    }
    client.subscribe_raw(json!({ "channel": "private-room", "auth": right })).await;
    client.confirmed("private-room").await;
}

/// Some libraries sign `channel_data` on every kind of channel, some send it unsigned.
#[tokio::test]
async fn private_channel_data_may_be_signed_or_unsigned() {
    let server = Server::builder().start().await;
    let mut client = server.browser("key1").await;
    for channel in
        ["private-room", "private-encrypted-room", "private-cache-room", "private-encrypted-cache-room"]
    {
        let mut is_first = true;
        for channel_data in [r#"{ "user_id" : 7, "user_info":{} }"#, "any text: é\"", "7"] {
            let text = auth::subscription_text(client.socket_id(), channel, Some(channel_data));
            let signed = client.sign_text(&text);
            let data = |auth: &str, channel_data: &str| json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
            for auth in [signed.clone(), client.sign(channel)] {
                client.subscribe_raw(data(&auth, channel_data)).await;
                client.confirmed(channel).await;
                if std::mem::replace(&mut is_first, false) && channel.contains("cache") {
                    client.expect_event(channel, "pusher:cache_miss").await;
                }
            }
            let other = server.browser("key1").await.sign(channel);
            for (case, data) in [
                ("signed with, sent without", json!({ "channel": channel, "auth": signed })),
                ("signed with, sent with other data", data(&signed, "other")),
                ("of another socket", data(&other, channel_data)),
            ] {
                client.subscribe_raw(data).await;
                let error = client.expect_subscription_error(channel).await;
                assert_eq!(error["type"], "AuthError", "{case}: {error}");
            }
            let wrong = data(&["key1:", &"0".repeat(64)].concat(), channel_data);
            client.subscribe_raw(wrong).await;
            let error = client.expect_subscription_error(channel).await;
            assert!(error["error"].as_str().unwrap().contains(&text), "{error}");
        }
        // Some libraries send an empty `channel_data`.
        let auth = client.sign(channel);
        client.subscribe_raw(json!({ "channel": channel, "auth": auth, "channel_data": "" })).await;
        client.confirmed(channel).await;
    }
    // The error repeats `channel_data` only up to a bound.
    let long = "x".repeat(60_000);
    client.subscribe_raw(json!({ "channel": "private-a", "auth": "key1:00", "channel_data": long })).await;
    let error = client.expect_subscription_error("private-a").await;
    assert!(error["error"].as_str().unwrap().len() < 2_000);
}

#[tokio::test]
async fn subscription_field_of_the_wrong_type_is_a_channel_error() {
    let server = Server::builder().start().await;
    let mut client = server.browser("key1").await;
    for (field, value) in [
        ("auth", json!({ "auth": "key1:00" })),
        ("auth", json!(7)),
        ("channel_data", json!({ "user_id": "1" })),
        ("channel_data", json!([])),
    ] {
        for channel in ["private-a", "presence-a", "news"] {
            client.subscribe_raw(json!({ "channel": channel, field: value })).await;
            let error = client.expect_subscription_error(channel).await;
            assert_eq!(error["error"], format!("`{field}` must be a string"));
            assert_eq!((&error["type"], &error["status"]), (&json!("InvalidField"), &json!(400)));
        }
    }
    client.subscribe("news").await;
}

#[tokio::test]
async fn private_subscription_with_data_as_a_string_is_accepted() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    let data = json!({ "channel": "private-room", "auth": browser.sign("private-room") }).to_string();
    browser.send(json!({ "event": "pusher:subscribe", "data": data })).await;
    browser.confirmed("private-room").await;
}
