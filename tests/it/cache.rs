//! Cache channels (protocol.md 2.12): who comes late gets the last event.

use serde_json::json;

use crate::support::browser::Browser;
use crate::support::{AppSpec, Backend, Cluster, PATIENCE, eventually, on_both_backends};

on_both_backends![
    who_comes_late_gets_the_last_event,
    every_kind_of_channel_can_be_a_cache_channel,
    client_events_are_not_kept,
    the_last_event_is_kept_for_a_while,
];

/// Subscribes on, and returns the frame right behind the confirmation.
async fn first_of(browser: &mut Browser, channel: &str) -> String {
    browser.subscribe(channel).await;
    browser.next().await.text
}

async fn who_comes_late_gets_the_last_event(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut ann = cluster.second().browser("key1").await;
    let miss = r#"{"event":"pusher:cache_miss","channel":"cache-news","data":"{}"}"#;
    assert_eq!(first_of(&mut ann, "cache-news").await, miss);
    let event = |name: &str| json!({ "name": name, "channel": "cache-news", "data": "\"x\"" });
    caller.post_batch(json!([event("one"), event("two")])).await.expect_ok();
    for name in ["one", "two"] {
        ann.expect_event("cache-news", name).await;
    }
    for node in cluster.nodes() {
        let mut late = node.browser("key1").await;
        let hit = r#"{"event":"two","channel":"cache-news","data":"\"x\""}"#;
        assert_eq!(first_of(&mut late, "cache-news").await, hit);
        // And then what is new, once.
        caller.publish("cache-news", "three", "").await;
        late.expect_event("cache-news", "three").await;
        ann.expect_event("cache-news", "three").await;
        caller.publish("cache-news", "two", "\"x\"").await;
        late.expect_event("cache-news", "two").await;
        ann.expect_event("cache-news", "two").await;
    }
    // Nobody has to be there for an event to be kept.
    caller.publish("cache-empty", "alone", "").await;
    assert!(first_of(&mut ann, "cache-empty").await.contains("alone"));
}

async fn every_kind_of_channel_can_be_a_cache_channel(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut ann = cluster.second().browser("key1").await;
    for channel in ["private-cache-a", "private-encrypted-cache-a", "presence-cache-a"] {
        caller.publish(channel, "kept", "").await;
        match channel.starts_with("presence-") {
            true => drop(ann.join(channel, "ann").await),
            false => drop(ann.subscribe(channel).await),
        }
        ann.expect_event(channel, "kept").await;
    }
    // The prefix is anchored.
    caller.publish("my-cache-a", "not-kept", "").await;
    ann.subscribe("my-cache-a").await;
    caller.publish("my-cache-a", "marker", "").await;
    ann.expect_nothing_before("my-cache-a", "marker").await;
}

async fn client_events_are_not_kept(backend: Backend) {
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

async fn the_last_event_is_kept_for_a_while(backend: Backend) {
    let app = AppSpec::new("4").set("cache_ttl_in_seconds", 1);
    let cluster = Cluster::builder(backend).app(app).start().await;
    cluster.caller("4").publish("cache-a", "kept", "").await;
    eventually("the event is forgotten", PATIENCE, async || {
        let mut late = cluster.second().browser("key4").await;
        let first = first_of(&mut late, "cache-a").await;
        first.contains("pusher:cache_miss").then_some(()).ok_or(first)
    })
    .await;
}
