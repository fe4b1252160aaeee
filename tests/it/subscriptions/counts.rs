//! `pusher_internal:subscription_count` (protocol.md 2.11): subscribers receive the number of
//! subscriptions to their channel in the whole cluster.

use serde_json::json;

use crate::support::{AppSpec, Backend, Browser, Cluster, on_both_backends};

on_both_backends![
    subscription_count_is_sent_to_all_subscribers,
    subscription_count_is_not_sent_on_presence_channels
];

const COUNT: &str = "pusher_internal:subscription_count";

async fn start(backend: Backend) -> Cluster {
    Cluster::builder(backend).app(AppSpec::new("4").set("enable_subscription_count", true)).start().await
}

async fn expect_count(browser: &mut Browser, channel: &str, count: u64) {
    let frame = browser.expect_event(channel, COUNT).await;
    assert_eq!(frame.data_json(), json!({ "subscription_count": count }), "{}", frame.text);
}

async fn subscription_count_is_sent_to_all_subscribers(backend: Backend) {
    let cluster = start(backend).await;
    let mut first = cluster.first().browser("key4").await;
    let mut second = cluster.second().browser("key4").await;
    for channel in ["news", "private-news"] {
        first.subscribe(channel).await;
        // A new subscriber receives the count that includes it.
        expect_count(&mut first, channel, 1).await;
        second.subscribe(channel).await;
        expect_count(&mut first, channel, 2).await;
        expect_count(&mut second, channel, 2).await;
        first.unsubscribe(channel).await;
        expect_count(&mut second, channel, 1).await;
    }
}

async fn subscription_count_is_not_sent_on_presence_channels(backend: Backend) {
    let cluster = start(backend).await;
    let mut first = cluster.first().browser("key4").await;
    first.join("presence-room", "ann").await;
    cluster.caller("4").publish("presence-room", "marker", "").await;
    first.expect_nothing_before("presence-room", "marker").await;
}
