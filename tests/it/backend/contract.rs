//! Guarantees of both backends, end to end, at a size at which the backends could
//! differ. Smaller cases are in the other files.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::recorder::Recorder;
use crate::support::server::AppSpec;
use crate::support::{Backend, Browser, Cluster, Subscribers, on_both_backends};

on_both_backends![
    large_batch_over_many_channels_keeps_order,
    large_batches_in_quick_succession_keep_order,
    one_socket_subscribes_to_a_thousand_channels,
    repeated_subscription_does_not_change_count,
    subscription_counts_return_to_zero,
    events_published_without_subscribers_are_not_delivered_later,
];

const CHANNELS: usize = 100;
const EVENTS: usize = 1_000;

/// App 2 with batches of a thousand events, over 100 channels.
async fn start(backend: Backend) -> Cluster {
    let app = AppSpec::new("2").set("max_event_batch_size", EVENTS);
    Cluster::builder(backend).app(app).start().await
}

/// Names in an unsorted order.
fn channels() -> Vec<String> {
    (0..CHANNELS).map(|number| format!("channel-{}", number * 37 % CHANNELS)).collect()
}

/// A thousand events over the channels in turn, ten for each.
fn batch(channels: &[String], name: &str) -> Value {
    let event = |number: usize| {
        json!({
            "name": name,
            "channel": channels[number % channels.len()],
            "data": number.to_string(),
            "info": if number < channels.len() { json!("subscription_count") } else { Value::Null },
        })
    };
    let events = (0..EVENTS).map(event).map(|mut event| {
        event.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        event
    });
    events.collect()
}

/// The channels in order of first appearance, the events of each together.
async fn expect_batch(subscribers: &mut Subscribers, channels: &[String], name: &str) {
    for (at, channel) in channels.iter().enumerate() {
        for number in (at..EVENTS).step_by(CHANNELS) {
            let frame = subscribers.expect_event(channel, name).await;
            assert_eq!(frame.data_text(), number.to_string(), "on {channel}");
        }
    }
}

async fn subscribers(cluster: &Cluster, channels: &[String]) -> Subscribers {
    let mut browsers = cluster.browsers("key2").await;
    for browser in &mut browsers {
        subscribe_all(browser, channels).await;
    }
    Subscribers(browsers)
}

/// Sends all subscriptions, then waits for all confirmations.
async fn subscribe_all(browser: &mut Browser, channels: &[String]) {
    for channel in channels {
        browser.request_subscription(channel).await;
    }
    for channel in channels {
        browser.confirmed(channel).await;
    }
}

async fn large_batch_over_many_channels_keeps_order(backend: Backend) {
    let cluster = start(backend).await;
    let channels = channels();
    let mut subscribers = subscribers(&cluster, &channels).await;
    let answer = cluster.caller("2").post_batch(batch(&channels, "e")).await.expect_ok();
    expect_batch(&mut subscribers, &channels, "e").await;
    let counts = answer["batch"].as_array().unwrap();
    assert_eq!(counts.len(), EVENTS);
    for (number, count) in counts.iter().enumerate() {
        let expected = if number < CHANNELS { json!({ "subscription_count": 2 }) } else { json!({}) };
        assert_eq!(*count, expected, "event {number}");
    }
    subscribers.expect_nothing(&cluster.caller("2"), &channels[0], "after the batch").await;
}

async fn large_batches_in_quick_succession_keep_order(backend: Backend) {
    let cluster = start(backend).await;
    let channels = channels();
    let mut subscribers = subscribers(&cluster, &channels).await;
    // Through both nodes in turn, each after the response to the previous one.
    for round in 0..6 {
        let caller = cluster.nodes[round % cluster.nodes.len()].caller("2");
        caller.post_batch(batch(&channels, &round.to_string())).await.expect_ok();
    }
    for browser in &mut subscribers.0 {
        let mut seen: Vec<Vec<(String, String)>> = vec![Vec::new(); CHANNELS];
        for _ in 0..6 * EVENTS {
            let frame = browser.next().await;
            let at = channels.iter().position(|channel| frame.channel.as_ref() == Some(channel)).unwrap();
            seen[at].push((frame.event.clone(), frame.data_text().to_owned()));
        }
        for (at, seen) in seen.into_iter().enumerate() {
            let of_round = |round: usize| {
                (at..EVENTS).step_by(CHANNELS).map(move |number| (round.to_string(), number.to_string()))
            };
            assert_eq!(seen, (0..6).flat_map(of_round).collect::<Vec<_>>(), "{}", channels[at]);
        }
    }
}

async fn one_socket_subscribes_to_a_thousand_channels(backend: Backend) {
    let cluster = start(backend).await;
    let caller = cluster.caller("2");
    let channels: Vec<String> = (0..1_000).map(|number| format!("many-{number}")).collect();
    let mut browser = cluster.second().browser("key2").await;
    subscribe_all(&mut browser, &channels).await;
    for channel in channels.iter().step_by(83) {
        assert_eq!(caller.subscription_count(channel).await, 1, "{channel}");
    }
    let events = channels.iter().map(|channel| json!({ "name": "e", "channel": channel, "data": channel }));
    caller.post_batch(events.collect()).await.expect_ok();
    // One request, so one order, from the other node too.
    for channel in &channels {
        assert_eq!(browser.expect_event(channel, "e").await.data_text(), channel);
    }
    let (left, kept) = channels.split_at(900);
    for channel in left {
        browser.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } })).await;
    }
    browser.settle().await;
    for channel in left.iter().step_by(83).chain(left.last()) {
        caller.count_becomes(channel, 0).await;
    }
    let events = channels.iter().map(|channel| json!({ "name": "f", "channel": channel, "data": "" }));
    caller.post_batch(events.collect()).await.expect_ok();
    for channel in kept {
        browser.expect_event(channel, "f").await;
    }
    assert_eq!(caller.subscription_count(&kept[0]).await, 1);
    browser.close().await;
    for channel in kept.iter().step_by(33) {
        caller.count_becomes(channel, 0).await;
    }
}

async fn repeated_subscription_does_not_change_count(backend: Backend) {
    let cluster = start(backend).await;
    let caller = cluster.caller("1");
    let mut browsers = cluster.browsers("key1").await;
    for browser in &mut browsers {
        browser.subscribe("news").await;
    }
    for round in 0..5 {
        for browser in &mut browsers {
            browser.subscribe("news").await;
            for node in &cluster.nodes {
                assert_eq!(node.caller("1").subscription_count("news").await, 2, "round {round}");
            }
        }
    }
    // Several requests before any answer yield as many confirmations and one
    // subscription.
    let mut repeating = cluster.second().browser("key1").await;
    for _ in 0..10 {
        repeating.request_subscription("news").await;
    }
    for _ in 0..10 {
        repeating.confirmed("news").await;
    }
    assert_eq!(caller.subscription_count("news").await, 3);
    caller.publish("news", "once", "").await;
    repeating.expect_event("news", "once").await;
    for browser in &mut browsers {
        browser.expect_event("news", "once").await;
    }
    // One unsubscription ends the subscription.
    repeating.unsubscribe("news").await;
    caller.count_becomes("news", 2).await;
    caller.publish("news", "marker", "").await;
    for browser in &mut browsers {
        browser.expect_nothing_before("news", "marker").await;
    }
}

async fn subscription_counts_return_to_zero(backend: Backend) {
    let cluster = start(backend).await;
    let caller = cluster.caller("1");
    for round in 0..3 {
        let mut recorders = Vec::new();
        for node in &cluster.nodes {
            recorders.extend(Recorder::connect_many(node, 30, &["news", "sport"]).await);
        }
        let count = 30 * cluster.nodes.len();
        for channel in ["news", "sport"] {
            assert_eq!(caller.subscription_count(channel).await, count, "{channel} in round {round}");
        }
        // A third unsubscribes, the others disconnect.
        for recorder in recorders.iter_mut().step_by(3) {
            recorder.unsubscribe("news").await;
            recorder.unsubscribe("sport").await;
        }
        drop(recorders);
        for channel in ["news", "sport"] {
            caller.count_becomes(channel, 0).await;
            for node in &cluster.nodes {
                let state = node.caller("1").get(&format!("/channels/{channel}"), &[]).await.expect_ok();
                assert_eq!(state, json!({ "occupied": false }));
            }
        }
    }
}

async fn events_published_without_subscribers_are_not_delivered_later(backend: Backend) {
    let cluster = start(backend).await;
    let caller = cluster.caller("2");
    let channels = channels();
    let mut elsewhere = Subscribers(cluster.browsers("key2").await);
    for browser in &mut elsewhere.0 {
        browser.subscribe("elsewhere").await;
    }
    let answer = caller.post_batch(batch(&channels, "e")).await.expect_ok();
    assert_eq!(answer["batch"][0], json!({ "subscription_count": 0 }));
    // The same channels of another app are other channels.
    cluster.caller("1").publish("elsewhere", "e", "").await;
    elsewhere.expect_nothing(&caller, "elsewhere", "no subscriber").await;
    // A new subscriber receives later events only.
    let mut late = cluster.second().browser("key2").await;
    subscribe_all(&mut late, &channels).await;
    caller.post_batch(batch(&channels, "f")).await.expect_ok();
    let mut seen = BTreeSet::new();
    for _ in 0..EVENTS {
        let frame = late.next().await;
        assert_eq!(frame.event, "f", "{}", frame.text);
        assert!(seen.insert(frame.data_text().to_owned()), "twice: {}", frame.text);
    }
}
