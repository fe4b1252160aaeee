//! Private channels (protocol.md 2.4): the app's backend says who may listen.

use fanfare::auth;
use serde_json::{Value, json};

use crate::support::{Backend, Cluster, Server, on_both_backends};

on_both_backends![a_signed_subscription_hears_everything, whoever_was_refused_hears_nothing];

async fn a_signed_subscription_hears_everything(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut audience = cluster.listeners(&["private-room"]).await;
    caller.publish("private-room", "e", "x").await;
    let frame = audience.expect_event("private-room", "e").await;
    assert_eq!(frame.text, r#"{"event":"e","channel":"private-room","data":"x"}"#);
    assert_eq!(caller.subscription_count("private-room").await, 2);
}

async fn whoever_was_refused_hears_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut eve = cluster.second().browser("key1").await;
    eve.subscribe("news").await;
    eve.subscribe_raw(json!({ "channel": "private-room", "auth": "key1:0000" })).await;
    eve.expect_subscription_error("private-room").await;

    let batch = json!([
        { "name": "secret", "channel": "private-room", "data": "" },
        { "name": "marker", "channel": "news", "data": "", "info": "subscription_count" },
    ]);
    caller.post_batch(batch).await.expect_ok();
    eve.expect_nothing_before("news", "marker").await;
    assert_eq!(caller.subscription_count("private-room").await, 0);

    // The connection stays, and may do better.
    eve.subscribe("private-room").await;
    caller.publish("private-room", "e", "").await;
    eve.expect_event("private-room", "e").await;
}

/// The answer names the text that should have been signed: the one thing that
/// helps whoever writes an auth endpoint.
#[tokio::test]
async fn a_refusal_names_what_should_have_been_signed() {
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
    // Not the signature either: whoever may not listen must not learn it.
    let right = browser.sign("private-room");
    assert!(!text.contains(right.split(':').nth(1).unwrap()), "{text:?}");
}

#[tokio::test]
async fn only_the_right_signature_opens_a_channel() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let ben = server.browser("key1").await;
    let other_app = server.browser("key2").await;
    let right = ann.sign("private-room");
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
        ("of another socket", ben.sign("private-room").into()),
        ("of another channel", ann.sign("private-other").into()),
        ("of another app", other_app.sign("private-room").into()),
    ];
    for (what, auth) in wrong {
        ann.subscribe_raw(json!({ "channel": "private-room", "auth": auth })).await;
        let error = ann.expect_subscription_error("private-room").await;
        assert_eq!(error["type"], "AuthError", "{what}: {error}");
        assert_eq!(error["status"], 401, "{what}: {error}");
    }
    ann.subscribe_raw(json!({ "channel": "private-room", "auth": right })).await;
    ann.confirmed("private-room").await;
}

/// Libraries sign `channel_data` on every kind of channel; some send it unsigned.
#[tokio::test]
async fn channel_data_is_part_of_what_is_signed() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    for channel in
        ["private-room", "private-encrypted-room", "private-cache-room", "private-encrypted-cache-room"]
    {
        let mut is_first = true;
        for channel_data in [r#"{ "user_id" : 7, "user_info":{} }"#, "any text: é\"", "7"] {
            let text = auth::subscription_text(ann.socket_id(), channel, Some(channel_data));
            let signed = ann.sign_text(&text);
            let data = |auth: &str, channel_data: &str| json!({ "channel": channel, "auth": auth, "channel_data": channel_data });
            for auth in [signed.clone(), ann.sign(channel)] {
                ann.subscribe_raw(data(&auth, channel_data)).await;
                ann.confirmed(channel).await;
                if std::mem::replace(&mut is_first, false) && channel.contains("cache") {
                    ann.expect_event(channel, "pusher:cache_miss").await;
                }
            }
            let other = server.browser("key1").await.sign(channel);
            for (what, data) in [
                ("signed with, sent without", json!({ "channel": channel, "auth": signed })),
                ("signed with, sent with other data", data(&signed, "other")),
                ("of another socket", data(&other, channel_data)),
            ] {
                ann.subscribe_raw(data).await;
                let error = ann.expect_subscription_error(channel).await;
                assert_eq!(error["type"], "AuthError", "{what}: {error}");
            }
            let wrong = data(&["key1:", &"0".repeat(64)].concat(), channel_data);
            ann.subscribe_raw(wrong).await;
            let error = ann.expect_subscription_error(channel).await;
            assert!(error["error"].as_str().unwrap().contains(&text), "{error}");
        }
        // As some libraries have it that have no data.
        ann.subscribe_raw(json!({ "channel": channel, "auth": ann.sign(channel), "channel_data": "" })).await;
        ann.confirmed(channel).await;
    }
    // It is repeated in the error up to a bound.
    let long = "x".repeat(60_000);
    ann.subscribe_raw(json!({ "channel": "private-a", "auth": "key1:00", "channel_data": long })).await;
    let error = ann.expect_subscription_error("private-a").await;
    assert!(error["error"].as_str().unwrap().len() < 2_000);
}

#[tokio::test]
async fn field_of_the_wrong_type_is_an_error_of_the_channel() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    for (field, value) in [
        ("auth", json!({ "auth": "key1:00" })),
        ("auth", json!(7)),
        ("channel_data", json!({ "user_id": "1" })),
        ("channel_data", json!([])),
    ] {
        for channel in ["private-a", "presence-a", "news"] {
            ann.subscribe_raw(json!({ "channel": channel, field: value })).await;
            let error = ann.expect_subscription_error(channel).await;
            assert_eq!(error["error"], format!("`{field}` must be a string"));
            assert_eq!((&error["type"], &error["status"]), (&json!("InvalidField"), &json!(400)));
        }
    }
    ann.subscribe("news").await;
}

#[tokio::test]
async fn a_signature_in_the_data_string_counts_as_well() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    let data = json!({ "channel": "private-room", "auth": browser.sign("private-room") }).to_string();
    browser.send(json!({ "event": "pusher:subscribe", "data": data })).await;
    browser.confirmed("private-room").await;
}
