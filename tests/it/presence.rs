//! Presence channels (protocol.md 2.6): who is there, in the whole cluster.

use fanfare::limits;
use serde_json::{Value, json};

use crate::support::{AppSpec, Backend, Cluster, Server, on_both_backends};

on_both_backends![
    who_joins_is_shown_everyone_and_shown_to_everyone,
    a_user_is_one_member_on_any_number_of_connections,
    who_comes_back_is_shown_as_he_comes_back,
    a_closed_socket_leaves_its_channels,
    a_second_subscription_changes_nothing,
    a_full_channel_takes_its_own_members_only,
    events_reach_the_members,
];

const ROOM: &str = "presence-room";

async fn who_joins_is_shown_everyone_and_shown_to_everyone(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut ann = cluster.first().browser("key1").await;
    let mut ben = cluster.second().browser("key1").await;
    ann.ask_to_join(ROOM, r#"{"user_id":"ann","user_info":{"n":1.0}}"#).await;
    assert_eq!(
        ann.next().await.text,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"ann\"],\"hash\":{\"ann\":{\"n\":1.0}},\"count\":1}}"}"#
    );
    // A number is a user id too, and what the signature covers is not touched.
    ben.ask_to_join(ROOM, r#" { "user_info" : {"b": 2.50} , "user_id" : 10 } "#).await;
    assert_eq!(
        ben.next().await.text,
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-room","data":"{\"presence\":{\"ids\":[\"10\",\"ann\"],\"hash\":{\"10\":{\"b\": 2.50},\"ann\":{\"n\":1.0}},\"count\":2}}"}"#
    );
    assert_eq!(
        ann.next().await.text,
        r#"{"event":"pusher_internal:member_added","channel":"presence-room","data":"{\"user_id\":\"10\",\"user_info\":{\"b\": 2.50}}"}"#
    );
    ann.unsubscribe(ROOM).await;
    // His own coming was not told to him: this is the first that he hears.
    assert_eq!(
        ben.next().await.text,
        r#"{"event":"pusher_internal:member_removed","channel":"presence-room","data":"{\"user_id\":\"ann\"}"}"#
    );
}

async fn a_user_is_one_member_on_any_number_of_connections(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut tabs = cluster.browsers("key1").await;
    let names = ["first", "second"];
    for (tab, name) in tabs.iter_mut().zip(names) {
        let data = json!({ "user_id": "ann", "user_info": { "name": name } });
        tab.ask_to_join(ROOM, &data.to_string()).await;
        // What the first connection has said of her stays.
        let presence = tab.confirmed(ROOM).await.data_json()["presence"].take();
        assert_eq!(presence["count"], 2);
        assert_eq!(presence["hash"]["ann"], json!({ "name": "first" }));
    }
    let added = eve.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json(), json!({ "user_id": "ann", "user_info": { "name": "first" } }));
    tabs[0].unsubscribe(ROOM).await;
    cluster.caller("1").count_becomes(ROOM, 2).await;
    cluster.caller("1").publish(ROOM, "she-is-still-here", "").await;
    eve.expect_event(ROOM, "she-is-still-here").await;
    tabs[1].unsubscribe(ROOM).await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
}

/// Also where he comes back while the cluster is being told that he has left.
async fn who_comes_back_is_shown_as_he_comes_back(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.first().browser("key1").await;
    let mut times_added = 0;
    for n in 0..200 {
        let data = json!({ "user_id": "ann", "user_info": { "n": n } });
        ann.ask_to_join(ROOM, &data.to_string()).await;
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
    assert!(times_added > 1, "she was never seen to go");
}

async fn a_closed_socket_leaves_its_channels(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.second().browser("key1").await;
    ann.join(ROOM, "ann").await;
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    ann.close().await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
    // Also without a goodbye.
    let mut ben = cluster.second().browser("key1").await;
    ben.join(ROOM, "ben").await;
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    drop(ben);
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ben" }));
}

async fn a_second_subscription_changes_nothing(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut eve = cluster.first().browser("key1").await;
    eve.join(ROOM, "eve").await;
    let mut ann = cluster.second().browser("key1").await;
    let shown = ann.join(ROOM, "ann").await;
    assert_eq!(ann.join(ROOM, "ann").await, shown);
    // She stays who she is.
    assert_eq!(ann.join(ROOM, "anna").await, shown);
    eve.expect_event(ROOM, "pusher_internal:member_added").await;
    ann.unsubscribe(ROOM).await;
    let removed = eve.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(removed.data_json(), json!({ "user_id": "ann" }));
    // And may then be another.
    ann.join(ROOM, "anna").await;
    let added = eve.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json()["user_id"], "anna");
}

async fn a_full_channel_takes_its_own_members_only(backend: Backend) {
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
        eve.ask_to_join(ROOM, r#"{"user_id":"eve"}"#).await;
        let error = eve.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4100)), "{error}");
    }
    // She is not subscribed, and speaks to nobody.
    eve.trigger(ROOM, "client-a", json!({})).await;
    eve.expect_error_code(4301).await;
    // Another connection of a member is no new member.
    let mut tab = cluster.first().browser("key4").await;
    assert_eq!(tab.join(ROOM, "ben").await["count"], 2);
    ann.unsubscribe(ROOM).await;
    ben.expect_event(ROOM, "pusher_internal:member_removed").await;
    assert_eq!(eve.join(ROOM, "eve").await["count"], 2);
    let added = ben.expect_event(ROOM, "pusher_internal:member_added").await;
    assert_eq!(added.data_json(), json!({ "user_id": "eve", "user_info": { "name": "eve" } }));
}

async fn events_reach_the_members(backend: Backend) {
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
async fn only_who_was_signed_for_may_join() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    let data = r#"{"user_id":"ann"}"#;
    let signed = |text: &str| ann.sign_text(&format!("{}:{text}", ann.socket_id()));
    let wrong: Vec<(&str, Value)> = vec![
        ("none", Value::Null),
        ("without the data", signed(ROOM).into()),
        ("of other data", signed(&format!(r#"{ROOM}:{{"user_id":"ben"}}"#)).into()),
        ("of the same data in other words", signed(&format!(r#"{ROOM}:{{"user_id": "ann"}}"#)).into()),
        ("of another channel", signed(&format!("presence-other:{data}")).into()),
        ("of another app", signed(&format!("{ROOM}:{data}")).replace("key1", "key2").into()),
    ];
    for (what, auth) in wrong {
        ann.subscribe_raw(json!({ "channel": ROOM, "auth": auth, "channel_data": data })).await;
        let error = ann.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("AuthError"), &json!(401)), "{what}: {error}");
        let text = error["error"].as_str().unwrap();
        let named = format!("{}:{ROOM}:{data}", ann.socket_id());
        assert!(!text.starts_with("Invalid signature") || text.contains(&named), "{what}: {text}");
    }
    // Without data it takes a user who has signed in.
    let auth = ann.sign(ROOM);
    ann.subscribe_raw(json!({ "channel": ROOM, "auth": auth })).await;
    let error = ann.expect_subscription_error(ROOM).await;
    assert_eq!(error["type"], "AuthError");
    assert!(error["error"].as_str().unwrap().contains("signed in"), "{error}");
    assert_eq!(ann.join(ROOM, "ann").await["count"], 1);
}

#[tokio::test]
async fn what_is_wrong_with_the_data_is_named() {
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
        ann.ask_to_join(ROOM, data).await;
        let error = ann.expect_subscription_error(ROOM).await;
        let is = (error["type"].as_str(), error["status"].as_u64());
        assert_eq!(is, (Some("InvalidChannelData"), Some(400)), "{data}: {error}");
        assert!(error["error"].as_str().unwrap().contains(field), "{data}: {error}");
    }
    // As a value, not as a string.
    ann.subscribe_raw(json!({ "channel": ROOM, "auth": "a:b", "channel_data": { "user_id": "ann" } })).await;
    let error = ann.expect_subscription_error(ROOM).await;
    assert_eq!(
        (&error["type"], &error["error"]),
        (&json!("InvalidField"), &json!("`channel_data` must be a string"))
    );
    assert_eq!(ann.join(ROOM, &"i".repeat(limits::USER_ID_CHARS_MAX)).await["count"], 1);
}

#[tokio::test]
async fn user_info_has_a_limit() {
    let app = AppSpec::new("4").set("max_presence_member_size_in_kb", 1);
    let server = Server::builder().app(app).start().await;
    for (key, max) in [("key1", limits::PRESENCE_MEMBER_BYTES_MAX), ("key4", 1024)] {
        let mut ann = server.browser(key).await;
        // The quotes count: it is the JSON text that has the bytes.
        let data = |bytes: usize| json!({ "user_id": "ann", "user_info": "i".repeat(bytes - 2) }).to_string();
        ann.ask_to_join(ROOM, &data(max + 1)).await;
        let error = ann.expect_subscription_error(ROOM).await;
        assert_eq!((&error["type"], &error["status"]), (&json!("LimitReached"), &json!(4301)), "{error}");
        ann.ask_to_join(ROOM, &data(max)).await;
        ann.confirmed(ROOM).await;
    }
}

/// Some backends write `é` as six bytes of ASCII.
#[tokio::test]
async fn user_info_limit_counts_decoded_text() {
    let app = AppSpec::new("4").set("max_presence_member_size_in_kb", 1);
    let server = Server::builder().app(app).start().await;
    let data = |count: usize| {
        let name = r"\u00e9".repeat(count);
        format!(r#"{{"user_id":"ann","user_info":{{"name":"{name}"}}}}"#)
    };
    // 11 bytes are left for `{"name":""}`.
    let most = (1024 - 11) / 2;
    for (count, fits) in [(350, true), (most, true), (most + 1, false)] {
        let mut ann = server.browser("key4").await;
        ann.ask_to_join(ROOM, &data(count)).await;
        if fits {
            let frame = ann.confirmed(ROOM).await;
            let name = "é".repeat(count);
            assert_eq!(frame.data_json()["presence"]["hash"]["ann"]["name"], json!(name));
        } else {
            let error = ann.expect_subscription_error(ROOM).await;
            assert_eq!(error["error"], "`user_info` has 1025 bytes, 1024 are allowed");
        }
        ann.close().await;
        // A user who has signed in joins with the `user_info` of `user_data`.
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

/// Whoever has signed in needs no data: the server knows who it is.
#[tokio::test]
async fn a_signed_in_user_joins_as_such() {
    let server = Server::builder().start().await;
    let mut ann = server.browser("key1").await;
    ann.sign_in_with(r#"{"id":"ann","user_info":{"n": 1.0}}"#).await;
    let auth = ann.sign(ROOM);
    // Some libraries send an empty string instead of nothing.
    for data in [
        json!({ "channel": ROOM, "auth": auth }),
        json!({ "channel": ROOM, "auth": auth, "channel_data": "" }),
    ] {
        ann.subscribe_raw(data).await;
        let presence = ann.confirmed(ROOM).await.data_json()["presence"].take();
        assert_eq!(presence, json!({ "ids": ["ann"], "hash": { "ann": { "n": 1.0 } }, "count": 1 }));
    }
    // Data that was signed is what counts, also then.
    let presence = ann.join("presence-other", "another").await;
    assert_eq!(presence["ids"], json!(["another"]));
}
