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
fn rosters_are_exact() {
    let empty = r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"ids\":[],\"hash\":{},\"count\":0}}"}"#;
    assert_eq!(text(&presence_succeeded("presence-a", &Roster::default())), empty);
    let two = roster(&[("10", r#"{"name" : "Mr. \"X\"", "n":1.0}"#), ("b\"\\", "null")]);
    assert_eq!(
        text(&presence_succeeded("presence-a", &two)),
        r#"{"event":"pusher_internal:subscription_succeeded","channel":"presence-a","data":"{\"presence\":{\"ids\":[\"10\",\"b\\\"\\\\\"],\"hash\":{\"10\":{\"name\" : \"Mr. \\\"X\\\"\", \"n\":1.0},\"b\\\"\\\\\":null},\"count\":2}}"}"#
    );
}

#[test]
fn member_events_are_exact() {
    assert_eq!(
        text(&member_added("presence-a", "1", br#"{"n":1.0}"#)),
        r#"{"event":"pusher_internal:member_added","channel":"presence-a","data":"{\"user_id\":\"1\",\"user_info\":{\"n\":1.0}}"}"#
    );
    assert_eq!(
        text(&member_removed("presence-a", "a\"b")),
        r#"{"event":"pusher_internal:member_removed","channel":"presence-a","data":"{\"user_id\":\"a\\\"b\"}"}"#
    );
}

#[test]
fn what_a_channel_tells_is_exact() {
    assert_eq!(
        text(&subscription_count("news", 7)),
        r#"{"event":"pusher_internal:subscription_count","channel":"news","data":"{\"subscription_count\":7}"}"#
    );
    assert_eq!(
        text(&cache_miss("cache-a")),
        r#"{"event":"pusher:cache_miss","channel":"cache-a","data":"{}"}"#
    );
}

#[test]
fn what_a_user_is_told_is_exact() {
    assert_eq!(
        text(&signin_success(r#"{"id":"42", "x":1.0}"#)),
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
        let frame = text(&watchlist_events(&online, &offline));
        let data = format!(r#"{{"events":[{events}]}}"#).replace('"', "\\\"");
        assert_eq!(frame, format!(r#"{{"event":"pusher_internal:watchlist_events","data":"{data}"}}"#));
    }
}

proptest! {
    /// Whatever users are called and say of themselves, it is what clients read.
    #[test]
    fn any_user_survives_the_frames(users in prop::collection::btree_map(any::<String>(), any::<String>(), 0..5)) {
        let info = |text: &String| Bytes::from(json!({ "info": text }).to_string());
        let roster: Roster = users.iter().map(|(user, text)| (user.as_str().into(), info(text))).collect();
        let presence = data(&presence_succeeded("presence-a", &roster))["presence"].clone();
        prop_assert_eq!(&presence["ids"], &json!(users.keys().collect::<Vec<_>>()));
        prop_assert_eq!(&presence["count"], &json!(users.len()));
        let hash: Value = users.iter().map(|(user, text)| (user.clone(), json!({ "info": text }))).collect();
        prop_assert_eq!(&presence["hash"], &hash);
        for (user, text) in &users {
            let added = json!({ "user_id": user, "user_info": { "info": text } });
            prop_assert_eq!(data(&member_added("presence-a", user, &info(text))), added);
            prop_assert_eq!(data(&member_removed("presence-a", user)), json!({ "user_id": user }));
            let watched = data(&watchlist_events(&[user], &[]));
            prop_assert_eq!(&watched["events"][0]["user_ids"], &json!([user]));
        }
    }
}
