//! Public channels (protocol.md 2.4): a subscription needs no signature.

use serde_json::json;

use crate::support::{Backend, Cluster, Server, on_both_backends};

on_both_backends![
    public_subscription_is_confirmed_before_its_first_event,
    public_unsubscribed_connection_receives_nothing,
    public_resubscription_right_after_unsubscribe_receives_events,
    public_repeated_subscription_is_confirmed_again,
    public_connection_with_many_subscriptions_receives_all,
    public_events_of_one_caller_arrive_in_order,
];

async fn public_subscription_is_confirmed_before_its_first_event(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    for round in 0..30 {
        let channel = format!("news-{}", round % 3);
        let node = if round % 2 == 0 { cluster.first() } else { cluster.second() };
        let mut browser = node.browser("key1").await;
        browser.request_subscription(&channel).await;
        // These events race with the subscription. None may arrive before the
        // confirmation, and the received ones must have no gap.
        for number in 0..5 {
            caller.publish(&channel, "e", &number.to_string()).await;
        }
        let frame = browser.confirmed(&channel).await;
        assert_eq!(frame.data_text(), "{}");
        caller.publish(&channel, "last", "5").await;
        let mut seen = Vec::new();
        loop {
            let frame = browser.next().await;
            seen.push(frame.data_text().parse::<usize>().unwrap());
            if frame.event == "last" {
                break;
            }
        }
        let expected: Vec<usize> = (seen[0]..=5).collect();
        assert_eq!(seen, expected, "events have a gap");
    }
}

async fn public_unsubscribed_connection_receives_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news", "sport"]).await.0;
    for browser in &mut subscribers {
        browser.unsubscribe("news").await;
        // Unsubscribing from a channel without a subscription has no effect.
        browser.unsubscribe("weather").await;
    }
    caller.count_becomes("news", 0).await;
    let batch = json!([
        { "name": "gone", "channel": "news", "data": "" },
        { "name": "marker", "channel": "sport", "data": "" },
    ]);
    caller.post_batch(batch).await.expect_ok();
    for browser in &mut subscribers {
        browser.expect_nothing_before("sport", "marker").await;
    }
}

async fn public_resubscription_right_after_unsubscribe_receives_events(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.second().browser("key1").await;
    for round in 0..20 {
        browser.subscribe("news").await;
        for _ in 0..round % 4 {
            browser.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": "news" } })).await;
            browser.request_subscription("news").await;
            browser.confirmed("news").await;
        }
        caller.publish("news", "e", &round.to_string()).await;
        assert_eq!(browser.expect_event("news", "e").await.data_text(), round.to_string());
        assert_eq!(caller.subscription_count("news").await, 1);
        browser.unsubscribe("news").await;
    }
}

async fn public_repeated_subscription_is_confirmed_again(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.second().browser("key1").await;
    for _ in 0..3 {
        let frame = browser.subscribe("news").await;
        assert_eq!(frame.data_text(), "{}");
    }
    caller.publish("news", "once", "").await;
    browser.expect_event("news", "once").await;
    caller.publish("news", "marker", "").await;
    browser.expect_nothing_before("news", "marker").await;
}

async fn public_connection_with_many_subscriptions_receives_all(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.second().browser("key1").await;
    let channels: Vec<String> = (0..100).map(|number| format!("channel-{number}")).collect();
    for channel in &channels {
        browser.request_subscription(channel).await;
    }
    for channel in &channels {
        browser.confirmed(channel).await;
    }
    caller.post_events(json!({ "name": "e", "channels": channels, "data": "" })).await.expect_ok();
    let mut missing: std::collections::BTreeSet<String> = channels.into_iter().collect();
    while !missing.is_empty() {
        let frame = browser.next().await;
        if frame.event == "e" {
            assert!(missing.remove(&frame.channel.unwrap()), "twice: {}", frame.text);
        }
    }
}

async fn public_events_of_one_caller_arrive_in_order(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut subscribers = cluster.subscribers(&["news"]).await;
    // Through both nodes in turn, each request after the response to the one before.
    let callers = [cluster.first().caller("1"), cluster.second().caller("1")];
    for number in 0..200 {
        callers[number % 2].publish("news", "e", &number.to_string()).await;
    }
    for number in 0..200 {
        assert_eq!(subscribers.expect_event("news", "e").await.data_text(), number.to_string());
    }
}

#[tokio::test]
async fn public_subscription_request_forms_are_accepted() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    // Some libraries send `data` as a string, some an empty `auth`. Unknown members are
    // ignored.
    for frame in [
        json!({ "event": "pusher:subscribe", "data": { "channel": "news" } }),
        json!({ "event": "pusher:subscribe", "data": { "channel": "news", "auth": "" } }),
        json!({ "event": "pusher:subscribe", "data": "{\"channel\":\"news\"}" }),
        json!({ "event": "pusher:subscribe", "data": { "channel": "news", "auth": null, "nonsense": [7] } }),
        json!({ "event": "pusher:subscribe", "id": 7, "data": { "channel": "news" }, "channel": "olds" }),
    ] {
        browser.send(frame).await;
        browser.confirmed("news").await;
        caller.publish("news", "e", "").await;
        browser.expect_event("news", "e").await;
        browser.send(json!({ "event": "pusher:unsubscribe", "data": "{\"channel\":\"news\"}" })).await;
        caller.count_becomes("news", 0).await;
    }
}

#[tokio::test]
async fn public_subscription_to_an_invalid_channel_keeps_the_connection() {
    let server = Server::builder().start().await;
    let mut browser = server.browser("key1").await;
    for name in ["bad name", "#news", "nächste", "a/b", &"c".repeat(201)] {
        browser.subscribe_raw(json!({ "channel": name })).await;
        browser.expect_subscription_error(name).await;
    }
    browser.subscribe("news").await;
}

/// A subscription with a disabled feature is refused, never accepted without effect.
#[tokio::test]
async fn public_subscription_with_a_filter_is_refused_when_filters_are_disabled() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    for member in ["filter", "tags_filter"] {
        let filter = json!({ "key": "a", "cmp": "eq", "val": "b" });
        browser.request_subscription_with("news", json!({ member: filter })).await;
        let error = browser.expect_subscription_error("news").await;
        assert!(error["error"].as_str().unwrap().contains("filter"), "{error}");
    }
    // A refused subscription is not counted.
    assert_eq!(caller.subscription_count("news").await, 0);
}
