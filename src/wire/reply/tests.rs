use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// The text of a frame.
fn text(frame: &Bytes) -> String {
    let header = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    String::from_utf8(frame[header..].to_vec()).expect("frames are UTF-8")
}

/// The JSON inside the string that is the `data` of a frame.
fn data(frame: &Bytes) -> Value {
    let frame: Value = serde_json::from_str(&text(frame)).expect("a frame is JSON");
    serde_json::from_str(frame["data"].as_str().expect("data is a string")).expect("data holds JSON")
}

fn roster(users: &[(&str, &'static str)]) -> Roster {
    users.iter().map(|(user, info)| ((*user).into(), Bytes::from_static(info.as_bytes()))).collect()
}

#[test]
fn presence_succeeded_matches_byte_for_byte() {
    let empty = r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"ids\":[],\"hash\":{},\"count\":0}}"}"#;
    assert_eq!(text(&presence_succeeded(EventPrefix::Pusher, "presence-a", &Roster::default(), None)), empty);
    let two = roster(&[("10", r#"{"name" : "Mr. \"X\"", "n":1.0}"#), ("b\"\\", "null")]);
    assert_eq!(
        text(&presence_succeeded(EventPrefix::Pusher, "presence-a", &two, None)),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"ids\":[\"10\",\"b\\\"\\\\\"],\"hash\":{\"10\":{\"name\" : \"Mr. \\\"X\\\"\", \"n\":1.0},\"b\\\"\\\\\":null},\"count\":2}}"}"#
    );
}

#[test]
fn member_events_match_byte_for_byte() {
    assert_eq!(
        text(&member_added(EventPrefix::Pusher, "presence-a", "1", br#"{"n":1.0}"#)),
        r#"{"event":"pusher_internal:member_added","channel":"presence-a","data":"{\"user_id\":\"1\",\"user_info\":{\"n\":1.0}}"}"#
    );
    assert_eq!(
        text(&member_removed(EventPrefix::Pusher, "presence-a", "a\"b")),
        r#"{"event":"pusher_internal:member_removed","channel":"presence-a","data":"{\"user_id\":\"a\\\"b\"}"}"#
    );
}

#[test]
fn subscription_count_and_cache_miss_match_byte_for_byte() {
    assert_eq!(
        text(&subscription_count(EventPrefix::Pusher, "news", 7)),
        r#"{"event":"pusher_internal:subscription_count","channel":"news","data":"{\"subscription_count\":7}"}"#
    );
    assert_eq!(
        text(&cache_miss(EventPrefix::Pusher, "cache-a")),
        r#"{"event":"pusher:cache_miss","channel":"cache-a","data":"{}"}"#
    );
}

#[test]
fn signin_success_and_watchlist_events_match_byte_for_byte() {
    assert_eq!(
        text(&signin_success(EventPrefix::Pusher, r#"{"id":"42", "x":1.0}"#)),
        r#"{"event":"pusher:signin_success","data":{"user_data":"{\"id\":\"42\", \"x\":1.0}"}}"#
    );
    for (online, offline, events) in [
        (
            vec!["1"],
            vec!["2", "3"],
            r#"{"name":"online","user_ids":["1"]},{"name":"offline","user_ids":["2","3"]}"#,
        ),
        (vec!["1"], vec![], r#"{"name":"online","user_ids":["1"]}"#),
        (vec![], vec!["2"], r#"{"name":"offline","user_ids":["2"]}"#),
        (vec![], vec![], ""),
    ] {
        let frame = text(&watchlist_events(EventPrefix::Pusher, &online, &offline));
        let data = format!(r#"{{"events":[{events}]}}"#).replace('"', "\\\"");
        assert_eq!(frame, format!(r#"{{"event":"pusher_internal:watchlist_events","data":"{data}"}}"#));
    }
}

/// Every reply with an event name, with one event prefix.
fn every_reply(event_prefix: EventPrefix) -> [Bytes; 18] {
    let socket = SocketId::parse("1.2").expect("a socket id");
    let roster = roster(&[("1", "null")]);
    [
        connection_established(event_prefix, socket, 120),
        ping(event_prefix),
        pong(event_prefix),
        subscription_succeeded(event_prefix, "news", None),
        subscription_error(event_prefix, "private-a", "AuthError", "no", 401),
        channel_error(event_prefix, "private-a", "no"),
        error(event_prefix, None, "no"),
        error(event_prefix, Some(4009), "no"),
        delta_enabled(event_prefix, None, None),
        delta_enabled(event_prefix, None, Some("fossil")),
        delta_enabled(event_prefix, Some("news"), Some("fossil")),
        presence_succeeded(event_prefix, "presence-a", &roster, None),
        member_added(event_prefix, "presence-a", "1", b"null"),
        member_removed(event_prefix, "presence-a", "1"),
        subscription_count(event_prefix, "news", 7),
        cache_miss(event_prefix, "cache-a"),
        signin_success(event_prefix, r#"{"id":"1"}"#),
        watchlist_events(event_prefix, &["1"], &["2"]),
    ]
}

#[test]
fn connection_replies_match_byte_for_byte() {
    let [
        established,
        ping,
        pong,
        succeeded,
        refused,
        channel_error,
        error,
        coded_error,
        off,
        on,
        on_channel,
        ..,
    ] = every_reply(EventPrefix::Pusher);
    for (frame, expected) in [
        (
            established,
            r#"{"data":"{\"activity_timeout\":120,\"socket_id\":\"1.2\"}","event":"pusher:connection_established"}"#,
        ),
        (ping, r#"{"event":"pusher:ping","data":"{}"}"#),
        (pong, r#"{"event":"pusher:pong","data":"{}"}"#),
        (succeeded, r#"{"channel":"news","data":"{}","event":"pusher_internal:subscription_succeeded"}"#),
        (
            refused,
            r#"{"channel":"private-a","data":{"error":"no","status":401,"type":"AuthError"},"event":"pusher:subscription_error"}"#,
        ),
        (
            channel_error,
            r#"{"data":{"channel":"private-a","code":4300,"message":"no"},"event":"pusher:error"}"#,
        ),
        (error, r#"{"data":{"code":null,"message":"no"},"event":"pusher:error"}"#),
        (coded_error, r#"{"data":{"code":4009,"message":"no"},"event":"pusher:error"}"#),
        (off, r#"{"data":{"enabled":false},"event":"pusher:delta_compression_enabled"}"#),
        (on, r#"{"data":{"algorithm":"fossil","enabled":true},"event":"pusher:delta_compression_enabled"}"#),
        (
            on_channel,
            r#"{"channel":"news","data":{"algorithm":"fossil","channel":"news","enabled":true},"event":"pusher:delta_compression_enabled"}"#,
        ),
    ] {
        assert_eq!(text(&frame), expected);
    }
}

/// The other event prefix changes the names of events, and nothing else.
#[test]
fn event_prefixes_differ_in_event_names_only() {
    for (pusher, sockudo) in every_reply(EventPrefix::Pusher).iter().zip(&every_reply(EventPrefix::Sockudo)) {
        let (pusher, sockudo) = (text(pusher), text(sockudo));
        let renamed = pusher.replacen(r#""event":"pusher:"#, r#""event":"sockudo:"#, 1).replacen(
            r#""event":"pusher_internal:"#,
            r#""event":"sockudo_internal:"#,
            1,
        );
        assert_ne!(sockudo, pusher);
        assert_eq!(sockudo, renamed);
    }
}

proptest! {
    /// Any user id and any `user_info` reach the client unchanged.
    #[test]
    fn presence_frames_preserve_any_user(users in prop::collection::btree_map(any::<String>(), any::<String>(), 0..5)) {
        let info = |text: &String| Bytes::from(json!({ "info": text }).to_string());
        let roster: Roster = users.iter().map(|(user, text)| (user.as_str().into(), info(text))).collect();
        let presence = data(&presence_succeeded(EventPrefix::Pusher, "presence-a", &roster, None))["presence"].clone();
        prop_assert_eq!(&presence["ids"], &json!(users.keys().collect::<Vec<_>>()));
        prop_assert_eq!(&presence["count"], &json!(users.len()));
        let hash: Value = users.iter().map(|(user, text)| (user.clone(), json!({ "info": text }))).collect();
        prop_assert_eq!(&presence["hash"], &hash);
        for (user, text) in &users {
            let added = json!({ "user_id": user, "user_info": { "info": text } });
            prop_assert_eq!(data(&member_added(EventPrefix::Pusher, "presence-a", user, &info(text))), added);
            prop_assert_eq!(data(&member_removed(EventPrefix::Pusher, "presence-a", user)), json!({ "user_id": user }));
            let watched = data(&watchlist_events(EventPrefix::Pusher, &[user], &[]));
            prop_assert_eq!(&watched["events"][0]["user_ids"], &json!([user]));
        }
    }
}
