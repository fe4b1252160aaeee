//! The start of a node while Redis is not reachable: the node is live, not ready, and serves
//! requests as soon as it has connected.

use serde_json::json;

use crate::support::websocket::pusher_path;
use crate::support::{Redis, STEP_TIMEOUT, Server, Signal, bounded, eventually};

/// A node that waits for a Redis which is not running yet.
async fn waiting() -> (Redis, Server) {
    let mut redis = Redis::start().await;
    redis.kill();
    let node = Server::builder().config("path_prefix = \"/x\"").redis(&redis).start_waiting().await;
    (redis, node)
}

fn event() -> serde_json::Value {
    json!({ "name": "e", "channel": "news", "data": "x" })
}

#[tokio::test]
async fn starting_node_is_live_and_not_ready_with_the_reason() {
    bounded(async {
        let (mut redis, node) = waiting().await;
        for prefix in ["", "/x"] {
            assert_eq!(node.get(&format!("{prefix}/live")).await.status, 200);
            let up = node.get(&format!("{prefix}/up")).await;
            assert_eq!((up.status, &up.json()["status"]), (503, &json!("unready")));
        }
        eventually("the reason", STEP_TIMEOUT, async || {
            let ready = node.get("/ready").await;
            assert_eq!(ready.status, 503);
            let reason = ready.json()["reason"].as_str().unwrap().to_owned();
            let is_complete = reason.starts_with("connecting to Redis: ") && reason.contains("refused");
            if is_complete { Ok(()) } else { Err(reason) }
        })
        .await;
        assert_eq!(node.metrics().await.sum("fanfare_ready"), 0.0);

        // On a connection that stays open, which the node serves after its start.
        let caller = node.caller("1");
        let refused = caller.post_events(event()).await;
        refused.expect_error(503, "service_unavailable");
        assert_eq!(refused.header("retry-after"), Some("1"));
        for path in [&*pusher_path("key1"), "/x/app/key1?protocol=7", "/elsewhere"] {
            let refused = node.try_connect(path).await.err().expect("no sockets");
            refused.expect_error(503, "service_unavailable");
            assert_eq!(refused.header("retry-after"), Some("1"));
        }

        redis.restart().await;
        node.logged("\"message\":\"listening\"").await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
        caller.post_events(event()).await.expect_ok();
        node.browser("key1").await.subscribe("news").await;
        node.get("/elsewhere").await.expect_error(404, "not_found");
        // A line for each reason, not for each attempt.
        let lines = node.log().matches("Redis is not reachable yet").count();
        assert!((1..=2).contains(&lines), "{}", node.log());
    })
    .await;
}

/// A reload while the node starts is applied when it has started.
#[tokio::test]
async fn sighup_while_starting_is_applied_after_the_start() {
    bounded(async {
        let (mut redis, node) = waiting().await;
        node.edit_config(|text| text.replace("\"key1\"", "\"key1-new\""));
        node.signal(Signal::HangUp);
        assert_eq!(node.get("/live").await.status, 200);
        redis.restart().await;
        node.logged("\"message\":\"configuration reloaded\"").await;
        node.browser("key1-new").await;
    })
    .await;
}

/// Connections that are open end with the node, at once.
#[tokio::test]
async fn sigterm_ends_a_starting_node_within_a_second() {
    bounded(async {
        let (_redis, mut node) = waiting().await;
        let caller = node.caller("1");
        caller.post_events(event()).await.expect_error(503, "service_unavailable");
        node.signal(Signal::Terminate);
        let status = node.wait_exit(std::time::Duration::from_secs(1)).await;
        assert!(status.success(), "{status}: {}", node.log());
    })
    .await;
}

/// Topics are common to all databases of a Redis, and two clusters use the same names.
#[tokio::test]
async fn clusters_in_two_databases_of_a_redis_are_separate() {
    bounded(async {
        let redis = Redis::start().await;
        let node = async |database: u8| {
            Server::builder().redis_url(&format!("{}/{database}", redis.url())).start().await
        };
        let (first, second) = (node(0).await, node(1).await);
        let mut browser = first.browser("key1").await;
        browser.subscribe("news").await;
        let mut other = second.browser("key1").await;
        other.subscribe("news").await;
        for (name, node) in [("elsewhere", &second), ("here", &first)] {
            node.caller("1").publish("news", name, "x").await;
        }
        browser.expect_event("news", "here").await;
        other.expect_event("news", "elsewhere").await;
        assert_eq!(first.caller("1").subscription_count("news").await, 1);
    })
    .await;
}
