//! Pusher's request signing (protocol.md 1.2): who may call the HTTP API.

use serde_json::{Value, json};

use crate::support::{Backend, Cluster, Server};

fn event() -> Value {
    json!({ "name": "e", "channel": "news", "data": "x" })
}

#[tokio::test]
async fn whoever_cannot_sign_is_refused() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut audience = cluster.listeners(&["news"]).await;
    let event = event();
    let signed = || caller.events(&event);
    let mut cases = vec![
        ("another secret", signed().secret("secret2")),
        ("an empty secret", signed().secret("")),
        ("another app's key and secret", signed().key("key2").secret("secret2")),
        ("another app's key", signed().key("key2")),
        ("an unknown key", signed().key("nobody")),
        ("an empty key", signed().key("")),
        ("an hour old", signed().at(-3600)),
        ("an hour ahead", signed().at(3600)),
        ("just too old", signed().at(-610)),
        ("just too far ahead", signed().at(610)),
        ("another version", signed().version("2.0")),
        ("no hex", signed().signature("zz")),
        ("an empty signature", signed().signature("")),
        ("half a signature", signed().signature("da454824c97ba181a32ccc17a72625ba")),
        ("the MD5 of another body", signed().body_md5("d41d8cd98f00b204e9800998ecf8427e")),
        ("no MD5 at all", signed().body_md5("")),
    ];
    for parameter in ["auth_key", "auth_timestamp", "auth_version", "auth_signature", "body_md5"] {
        cases.push((parameter, signed().without(parameter)));
    }
    for (what, request) in cases {
        let answer = request.send().await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        answer.expect_error(401, "auth_failed").without_index();
        audience.expect_nothing(&caller, "news", what).await;
    }
}

#[tokio::test]
async fn a_timestamp_must_be_a_number() {
    let server = Server::builder().start().await;
    for timestamp in ["", "now", "-1", "99999999999999999999", "1353088179.5"] {
        let caller = server.caller("1");
        let event = event();
        let request = caller.events(&event).without("auth_timestamp").query("auth_timestamp", timestamp);
        request.send().await.expect_error(401, "auth_failed");
    }
}

#[tokio::test]
async fn a_body_must_be_the_one_that_was_signed() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let event = event();
    let md5 = fanfare::auth::body_md5(event.to_string().as_bytes());
    let other = event.to_string().replace("news", "olds");
    let answer = caller.events(&event).body(other).body_md5(&md5).send().await;
    answer.expect_error(401, "auth_failed");
    // Which case the digits have does not matter.
    caller.events(&event).body_md5(&md5.to_uppercase()).send().await.expect_ok();
}

#[tokio::test]
async fn clocks_may_differ_by_ten_minutes() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for seconds in [-590, -1, 0, 1, 590] {
        caller.events(&event()).at(seconds).send().await.expect_ok();
    }
}

#[tokio::test]
async fn an_app_must_exist_and_be_enabled() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for path in ["/apps/999/events", "/apps/999/batch_events", "/apps/key1/events"] {
        caller.events(&event()).path(path).send().await.expect_error(404, "app_not_found");
    }
    let answer = caller.request("GET", "").path("/apps/999/channels/news").send().await;
    answer.expect_error(404, "app_not_found");

    let disabled = server.caller("3");
    disabled.post_events(event()).await.expect_error(403, "forbidden");
    disabled.post_batch(json!([event()])).await.expect_error(403, "forbidden");
    disabled.get("/channels/news", &[]).await.expect_error(403, "forbidden");
    // Whoever cannot sign does not learn that it is disabled.
    disabled.events(&event()).secret("wrong").send().await.expect_error(401, "auth_failed");
}

#[tokio::test]
async fn queries_are_signed_too() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let get = || caller.request("GET", "/channels/news");
    get().send().await.expect_ok();
    get().secret("wrong").send().await.expect_error(401, "auth_failed");
    get().without("auth_signature").send().await.expect_error(401, "auth_failed");
    // Signed for another query than the one that is sent.
    let answer = get().query_as("info", "subscription_count", "info=user_count").send().await;
    answer.expect_error(401, "auth_failed");
}

/// What the libraries in use send, each in its own way.
#[tokio::test]
async fn the_dialects_of_the_libraries_are_understood() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let get = |path: &str| caller.request("GET", path);
    let counts = json!({ "occupied": false, "subscription_count": 0 });
    let info = "subscription_count";

    // Python signs the MD5 of no body, for a GET as well.
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    let answer = get("/channels/news").body_md5(empty).query("info", info).send().await;
    assert_eq!(answer.expect_ok(), counts);
    // Python escapes nothing; the others do. What is signed is the same.
    for wire in ["info=subscription_count,subscription_count", "info=subscription_count%2Csubscription_count"]
    {
        let answer = get("/channels/news").query_as("info", &[info, info].join(","), wire).send().await;
        assert_eq!(answer.expect_ok(), counts);
    }
    // Keys are signed in lower case, values in their own; `+` stands for itself
    // or for a space, depending on who is asked, so nobody sends it.
    let answer =
        get("/channels/news").query_as("Info", info, "Info=subscription_count").query("Zeta", "Ä b&=c");
    answer.send().await.expect_ok();
    // The path is signed as it was sent, and decoded once.
    let answer = get("/channels/a%3Bb%2Cc%40d%3De.f%3Ag").query("info", info).send().await;
    assert_eq!(answer.expect_ok(), counts);
}

/// protocol.md 1.2: arrays in the query, in both readings of how to sign them.
#[tokio::test]
async fn arrays_in_a_query_are_signed_in_two_ways() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let pairs = caller.request("GET", "/channels/news").query("a[]", "z").query("a[]", "b").send().await;
    pairs.expect_ok();
    let joined = caller.request("GET", "/channels/news").query_as("a", "z,b", "a[]=z&a[]=b").send().await;
    joined.expect_ok();
}

#[tokio::test]
async fn the_log_keeps_secrets_and_payloads_to_itself() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let event = json!({ "name": "e", "channel": "news", "data": "a-private-payload" });
    caller.events(&event).send().await.expect_ok();
    caller.events(&event).secret("wrong-secret").send().await.expect_refused(401);
    caller.events(&event).header("content-encoding", "gzip").send().await.expect_refused(415);
    let mut browser = server.browser("key1").await;
    let auth = browser.sign("private-a");
    browser.subscribe("private-a").await;
    browser.subscribe_raw(json!({ "channel": "private-b", "auth": auth })).await;
    browser.expect_subscription_error("private-b").await;
    let log = server.log();
    let signature = auth.split(':').nth(1).unwrap();
    for secret in ["secret1", "wrong-secret", "a-private-payload", signature] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
}
