//! Presence channels (protocol.md 2.6): the cluster-wide roster and its changes.

use fanfare::limits;
use serde_json::{Value, json};

use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![
    presence_new_member_receives_the_roster_and_is_announced,
    presence_user_with_several_connections_is_one_member,
    presence_rejoin_before_leave_ack_resends_user_info,
    presence_closed_connection_removes_the_member,
    presence_repeated_subscription_changes_nothing,
    presence_full_channel_admits_current_members_only,
    presence_events_reach_all_members,
];

const ROOM: &str = "presence-room";

async fn presence_new_member_receives_the_roster_and_is_announced(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut ann = cluster.first().browser("key1").await;
    let mut ben = cluster.second().browser("key1").await;
    ann.request_presence_subscription(ROOM, r#"{"user_id":"ann","user_info":{"n":1.0}}"#).await;
    assert_eq!(
        ann.next().await.text,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"ann\"],\"hash\":{\"ann\":{\"n\":1.0}},\"count\":1}}"}"#
    );
    // A user id may be a number. The server does not change the signed bytes of `user_info`.
    ben.request_presence_subscription(ROOM, r#" { "user_info" : {"b": 2.50} , "user_id" : 10 } "#).await;
    assert_eq!(
        ben.next().await.text,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"10\",\"ann\"],\"hash\":{\"10\":{\"b\": 2.50},\"ann\":{\"n\":1.0}},\"count\":2}}"}"#
    );
    assert_eq!(
        ann.next().await.text,
        r#"{"event":"pusher_internal:member_added","channel":"presence-room","data":"{\"user_id\":\"10\",\"user_info\":{\"b\": 2.50}}"}"#
    );
    ann.unsubscribe(ROOM).await;
    // A member receives no `member_added` of itself, so this is ben's first change.
    assert_eq!(
        ben.next().await.text,
        r#"{"event":"pusher_internal:member_removed","channel":"presence-room","data":"{\"user_id\":\"ann\"}"}"#
    );
}

async fn presence_user_with_several_connections_is_one_member(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut tabs = cluster.browsers("key1").await;
    let names = ["first", "second"];
    for (tab, name) in tabs.iter_mut().zip(names) {
        let data = json!({ "user_id": "ann", "user_info": { "name": name } });
        tab.request_presence_subscription(ROOM, &data.to_string()).await;
        // The `user_info` of the user's first connection stays.
        let presence = tab.confirmed(ROOM).await.data_json()["presence"].take();
        assert_eq!(presence["count"], 2);
        assert_eq!(presence["hash"]["ann"], json!({ "name": "first" }));
    }
    let added = eve.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json(), json!({ "user_id": "ann", "user_info": { "name": "first" } }));
    tabs[0].unsubscribe(ROOM).await;
    cluster.caller("1").count_becomes(ROOM, 2).await;
    cluster.caller("1").publish(ROOM, "user-remains", "").await;
    eve.expect_event(ROOM, "user-remains").await;
    tabs[1].unsubscribe(ROOM).await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
}

/// The user rejoins while the membership update of the leave is in flight: the
/// `member_added` carries the `user_info` of the new subscription.
async fn presence_rejoin_before_leave_ack_resends_user_info(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.first().browser("key1").await;
    let mut times_added = 0;
    for n in 0..200 {
        let data = json!({ "user_id": "ann", "user_info": { "n": n } });
        ann.request_presence_subscription(ROOM, &data.to_string()).await;
        ann.confirmed(ROOM).await;
        cluster.caller("1").publish(ROOM, "joined", "").await;
        loop {
            let frame = eve.next().await;
            match frame.event.as_str() {
                "joined" => break,
                "pusher_internal:member_added" => {
                    times_added += 1;
                    assert_eq!(frame.data_json()["user_info"]["n"], n, "{}", frame.text);
                }
                _ => {}
            }
        }
        ann.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": ROOM } })).await;
    }
    assert!(times_added > 1, "every rejoin came before the removal");
}

async fn presence_closed_connection_removes_the_member(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.second().browser("key1").await;
    ann.join(ROOM, "ann").await;
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    ann.close().await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
    // A connection lost without a close frame.
    let mut ben = cluster.second().browser("key1").await;
    ben.join(ROOM, "ben").await;
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    drop(ben);
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ben" }));
}

async fn presence_repeated_subscription_changes_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.second().browser("key1").await;
    let presence = ann.join(ROOM, "ann").await;
    assert_eq!(ann.join(ROOM, "ann").await, presence);
    // Another user id on the same subscription is ignored.
    assert_eq!(ann.join(ROOM, "anna").await, presence);
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    ann.unsubscribe(ROOM).await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
    // After unsubscribing, the connection may join as another user.
    ann.join(ROOM, "anna").await;
    let added = eve.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json()["user_id"], "anna");
}

async fn presence_full_channel_admits_current_members_only(backend: Backend) {
    let app =
        AppSpec::new("4").set("max_presence_members_per_channel", 2).set("enable_client_messages", true);
    let cluster = Cluster::builder(backend).app(app).start().await;
    let mut ann = cluster.first().browser("key4").await;
    let mut ben = cluster.second().browser("key4").await;
    ann.join(ROOM, "ann").await;
    ben.join(ROOM, "ben").await;
    ann.expect_event(ROOM, "pusher_internal:member_added").await;
    let mut eve = cluster.second().browser("key4").await;
    for _ in 0..2 {
        eve.request_presence_subscription(ROOM, r#"{"user_id":"eve"}"#).await;
        let error = eve.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4100)), "{error}");
    }
    // A refused subscriber cannot send client events.
    eve.trigger(ROOM, "client-a", json!({})).await;
    eve.expect_error_code(4301).await;
    // Another connection of a current member does not count as a new member.
    let mut tab = cluster.first().browser("key4").await;
    assert_eq!(tab.join(ROOM, "ben").await["count"], 2);
    ann.unsubscribe(ROOM).await;
    ben.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(eve.join(ROOM, "eve").await["count"], 2);
    let added = ben.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json(), json!({ "user_id": "eve", "user_info": { "name": "eve" } }));
}

async fn presence_events_reach_all_members(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut members = cluster.browsers("key1").await;
    members[0].join(ROOM, "ann").await;
    members[1].join(ROOM, "ben").await;
    members[0].expect_event(ROOM, "pusher_internal:member_added").await;
    cluster.caller("1").publish(ROOM, "e", "x").await;
    for member in &mut members {
        let frame = member.expect_event(ROOM, "e").await;
        assert_eq!(frame.text, r#"{"event":"e","channel":"presence-room","data":"x"}"#);
    }
}

#[tokio::test]
async fn presence_subscription_needs_a_signature_over_channel_data() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let data = r#"{"user_id":"ann"}"#;
    let signed = |text: &str| ann.sign_text(&format!("{}:{text}", ann.socket_id()));
    let wrong: Vec<(&str, Value)> = vec![
        ("none", Value::Null),
        ("without the data", signed(ROOM).into()),
        ("of other data", signed(&format!(r#"{ROOM}:{{"user_id":"ben"}}"#)).into()),
        ("of the same data with other whitespace", signed(&format!(r#"{ROOM}:{{"user_id": "ann"}}"#)).into()),
        ("of another channel", signed(&format!("presence-other:{data}")).into()),
        ("of another app", signed(&format!("{ROOM}:{data}")).replace("key1", "key2").into()),
    ];
    for (case, auth) in wrong {
        ann.subscribe_raw(json!({ "channel": ROOM, "auth": auth, "channel_data": data })).await;
        let error = ann.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("AuthError"), &json!(401)), "{case}: {error}");
        let text = error["error"].as_str().unwrap();
        let named = format!("{}:{ROOM}:{data}", ann.socket_id());
        assert!(!text.starts_with("Invalid signature") || text.contains(&named), "{case}: {text}");
    }
    // Without `channel_data`, the connection must have signed in.
    let auth = ann.sign(ROOM);
    ann.subscribe_raw(json!({ "channel": ROOM, "auth": auth })).await;
    let error = ann.expect_subscription_error(ROOM).await;
    assert_eq!(error["type"], "AuthError");
    assert!(error["error"].as_str().unwrap().contains("signed-in connection"), "{error}");
    assert_eq!(ann.join(ROOM, "ann").await["count"], 1);
}

#[tokio::test]
async fn presence_error_names_the_invalid_field_of_channel_data() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let long = json!({ "user_id": "i".repeat(limits::USER_ID_CHARS_MAX + 1) }).to_string();
    for (data, field) in [
        ("ann", "channel_data"),
        (r#"["ann"]"#, "channel_data"),
        ("{}", "user_id"),
        (r#"{"user_id":null}"#, "user_id"),
        (r#"{"user_id":["ann"]}"#, "user_id"),
        (r#"{"user_id":""}"#, "user_id"),
        (&long, "user_id"),
    ] {
        ann.request_presence_subscription(ROOM, data).await;
        let error = ann.expect_subscription_error(ROOM).await;
        let is = (error["type"].as_str(), error["status"].as_u64());
        assert_eq!(is, (Some("InvalidChannelData"), Some(400)), "{data}: {error}");
        assert!(error["error"].as_str().unwrap().contains(field), "{data}: {error}");
    }
    // `channel_data` as an object, not as a string.
    ann.subscribe_raw(json!({ "channel": ROOM, "auth": "a:b", "channel_data": { "user_id": "ann" } })).await;
    let error = ann.expect_subscription_error(ROOM).await;
    assert_eq!(
        (&error["type"], &error["error"]),
        (&json!("InvalidField"), &json!("`channel_data` must be a string"))
    );
    assert_eq!(ann.join(ROOM, &"i".repeat(limits::USER_ID_CHARS_MAX)).await["count"], 1);
}

#[tokio::test]
async fn user_info_above_the_size_limit_is_refused() {
    let app = AppSpec::new("4").set("max_presence_member_size_in_kb", 1);
    let server = Server::builder().app(app).start().await;
    for (key, max) in [("key1", limits::PRESENCE_MEMBER_BYTES_MAX), ("key4", 1024)] {
        let mut ann = server.browser(key).await;
        // The limit counts the JSON text, including its quotes.
        let data = |bytes: usize| json!({ "user_id": "ann", "user_info": "i".repeat(bytes - 2) }).to_string();
        ann.request_presence_subscription(ROOM, &data(max + 1)).await;
        let error = ann.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4301)), "{error}");
        ann.request_presence_subscription(ROOM, &data(max)).await;
        ann.confirmed(ROOM).await;
    }
}

/// Some backends escape `é` as `\u00e9`, six bytes of ASCII.
#[tokio::test]
async fn user_info_limit_counts_decoded_text() {
    let app = AppSpec::new("4").set("max_presence_member_size_in_kb", 1);
    let server = Server::builder().app(app).start().await;
    let data = |count: usize| {
        let name = r"\u00e9".repeat(count);
        format!(r#"{{"user_id":"ann","user_info":{{"name":"{name}"}}}}"#)
    };
    // 11 bytes are the length of `{"name":""}`.
    let count_max = (1024 - 11) / 2;
    for (count, fits) in [(350, true), (count_max, true), (count_max + 1, false)] {
        let mut ann = server.browser("key4").await;
        ann.request_presence_subscription(ROOM, &data(count)).await;
        if fits {
            let frame = ann.confirmed(ROOM).await;
            let name = "é".repeat(count);
            assert_eq!(frame.data_json()["presence"]["hash"]["ann"]["name"], json!(name));
        } else {
            let error = ann.expect_subscription_error(ROOM).await;
            assert_eq!(error["error"], "`user_info` has 1025 bytes (limit: 1024)");
        }
        ann.close().await;
        // A signed-in user joins with the `user_info` of `user_data`.
        let mut ann = server.browser("key4").await;
        let user_data = data(count).replace("user_id", "id");
        ann.sign_in_with(&user_data).await;
        let auth = ann.sign(ROOM);
        ann.subscribe_raw(json!({ "channel": ROOM, "auth": auth })).await;
        match fits {
            true => drop(ann.confirmed(ROOM).await),
            false => drop(ann.expect_subscription_error(ROOM).await),
        }
        ann.close().await;
    }
}

/// A connection that has signed in needs no `channel_data`.
#[tokio::test]
async fn presence_signed_in_user_joins_without_channel_data() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    ann.sign_in_with(r#"{"id":"ann","user_info":{"n": 1.0}}"#).await;
    let auth = ann.sign(ROOM);
    // Some libraries send an empty string instead of omitting the member.
    for data in [
        json!({ "channel": ROOM, "auth": auth }),
        json!({ "channel": ROOM, "auth": auth, "channel_data": "" }),
    ] {
        ann.subscribe_raw(data).await;
        let presence = ann.confirmed(ROOM).await.data_json()["presence"].take();
        assert_eq!(presence, json!({ "ids": ["ann"], "hash": { "ann": { "n": 1.0 } }, "count": 1 }));
    }
    // Signed `channel_data` has precedence over the signed-in user.
    let presence = ann.join("presence-other", "another").await;
    assert_eq!(presence["ids"], json!(["another"]));
}
