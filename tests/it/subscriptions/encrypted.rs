//! Encrypted channels (protocol.md 2.5): private, and the server cannot decrypt the
//! events.

use serde_json::json;

use crate::support::{Backend, Cluster, Server, on_both_backends};

on_both_backends![encrypted_channel_delivers_ciphertext_unchanged];

async fn encrypted_channel_delivers_ciphertext_unchanged(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["private-encrypted-room"]).await;
    let sealed = r#"{"nonce":"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz","ciphertext":"3q2+7w=="}"#;
    let batch = json!([
        { "name": "one", "channel": "private-encrypted-room", "data": sealed, "info": "subscription_count" },
        { "name": "two", "channel": "private-encrypted-room", "data": sealed },
    ]);
    let answer = caller.post_batch(batch).await.expect_ok();
    assert_eq!(answer, json!({ "batch": [{ "subscription_count": 2 }, {}] }));
    for name in ["one", "two"] {
        let frame = subscribers.expect_event("private-encrypted-room", name).await;
        assert_eq!(frame.data_text(), sealed);
    }
}

#[tokio::test]
async fn encrypted_channel_subscription_requires_signature() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    for auth in [json!(null), json!(browser.sign("private-room")), json!("key1:00")] {
        browser.subscribe_raw(json!({ "channel": "private-encrypted-room", "auth": auth })).await;
        let error = browser.expect_subscription_error("private-encrypted-room").await;
        assert_eq!(error["type"], "AuthError", "{error}");
    }
    browser.subscribe("private-encrypted-room").await;
}

/// The server neither inspects nor compresses encrypted events: it silently ignores
/// a delta opt-in.
#[tokio::test]
async fn encrypted_channel_ignores_delta_opt_in() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.first().browser("key1").await;
    browser.subscribe_with("private-encrypted-room", json!({ "delta": "fossil" })).await;
    let sealed = "x".repeat(1_000);
    for _ in 0..5 {
        caller.publish("private-encrypted-room", "e", &sealed).await;
        let frame = browser.expect_event("private-encrypted-room", "e").await;
        let expected = format!(r#"{{"event":"e","channel":"private-encrypted-room","data":"{sealed}"}}"#);
        assert_eq!(frame.text, expected);
    }
}
