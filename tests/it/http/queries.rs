//! Queries of `/apps/{id}/channels` for channels of every kind, and `info` attributes
//! (protocol.md 1.5, 1.6).

use fanfare::app::Secret;
use fanfare::auth;
use serde_json::{Value, json};

use crate::support::{Answer, Backend, Browser, Caller, Cluster, Server, on_both_backends};

on_both_backends![
    query_lists_all_occupied_channels_of_the_cluster,
    query_with_prefix_lists_matching_channels,
    query_user_count_needs_a_presence_prefix,
    publish_with_info_returns_the_attributes_of_each_channel,
    query_user_count_counts_a_user_with_several_tabs_once,
    query_lists_users_with_unchanged_user_info,
    query_cache_returns_the_last_event,
    query_forms_of_all_libraries_are_accepted,
];

const BOTH: &str = "subscription_count,user_count";

/// Joins a presence channel of app 1 as a user, with `user_info` as JSON text.
async fn join(browser: &mut Browser, channel: &str, user_id: &str, user_info: &str) {
    let data = format!(r#"{{"user_id":"{user_id}","user_info":{user_info}}}"#);
    let text = auth::subscription_text(browser.socket_id(), channel, Some(&data));
    let auth = format!("key1:{}", auth::sign(&Secret::new("secret1"), &text));
    browser.subscribe_with(channel, json!({ "auth": auth, "channel_data": data })).await;
}

async fn list(caller: &Caller, query: &[(&str, &str)]) -> Value {
    let mut answer = caller.get("/channels", query).await.expect_ok();
    assert_eq!(answer.as_object().map(serde_json::Map::len), Some(1), "{answer}");
    answer["channels"].take()
}

#[track_caller]
fn expect_info_refused(answer: &Answer) {
    answer.expect_error(400, "invalid_input").of_field("info");
}

async fn query_lists_all_occupied_channels_of_the_cluster(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    assert_eq!(list(&caller, &[]).await, json!({}));
    let mut first = cluster.first().browser("key1").await;
    let mut second = cluster.second().browser("key1").await;
    let mut other_app = cluster.second().browser("key2").await;
    for channel in ["news", "private-b"] {
        first.subscribe(channel).await;
    }
    for channel in ["news", "cache-a", "a;b,c@d=e.f:g_h-i"] {
        second.subscribe(channel).await;
    }
    other_app.subscribe("elsewhere").await;

    for node in &cluster.nodes {
        let answer = node.caller("1").get("/channels", &[]).await;
        answer.expect_ok();
        let sorted = r#"{"channels":{"a;b,c@d=e.f:g_h-i":{},"cache-a":{},"news":{},"private-b":{}}}"#;
        assert_eq!(answer.text(), sorted);
        let counted = list(&node.caller("1"), &[("info", "subscription_count")]).await;
        let one = json!({ "subscription_count": 1 });
        let news = json!({ "subscription_count": 2 });
        assert_eq!(
            counted,
            json!({ "a;b,c@d=e.f:g_h-i": one, "cache-a": one, "news": news, "private-b": one })
        );
    }

    first.unsubscribe("private-b").await;
    caller.count_becomes("private-b", 0).await;
    assert_eq!(list(&caller, &[("filter_by_prefix", "private-")]).await, json!({}));
}

async fn query_with_prefix_lists_matching_channels(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut browser = cluster.second().browser("key1").await;
    for channel in ["a", "a-", "a-1", "a-2", "a.3", "b-a-1", "private-a-1"] {
        browser.subscribe(channel).await;
    }
    let names = async |prefix: &str| {
        let found = list(&caller, &[("filter_by_prefix", prefix)]).await;
        found.as_object().expect("an object").keys().cloned().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(names("a-").await, "a- a-1 a-2");
    assert_eq!(names("a-1").await, "a-1");
    assert_eq!(names("private-").await, "private-a-1");
    assert_eq!(names("").await, "a a- a-1 a-2 a.3 b-a-1 private-a-1");
    for nothing in ["c", "A", "a-1 ", "a*", "(", "[", "a-1\u{0}", "ž"] {
        assert_eq!(names(nothing).await, "", "{nothing:?}");
    }
}

async fn query_user_count_needs_a_presence_prefix(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut first = cluster.first().browser("key1").await;
    let mut second = cluster.second().browser("key1").await;
    first.subscribe("news").await;
    join(&mut first, "presence-a", "1", "null").await;
    join(&mut second, "presence-a", "1", "null").await;
    join(&mut second, "presence-cache-b", "2", "null").await;

    let presence = ("filter_by_prefix", "presence-");
    let both = list(&caller, &[presence, ("info", BOTH)]).await;
    let expected = json!({
        "presence-a": { "user_count": 1, "subscription_count": 2 },
        "presence-cache-b": { "user_count": 1, "subscription_count": 1 },
    });
    assert_eq!(both, expected);
    let users = list(&caller, &[("filter_by_prefix", "presence-c"), ("info", "user_count")]).await;
    assert_eq!(users, json!({ "presence-cache-b": { "user_count": 1 } }));

    for query in [
        &[("info", "user_count")][..],
        &[("info", BOTH), ("filter_by_prefix", "presence")],
        &[("info", "user_count"), ("filter_by_prefix", "private-")],
        &[("info", "cache"), ("filter_by_prefix", "cache-")],
        &[("info", "weather"), presence],
        &[("info", "subscription_count,weather")],
    ] {
        expect_info_refused(&caller.get("/channels", query).await);
    }
}

async fn publish_with_info_returns_the_attributes_of_each_channel(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let mut first = cluster.first().browser("key1").await;
    let mut second = cluster.second().browser("key1").await;
    for browser in [&mut first, &mut second] {
        browser.subscribe("news").await;
        join(browser, "presence-room", "1", "null").await;
    }
    join(&mut second, "presence-cache-room", "2", "null").await;
    second.subscribe("cache-room").await;

    let of = |subscriptions: u64| json!({ "subscription_count": subscriptions });
    let users =
        |subscriptions: u64, users: u64| json!({ "subscription_count": subscriptions, "user_count": users });
    let expected = [
        ("news", of(2)),
        ("presence-room", users(2, 1)),
        ("presence-cache-room", users(1, 1)),
        ("cache-room", of(1)),
        ("private-cache-room", of(0)),
        ("#server-to-user-1", of(0)),
        ("presence-empty", users(0, 0)),
    ];
    let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
    let event = json!({ "name": "e", "channels": names, "data": "x", "info": BOTH });
    let answer = caller.post_events(event).await.expect_ok();
    let channels: Value =
        expected.iter().map(|(name, counts)| ((*name).to_owned(), counts.clone())).collect();
    assert_eq!(answer, json!({ "channels": channels }));

    let batch = names.iter().map(|name| json!({ "name": "e", "channel": name, "data": "x", "info": BOTH }));
    let answer = caller.post_batch(batch.collect()).await.expect_ok();
    let in_order: Value = expected.iter().map(|(_, counts)| counts.clone()).collect();
    assert_eq!(answer, json!({ "batch": in_order }));
}

async fn query_user_count_counts_a_user_with_several_tabs_once(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let query = async || caller.get("/channels/presence-room", &[("info", BOTH)]).await.expect_ok();
    let occupied = |subscriptions: u64, users: u64| json!({ "occupied": subscriptions > 0, "subscription_count": subscriptions, "user_count": users });
    assert_eq!(query().await, occupied(0, 0));
    let mut tabs = cluster.browsers("key1").await;
    for tab in &mut tabs {
        join(tab, "presence-room", "1", "null").await;
    }
    let mut other = cluster.second().browser("key1").await;
    join(&mut other, "presence-room", "2", "null").await;
    assert_eq!(query().await, occupied(3, 2));
    let tab = tabs.remove(0);
    tab.close().await;
    caller.count_becomes("presence-room", 2).await;
    assert_eq!(query().await, occupied(2, 2));
    tabs.remove(0).close().await;
    caller.count_becomes("presence-room", 1).await;
    assert_eq!(query().await, occupied(1, 1));
}

async fn query_lists_users_with_unchanged_user_info(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let path = "/channels/presence-room/users";
    assert_eq!(caller.get(path, &[]).await.expect_ok(), json!({ "users": [] }));
    // JSON that would change if it were parsed and serialised again.
    let info = r#"{"z":1.0,"a":"\u00e9","big":123456789012345678901234567890}"#;
    let mut ann = cluster.first().browser("key1").await;
    join(&mut ann, "presence-room", "1", info).await;
    let mut bob = cluster.second().browser("key1").await;
    join(&mut bob, "presence-room", "2", "null").await;

    for node in &cluster.nodes {
        let caller = node.caller("1");
        assert_eq!(caller.get(path, &[]).await.text(), r#"{"users":[{"id":"1"},{"id":"2"}]}"#);
        let infos = caller.get(path, &[("with_user_info", "1")]).await;
        let expected =
            format!(r#"{{"users":[{{"id":"1","user_info":{info}}},{{"id":"2","user_info":null}}]}}"#);
        assert_eq!(infos.text(), expected);
    }
    for channel in ["news", "private-room", "cache-room", "private-encrypted-room", "%23server-to-user-1"] {
        let answer = caller.get(&format!("/channels/{channel}/users"), &[]).await;
        answer.expect_error(400, "invalid_input").of_field("channel");
    }
    caller
        .get("/channels/bad%20name/users", &[])
        .await
        .expect_error(400, "invalid_input")
        .of_field("channel");
}

async fn query_cache_returns_the_last_event(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let query = async |channel: &str| {
        let path = format!("/channels/{channel}");
        cluster.second().caller("1").get(&path, &[("info", "cache")]).await.expect_ok()
    };
    let channels = ["cache-a", "private-cache-a", "private-encrypted-cache-a", "presence-cache-a"];
    for channel in channels {
        assert_eq!(query(channel).await, json!({ "occupied": false, "cache": null }));
        let event = |data: &str| json!({ "name": "e", "channel": channel, "data": data });
        let text = "žluťoučký \"kůň\"\n\\ 🎺";
        caller.post_batch(json!([event("one"), event("two"), event(text)])).await.expect_ok();

        let answer = query(channel).await;
        assert_eq!(answer["cache"]["data"], text, "{answer}");
        let ttl = answer["cache"]["ttl"].as_u64().expect("whole seconds");
        assert!((1..=1_800).contains(&ttl), "{answer}");
        // A cached event alone does not make a channel occupied.
        assert_eq!(answer["occupied"], false);
        caller.post_events(event("three")).await.expect_ok();
        assert_eq!(query(channel).await["cache"]["data"], "three");
    }
    for channel in ["news", "my-cache-a", "private-a", "presence-a", "%23server-to-user-1"] {
        let path = format!("/channels/{channel}");
        expect_info_refused(&caller.get(&path, &[("info", "cache")]).await);
        caller.get(&path, &[]).await.expect_ok();
    }
    expect_info_refused(&caller.get("/channels/cache-a", &[("info", "cache,user_count")]).await);
}

/// The Python library does not escape commas, and signs the MD5 of the empty body with
/// every GET.
async fn query_forms_of_all_libraries_are_accepted(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let caller = cluster.caller("1");
    let empty = "d41d8cd98f00b204e9800998ecf8427e";
    for (path, expected) in [
        ("/channels", json!({ "channels": {} })),
        ("/channels/presence-a", json!({ "occupied": false, "subscription_count": 0, "user_count": 0 })),
        ("/channels/presence-a/users", json!({ "users": [] })),
    ] {
        for wire in ["info=user_count,subscription_count", "info=user_count%2Csubscription_count"] {
            let request = caller.request("GET", path).query_as("info", "user_count,subscription_count", wire);
            let request = request.query("filter_by_prefix", "presence-").body_md5(empty);
            assert_eq!(request.send().await.expect_ok(), expected, "{path} {wire}");
        }
    }
}

#[tokio::test]
async fn query_of_a_user_channel_returns_its_counts() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    let answer = caller.get("/channels/%23server-to-user-1", &[("info", "subscription_count")]).await;
    assert_eq!(answer.expect_ok(), json!({ "occupied": false, "subscription_count": 0 }));
    expect_info_refused(&caller.get("/channels/%23server-to-user-1", &[("info", "user_count")]).await);
}

#[tokio::test]
async fn query_without_valid_signature_is_refused() {
    let server = Server::builder().start().await;
    let caller = server.caller("1");
    for path in ["/channels", "/channels/presence-a", "/channels/presence-a/users"] {
        caller.request("GET", path).secret("wrong").send().await.expect_error(401, "auth_failed");
        server.caller("3").get(path, &[]).await.expect_error(403, "forbidden");
        caller.request("POST", path).send().await.expect_refused(405);
    }
}
