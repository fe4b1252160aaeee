//! Cache channels (protocol.md 2.12): a new subscriber receives the last event.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::{AppSpec, Backend, Cluster, STEP_TIMEOUT, eventually, on_both_backends};

on_both_backends![
    cache_channel_sends_last_event_to_new_subscriber,
    cache_channel_works_with_every_channel_type,
    cache_channel_does_not_keep_client_events,
    cache_channel_event_expires_after_ttl,
];

/// Subscribes, and returns the first frame after the confirmation.
async fn first_of(browser: &mut Browser, channel: &str) -> String {
    browser.subscribe(channel).await;
    browser.next().await.text
}

async fn cache_channel_sends_last_event_to_new_subscriber(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscriber = cluster.second().browser("key1").await;
    let miss = r#"{"event":"pusher:cache_miss","channel":"cache-news","data":"{}"}"#;
    assert_eq!(first_of(&mut subscriber, "cache-news").await, miss);
    let event = |name: &str| json!({ "name": name, "channel": "cache-news", "data": "\"x\"" });
    caller.post_batch(json!([event("one"), event("two")])).await.expect_ok();
    for name in ["one", "two"] {
        subscriber.expect_event("cache-news", name).await;
    }
    for node in &cluster.nodes {
        let mut late = node.browser("key1").await;
        let hit = r#"{"event":"two","channel":"cache-news","data":"\"x\""}"#;
        assert_eq!(first_of(&mut late, "cache-news").await, hit);
        // Then each new event arrives once.
        caller.publish("cache-news", "three", "").await;
        late.expect_event("cache-news", "three").await;
        subscriber.expect_event("cache-news", "three").await;
        caller.publish("cache-news", "two", "\"x\"").await;
        late.expect_event("cache-news", "two").await;
        subscriber.expect_event("cache-news", "two").await;
    }
    // An event is kept also without subscribers.
    caller.publish("cache-empty", "alone", "").await;
    assert!(first_of(&mut subscriber, "cache-empty").await.contains("alone"));
}

async fn cache_channel_works_with_every_channel_type(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscriber = cluster.second().browser("key1").await;
    for channel in ["private-cache-a", "private-encrypted-cache-a", "presence-cache-a"] {
        caller.publish(channel, "kept", "").await;
        match channel.starts_with("presence-") {
            true => drop(subscriber.join(channel, "ann").await),
            false => drop(subscriber.subscribe(channel).await),
        }
        subscriber.expect_event(channel, "kept").await;
    }
    // `cache-` counts as a prefix only, not within a name.
    caller.publish("my-cache-a", "not-kept", "").await;
    subscriber.subscribe("my-cache-a").await;
    caller.publish("my-cache-a", "marker", "").await;
    subscriber.expect_nothing_before("my-cache-a", "marker").await;
}

async fn cache_channel_does_not_keep_client_events(backend: Backend) {
    let app = AppSpec::new("4").set("enable_client_messages", true);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let channel = "private-cache-a";
    let mut tabs = cluster.browsers("key4").await;
    cluster.caller("4").publish(channel, "kept", "").await;
    for tab in &mut tabs {
        tab.subscribe(channel).await;
        tab.expect_event(channel, "kept").await;
    }
    tabs[0].trigger(channel, "client-a", json!({})).await;
    tabs[1].expect_event(channel, "client-a").await;
    let mut late = cluster.first().browser("key4").await;
    late.subscribe(channel).await;
    late.expect_event(channel, "kept").await;
}

async fn cache_channel_event_expires_after_ttl(backend: Backend) {
    let app = AppSpec::new("4").set("cache_ttl_in_seconds", 1);
    let cluster = Cluster::builder(backend).app(app).start().await;
    cluster.caller("4").publish("cache-a", "kept", "").await;
    eventually("the cached event expires", STEP_TIMEOUT, async || {
        let mut late = cluster.second().browser("key4").await;
        let first = first_of(&mut late, "cache-a").await;
        first.contains("pusher:cache_miss").then_some(()).ok_or(first)
    })
    .await;
}
