//! Pusher's request signing (protocol.md 1.2): access to the HTTP API.

use serde_json::{Value, json};

use crate::support::{Backend, Cluster, Server};

fn event() -> Value {
    json!({ "name": "e", "channel": "news", "data": "x" })
}

#[tokio::test]
async fn request_with_invalid_signature_is_refused() {
    let cluster = Cluster::start(Backend::Memory).await;
    let caller = cluster.caller("1");
    let mut subscribers = cluster.subscribers(&["news"]).await;
    let event = event();
    let signed = || caller.events(&event);
    let mut cases = vec![
        ("another secret", signed().secret("secret2")),
        ("an empty secret", signed().secret("")),
        ("another app's key and secret", signed().key("key2").secret("secret2")),
        ("another app's key", signed().key("key2")),
        ("an unknown key", signed().key("unknown")),
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
        subscribers.expect_nothing(&caller, "news", what).await;
    }
}

#[tokio::test]
async fn non_numeric_timestamp_is_refused() {
    let server = Server::builder().start().await;
    for timestamp in ["", "now", "-1", "99999999999999999999", "1353088179.5"] {
        let caller = server.caller("1");
        let event = event();
        let request = caller.events(&event).without("auth_timestamp").query("auth_timestamp", timestamp);
        request.send().await.expect_error(401, "auth_failed");
    }
}

#[tokio::test]
async fn body_that_differs_from_signed_md5_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let event = event();
    let md5 = fanfare::auth::body_md5(event.to_string().as_bytes());
    let other = event.to_string().replace("news", "olds");
    let answer = caller.events(&event).body(other).body_md5(&md5).send().await;
    answer.expect_error(401, "auth_failed");
    // Hexadecimal digits in either case are accepted.
    caller.events(&event).body_md5(&md5.to_uppercase()).send().await.expect_ok();
}

#[tokio::test]
async fn timestamp_within_ten_minutes_is_accepted() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for seconds in [-590, -1, 0, 1, 590] {
        caller.events(&event()).at(seconds).send().await.expect_ok();
    }
}

#[tokio::test]
async fn unknown_or_disabled_app_is_refused() {
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
    // A caller without a valid signature does not learn that the app is disabled.
    disabled.events(&event()).secret("wrong").send().await.expect_error(401, "auth_failed");
}

#[tokio::test]
async fn signature_covers_query() {
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

/// Requests as the libraries in use send them, each with its own variations.
#[tokio::test]
async fn signing_variants_of_client_libraries_are_accepted() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let get = |path: &str| caller.request("GET", path);
    let counts = json!({ "occupied": false, "subscription_count": 0 });
    let info = "subscription_count";

    // Python signs the MD5 of the empty body, for a GET as well.
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    let answer = get("/channels/news").body_md5(empty).query("info", info).send().await;
    assert_eq!(answer.expect_ok(), counts);
    // Python escapes nothing, other libraries escape the value. The signed text is
    // the same.
    for wire in ["info=subscription_count,subscription_count", "info=subscription_count%2Csubscription_count"]
    {
        let answer = get("/channels/news").query_as("info", &[info, info].join(","), wire).send().await;
        assert_eq!(answer.expect_ok(), counts);
    }
    // Keys are signed in lower case, values unchanged; `+` means itself or a space,
    // depending on the implementation, so no library sends it.
    let answer =
        get("/channels/news").query_as("Info", info, "Info=subscription_count").query("Zeta", "Ä b=c");
    answer.send().await.expect_ok();
    // The path is signed as sent, and decoded once.
    let answer = get("/channels/a%3Bb%2Cc%40d%3De.f%3Ag").query("info", info).send().await;
    assert_eq!(answer.expect_ok(), counts);
}

/// One signature must not be valid for several queries: `a=1%26info%3Dx` has the signed text of
/// `a=1&info=x`.
#[tokio::test]
async fn query_with_ambiguous_signed_text_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for (name, value, wire) in [
        ("a", "1&info=subscription_count", "a=1%26info%3Dsubscription_count"),
        ("a&info", "subscription_count", "a%26info=subscription_count"),
        ("info=subscription_count&b", "1", "info%3Dsubscription_count%26b=1"),
        ("info=user", "1", "info%3Duser=1"),
    ] {
        let answer = caller.request("GET", "/channels/news").query_as(name, value, wire).send().await;
        answer.expect_error(400, "invalid_input").of_field("query");
    }
}

/// The number is checked before the signature, whose cost grows with the query.
#[tokio::test]
async fn query_with_more_than_64_parameters_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let request = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("p{at}")).collect();
        names.iter().fold(caller.request("GET", "/channels/news"), |request, name| request.query(name, "x"))
    };
    // With the four parameters of the signature.
    request(60).send().await.expect_ok();
    request(61).send().await.expect_error(400, "invalid_input");
    let unsigned = format!("/apps/1/channels?{}x[]=1", "a&".repeat(3_900));
    let answer = server.get(&unsigned).await;
    assert_eq!(answer.status, 400, "{}", answer.text());
    let upgrade = server.try_connect(&format!("/app/key1?{}", "a=1&".repeat(65))).await;
    assert_eq!(upgrade.err().expect("a refusal").status, 400);
}

/// protocol.md 1.2: arrays in the query, in both interpretations of their
/// signature.
#[tokio::test]
async fn query_arrays_are_accepted_in_both_signing_variants() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let pairs = caller.request("GET", "/channels/news").query("a[]", "z").query("a[]", "b").send().await;
    pairs.expect_ok();
    let joined = caller.request("GET", "/channels/news").query_as("a", "z,b", "a[]=z&a[]=b").send().await;
    joined.expect_ok();
}

#[tokio::test]
async fn log_contains_no_secrets_or_payloads() {
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
