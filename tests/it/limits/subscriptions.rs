//! Limits of subscriptions, per connection and per app, and the cost of a flood of them for others.

use serde_json::json;

use crate::support::{
    AppSpec, Backend, Cluster, Direction, Links, STEP_TIMEOUT, Server, bounded, eventually, on_both_backends,
};

on_both_backends![
    occupied_channels_of_an_app_are_limited,
    subscriptions_over_the_limit_of_a_connection_are_refused,
    channel_without_events_leaves_nothing,
];

/// The node refuses what exceeds its own share; the script, tested with the other scripts, that of the
/// cluster.
async fn occupied_channels_of_an_app_are_limited(backend: Backend) {
    let app = AppSpec::new("4").set("max_occupied_channels", 1);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let mut client = cluster.first().browser("key4").await;
    client.subscribe("first").await;
    // Refused by the node: it has one channel of the app.
    client.request_subscription("second").await;
    let error = client.expect_subscription_error("second").await;
    assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4100)), "{error}");
    assert_eq!(error["error"], "the app has too many occupied channels (limit: 1 channel)");
    // The channel itself has any number of subscribers, and other apps are not affected.
    let mut other = cluster.second().browser("key4").await;
    other.subscribe("first").await;
    cluster.first().browser("key1").await.subscribe("second").await;
    // The connection can subscribe again after the refusal, once the channel is gone.
    other.unsubscribe("first").await;
    client.unsubscribe("first").await;
    loop {
        client.request_subscription("second").await;
        if client.next().await.event == "pusher_internal:subscription_succeeded" {
            return;
        }
        client.next().await;
    }
}

async fn subscriptions_over_the_limit_of_a_connection_are_refused(backend: Backend) {
    let app = AppSpec::new("4").set("max_subscriptions", 2);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let mut client = cluster.first().browser("key4").await;
    client.subscribe("a").await;
    client.subscribe("b").await;
    client.request_subscription("c").await;
    let error = client.expect_subscription_error("c").await;
    assert_eq!(error["error"], "too many subscriptions on this connection (limit: 2)");
    // Subscribing again to an existing channel is not one more.
    client.subscribe("a").await;
    client.unsubscribe("b").await;
    client.subscribe("c").await;
}

/// A stranger who subscribes to ever new names leaves no head and no history behind, also where
/// subscribers receive counts.
async fn channel_without_events_leaves_nothing(backend: Backend) {
    let app = AppSpec::new("4").set("enable_subscription_count", true);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let mut client = cluster.first().browser("key4").await;
    for _ in 0..3 {
        client.subscribe("brief").await;
        client.expect_event("brief", "pusher_internal:subscription_count").await;
        client.unsubscribe("brief").await;
        cluster.caller("4").count_becomes("brief", 0).await;
    }
    if backend == Backend::Redis {
        eventually("Redis has no key of the channel", STEP_TIMEOUT, async || {
            match cluster.redis().command(&["KEYS", "*brief*"]).await.text() {
                keys if keys.is_empty() => Ok(()),
                keys => Err(keys),
            }
        })
        .await;
    }
    // A channel with an event keeps its history: the position of a client can be resumed.
    client.subscribe("kept").await;
    client.expect_event("kept", "pusher_internal:subscription_count").await;
    cluster.caller("4").publish("kept", "e", "data").await;
    client.expect_event("kept", "e").await;
    client.unsubscribe("kept").await;
    cluster.caller("4").count_becomes("kept", 0).await;
    if backend == Backend::Redis {
        let keys = cluster.redis().command(&["KEYS", "*kept*"]).await.text();
        assert!(keys.contains(":head:4:kept") || keys.contains("head"), "{keys}");
    }
}

/// Nine sockets of one app subscribe to a thousand channels each, with a Redis that answers
/// slowly. A socket of another app is confirmed while most of them wait, and no socket is closed.
#[tokio::test]
async fn flood_of_subscriptions_delays_only_its_own_app() {
    bounded(async {
        const SOCKETS: usize = 9;
        const CHANNELS: usize = 1_000;
        let cluster =
            Cluster::builder(Backend::Redis).nodes(1).proxied(0).app(AppSpec::new("4")).start().await;
        let node = cluster.first();
        let mut victim = node.browser("key1").await;
        let mut flood = Vec::new();
        for _ in 0..SOCKETS {
            flood.push(node.browser("key4").await);
        }
        cluster.proxy().delay(Links::Scripts, Direction::Replies, std::time::Duration::from_millis(5));
        for (n, socket) in flood.iter_mut().enumerate() {
            for channel in 0..CHANNELS {
                socket.request_subscription(&format!("flood-{n}-{channel}")).await;
            }
        }
        eventually("subscriptions wait", STEP_TIMEOUT, async || {
            match node.metrics().await.sum("fanfare_subscriptions_delayed_total") {
                0.0 => Err("none".to_owned()),
                _ => Ok(()),
            }
        })
        .await;
        victim.subscribe("victim").await;
        let confirmed = node.metrics().await.sum("fanfare_subscriptions") as usize;
        println!(
            "{confirmed} of {} subscriptions were confirmed before that of another app",
            SOCKETS * CHANNELS
        );
        assert!(confirmed < SOCKETS * CHANNELS / 2, "{confirmed}");
        cluster.proxy().heal();
        // All are confirmed in the end, and every socket is open.
        eventually("all are confirmed", STEP_TIMEOUT, async || {
            match node.metrics().await.sum("fanfare_subscriptions") as usize {
                count if count == SOCKETS * CHANNELS + 1 => Ok(()),
                count => Err(count.to_string()),
            }
        })
        .await;
        assert_eq!(node.metrics().await.sum("fanfare_connections") as usize, SOCKETS + 1);
    })
    .await;
}

/// A connection that resumes from the same position again and again receives the missed events at
/// the rate of its budget, also if it unsubscribes in between.
#[tokio::test]
async fn repeated_resume_is_charged_to_the_connection() {
    bounded(async {
        let server = Server::builder().app(AppSpec::new("4")).start().await;
        let mut client = server.browser("key4").await;
        let caller = server.caller("4");
        caller.publish("long", "e", "first").await;
        let at = client.subscribe_with("long", json!({ "resume": true })).await.data_json();
        let data = "x".repeat(10_000);
        for _ in 0..45 {
            caller.publish("long", "e", &data).await;
        }
        for _ in 0..45 {
            client.expect_event("long", "e").await;
        }
        let position = json!({ "epoch": at["epoch"], "seq": at["seq"], "token": at["token"] });
        assert!(at["epoch"].is_u64(), "{at}");
        // Each answer is 450 KB, and the budget 4 MB.
        for _ in 0..12 {
            client.request_unsubscription("long").await;
            client.request_subscription_with("long", json!({ "resume": position })).await;
            client.find_event("pusher_internal:subscription_succeeded").await;
            for _ in 0..45 {
                client.find_event("e").await;
            }
        }
        assert!(server.metrics().await.sum("fanfare_subscriptions_delayed_total") > 0.0);
    })
    .await;
}
