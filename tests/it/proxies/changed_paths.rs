//! Paths that proxies or client options have changed, and the signatures over them.

use serde_json::json;

use crate::support::{STEP_TIMEOUT, Server, bounded};

#[tokio::test]
async fn root_returns_name_and_version() {
    let server = Server::builder().start().await;
    let version = env!("CARGO_PKG_VERSION");
    for path in ["/", "//", "/?probe"] {
        assert_eq!(
            server.get(path).await.expect_ok(),
            json!({ "name": "fanfare", "version": version }),
            "{path}"
        );
    }
}

#[tokio::test]
async fn paths_with_repeated_slashes_work_on_both_apis() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let many = ["/apps/1", &"/".repeat(4_000), "events"].concat();
    for path in ["/app/key1/", "//app/key1", "/app//key1//", "///app/key1"] {
        let mut browser = server.connect(&format!("{path}?protocol=7")).await;
        browser.expect_greeting().await;
        browser.close().await;
    }
    let mut browser = server.browser("key1").await;
    browser.subscribe("news").await;
    let normal = "/apps/1/events";
    let event = json!({ "name": "e", "channel": "news", "data": "x" });
    for sent in ["/apps/1/events/", "//apps/1/events", "/apps//1///events//", &many] {
        // The signature covers either the path as sent or the normal path.
        for signed in [sent, normal] {
            caller.events(&event).path(sent).signed_as(signed).send().await.expect_ok();
            browser.expect_event("news", "e").await;
            let refused = caller.events(&event).path(sent).signed_as(signed).secret("wrong").send().await;
            refused.expect_error(401, "auth_failed");
        }
    }
    // The client signed repeated slashes, which a proxy has merged.
    for signed in ["//apps/1/events", "/apps/1/events/"] {
        caller.events(&event).signed_as(signed).send().await.expect_ok();
        browser.expect_event("news", "e").await;
    }
    let answer = caller.request("GET", "").path("//apps/1/channels/news/").send().await;
    assert_eq!(answer.expect_ok(), json!({ "occupied": true }));
    for signed in ["/apps/2/events", "/app/1/events", "/apps/1/events/more", "/apps/1"] {
        caller.events(&event).signed_as(signed).send().await.expect_error(401, "auth_failed");
    }
}

#[tokio::test]
async fn path_decoded_or_encoded_by_a_proxy_verifies() {
    let server = Server::builder().config("path_prefix = \"/realtime\"").start().await;
    let caller = server.caller("1");
    for (sent, signed) in [
        ("channels/private-a:b@c", "channels/private-a%3Ab%40c"),
        ("channels/private-a%3Ab%40c", "channels/private-a:b@c"),
        ("channels/private-a%3ab%40c", "channels/private-a%3Ab%40c"),
        ("users/auth0%7C5f7c/terminate_connections", "users/auth0|5f7c/terminate_connections"),
        ("users/auth0|5f7c/terminate_connections", "users/auth0%7C5f7c/terminate_connections"),
        ("users/J%C3%BCrgen%20M/terminate_connections", "users/Jürgen M/terminate_connections"),
        ("users/a+b@c.d/terminate_connections", "users/a%2Bb%40c.d/terminate_connections"),
        ("users/it's/terminate_connections", "users/it%27s/terminate_connections"),
    ] {
        let method = if sent.starts_with("users") { "POST" } else { "GET" };
        for (before, signed_before) in
            [("", ""), ("/realtime", "/realtime"), ("", "/realtime"), ("/realtime", "")]
        {
            let (sent, signed) =
                (format!("{before}/apps/1/{sent}"), format!("{signed_before}/apps/1/{signed}"));
            let request = || caller.request(method, "").path(&sent).signed_as(&signed);
            request().send().await.expect_ok();
            request().secret("wrong").send().await.expect_error(401, "auth_failed");
        }
    }
}

/// The server tries the likely variants of the path first, so a wrong signature costs the
/// most. That cost is bounded for every path.
#[tokio::test]
async fn wrong_signature_over_a_costly_path_is_refused_in_time() {
    bounded(async {
        let server = Server::builder().config("path_prefix = \"/realtime\"").start().await;
        let caller = server.caller("1");
        let path = format!("/realtime/apps/1/channels/{}", "%C3%A9|:'//".repeat(1_000));
        for _ in 0..100 {
            let answer = caller.request("GET", "").path(&path).secret("wrong").send();
            let answer = tokio::time::timeout(STEP_TIMEOUT, answer).await.expect("an answer in time");
            assert!([401, 404].contains(&answer.status), "{}", answer.text());
        }
    })
    .await;
}

#[tokio::test]
async fn info_as_an_array_equals_the_list() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let both = json!({ "occupied": false, "subscription_count": 0, "user_count": 0 });
    let get = || caller.request("GET", "/channels/presence-a");
    for (wire, joined) in [
        ("info[]=subscription_count&info[]=user_count", "subscription_count,user_count"),
        ("info[0]=user_count&info[1]=subscription_count", "user_count,subscription_count"),
        ("info%5B0%5D=user_count&info%5B1%5D=subscription_count", "user_count,subscription_count"),
    ] {
        let answer = get().query_as("info", joined, wire).send().await.expect_ok();
        assert_eq!(answer.as_object().unwrap().len(), 3, "{wire}");
        assert_eq!(answer, both, "{wire}");
    }
    let answer = get().query("info[]", "subscription_count").query("info[]", "user_count").send().await;
    assert_eq!(answer.expect_ok(), both);
    get().query("info[]", "nonsense").send().await.expect_error(400, "invalid_input").of_field("info");
    let event =
        |info: serde_json::Value| json!({ "name": "e", "channel": "news", "data": "x", "info": info });
    let answer = caller.post_events(event(json!(["subscription_count"]))).await;
    assert_eq!(answer.expect_ok(), json!({ "channels": { "news": { "subscription_count": 0 } } }));
    caller.post_events(event(json!([7]))).await.expect_error(400, "invalid_input").of_field("info");
}
