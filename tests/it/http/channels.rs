//! `GET /apps/{id}/channels/{name}` (protocol.md 1.5): the state of a channel in
//! the cluster.

use serde_json::json;

use crate::support::{Backend, Cluster, Server, http, on_both_backends};

on_both_backends![
    channel_is_occupied_while_it_has_subscribers,
    subscription_count_is_exact_after_confirmation,
    subscription_count_falls_after_unsubscribe_close_and_disconnect,
    repeated_subscription_counts_once,
    subscription_count_is_per_app,
];

const COUNT: &[(&str, &str)] = &[("info", "subscription_count")];

async fn channel_is_occupied_while_it_has_subscribers(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    assert_eq!(caller.get("/channels/news", &[]).await.expect_ok(), json!({ "occupied": false }));
    let empty = json!({ "occupied": false, "subscription_count": 0 });
    assert_eq!(caller.get("/channels/news", COUNT).await.expect_ok(), empty);

    let _subscribers = cluster.subscribers(&["news"]).await;

    for node in &cluster.nodes {
        let caller = node.caller("1");
        assert_eq!(caller.get("/channels/news", &[]).await.expect_ok(), json!({ "occupied": true }));
        let occupied = json!({ "occupied": true, "subscription_count": 2 });
        assert_eq!(caller.get("/channels/news", COUNT).await.expect_ok(), occupied);
        assert_eq!(caller.get("/channels/olds", COUNT).await.expect_ok(), empty);
    }
}

async fn subscription_count_is_exact_after_confirmation(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browsers = Vec::new();
    for count in 1..=20 {
        let node = if count % 3 == 0 { cluster.second() } else { cluster.first() };
        let mut browser = node.browser("key1").await;
        browser.subscribe("news").await;
        browsers.push(browser);
        assert_eq!(caller.subscription_count("news").await, count);
    }
}

async fn subscription_count_falls_after_unsubscribe_close_and_disconnect(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut staying = cluster.first().browser("key1").await;
    staying.subscribe("news").await;
    for node in &cluster.nodes {
        let mut leaving = node.browser("key1").await;
        leaving.subscribe("news").await;
        assert_eq!(caller.subscription_count("news").await, 2);
        leaving.unsubscribe("news").await;
        caller.count_becomes("news", 1).await;

        leaving.subscribe("news").await;
        assert_eq!(caller.subscription_count("news").await, 2);
        leaving.close().await;
        caller.count_becomes("news", 1).await;

        let mut disconnecting = node.browser("key1").await;
        disconnecting.subscribe("news").await;
        assert_eq!(caller.subscription_count("news").await, 2);
        drop(disconnecting);
        caller.count_becomes("news", 1).await;
    }
}

async fn repeated_subscription_counts_once(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.second().browser("key1").await;
    for _ in 0..3 {
        browser.subscribe("news").await;
        assert_eq!(caller.subscription_count("news").await, 1);
    }
    browser.unsubscribe("news").await;
    // One unsubscription is enough.
    caller.count_becomes("news", 0).await;
}

async fn subscription_count_is_per_app(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let _subscribers = cluster.subscribers(&["news"]).await;
    assert_eq!(cluster.caller("1").subscription_count("news").await, 2);
    assert_eq!(cluster.caller("2").subscription_count("news").await, 0);
}

#[tokio::test]
async fn unsupported_info_attribute_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for channel in ["news", "private-news", "private-encrypted-news"] {
        let path = format!("/channels/{channel}");
        for info in ["user_count", "cache", "weather", "subscription_count,user_count"] {
            let answer = caller.get(&path, &[("info", info)]).await;
            assert_eq!(answer.status, 400, "{channel} {info}: {}", answer.text());
            answer.expect_error(400, "invalid_input").of_field("info");
        }
        caller.get(&path, COUNT).await.expect_ok();
    }
}

#[tokio::test]
async fn invalid_channel_name_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let long = "c".repeat(201);
    for name in ["bad%20name", "%23news", "n%C3%A4chste", "a%2Fb", "%00", "%FF", long.as_str()] {
        let answer = caller.get(&format!("/channels/{name}"), &[]).await;
        assert_eq!(answer.status, 400, "{name}: {}", answer.text());
        answer.expect_error(400, "invalid_input").of_field("channel");
    }
    // Decoded once: `%2541` is the text `%41`, which is not a valid channel name.
    caller.get("/channels/%2541", &[]).await.expect_error(400, "invalid_input");
}

#[tokio::test]
async fn channel_name_in_path_is_percent_decoded() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let mut browser = server.browser("key1").await;
    browser.subscribe("a;b,c@d=e.f:g_h-i").await;
    for name in ["a;b,c@d=e.f:g_h-i", "a%3Bb%2Cc%40d%3De.f%3Ag_h-i", "%61%3bb%2cc%40d%3de.f%3ag_h-i"] {
        assert_eq!(caller.subscription_count(name).await, 1, "{name}");
    }
}

/// The framework's own errors have the form of Fanfare's.
#[tokio::test]
async fn unknown_route_or_method_is_refused_in_json() {
    let server = Server::builder().start().await;
    for path in ["/nothing", "/apps", "/apps/1", "/apps/1/nothing", "/app", "/app/", "/apps/1/events/7"] {
        server.get(path).await.expect_refused(404);
    }
    for (method, path) in [
        ("GET", "/apps/1/events"),
        ("GET", "/apps/1/batch_events"),
        ("PUT", "/apps/1/events"),
        ("DELETE", "/apps/1/channels/news"),
        ("POST", "/apps/1/channels/news"),
        ("POST", "/live"),
    ] {
        http::request(server.addr(), method, path).await.expect_refused(405);
    }
}
