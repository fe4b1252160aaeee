use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

fn app() -> AppLimits {
    AppLimits {
        batch_events_max: 3,
        event_channels_max: 4,
        batch_publications_max: 6,
        ..AppLimits::default()
    }
}

fn check_event(body: &str, expected: Result<(), &str>) {
    let result = Batch::parse_event(body.as_bytes(), &app());
    let shown = result.as_ref().map(|_| ()).map_err(ToString::to_string);
    assert_eq!(shown, expected.map_err(str::to_owned), "{body}");
}

#[test]
fn event_parse_reports_first_invalid_field() {
    check_event(r#"{"name":"e","channel":"c","data":"d"}"#, Ok(()));
    check_event(r#"{"name":"e","channels":["c"],"data":{"a":1},"unknown":[]}"#, Ok(()));
    check_event(r#"{"name":"e","channel":"c","data":null}"#, Ok(()));
    check_event(r#"{"name":"e","channel":"c","data":"","socket_id":null,"info":null}"#, Ok(()));
    check_event("[]", Err("the body must be an object"));
    check_event("{", Err("the body is not valid JSON: EOF while parsing an object at line 1 column 1"));
    check_event("{}", Err("`name` is required"));
    check_event(r#"{"name":""}"#, Err("`name` must not be empty"));
    check_event(r#"{"name":7}"#, Err("`name` must be a string"));
    check_event(r#"{"name":"e"}"#, Err("`data` is required"));
    check_event(r#"{"name":"e","data":1}"#, Err("`channel` is required"));
    check_event(r#"{"name":"e","data":1,"channels":[]}"#, Err("`channels` must not be empty"));
    check_event(r#"{"name":"e","data":1,"channels":"c"}"#, Err("`channels` must be an array of strings"));
    check_event(r#"{"name":"e","data":1,"channel":"c","channels":[]}"#, Ok(()));
    check_event(
        r#"{"name":"e","data":1,"channel":"c","channels":["1","2","3","4"]}"#,
        Err("`channels` has 5 channels (limit: 4)"),
    );
    check_event(
        r#"{"name":"e","data":1,"channel":"a b"}"#,
        Err("`channel` the channel name has the character ' '; allowed are A-Z a-z 0-9 and _-=@,.;:"),
    );
    check_event(
        r#"{"name":"e","data":1,"channel":"c","socket_id":"x"}"#,
        Err("`socket_id` must look like 123.456"),
    );
    check_event(r#"{"name":"e","data":1,"channel":"c","info":["a","user_count"]}"#, Ok(()));
    check_event(
        r#"{"name":"e","data":1,"channel":"c","info":[1]}"#,
        Err("`info` must be a string or an array of strings"),
    );
    check_event(
        r#"{"name":"e","data":1,"channel":"c","tags":{"a":1}}"#,
        Err("`tags` must be an object of strings"),
    );
    check_event(r#"{"name":"e","data":1,"channel":"c","delta":"no"}"#, Err("`delta` must be true or false"));
    check_event(
        r#"{"name":"e","data":1,"channel":"c","idempotency_key":""}"#,
        Err("`idempotency_key` must not be empty"),
    );
    check_event(
        r#"{"name":"e","data":1,"channels":["private-encrypted-a","b"]}"#,
        Err("`channels` an encrypted channel must be an event's only channel: each has its own key"),
    );
}

#[test]
fn lone_surrogate_is_reported_with_its_field() {
    for (field, value, escape) in [
        ("name", r#""e\ud83d""#, r"\ud83d"),
        ("data", r#""\ude00""#, r"\ude00"),
        ("channel", r#""\ud83d""#, r"\ud83d"),
        ("channels", r#"["a","\ud83d\ud83d"]"#, r"\ud83d"),
        ("socket_id", r#""\ud83d""#, r"\ud83d"),
        ("info", r#""\ud83d""#, r"\ud83d"),
        ("tags", r#"{"a":"\ud83d"}"#, r"\ud83d"),
        ("tags", r#"{"\ud83d":"a"}"#, r"\ud83d"),
        ("idempotency_key", r#""\ud83d""#, r"\ud83d"),
    ] {
        let members = [("name", r#""e""#), ("data", r#""d""#), ("channel", r#""c""#)];
        let others = members.into_iter().filter(|(other, _)| *other != field);
        let members = others.chain([(field, value)]).map(|(name, value)| format!("{name:?}:{value}"));
        let event = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        let body = format!(r#"{{"batch":[{{"name":"e","data":"d","channel":"c"}},{event}]}}"#);
        let error = Batch::parse_batch(body.as_bytes(), &app()).unwrap_err();
        assert_eq!((error.index, error.field), (Some(1), Some(field)), "{body}");
        let message =
            format!("event 1: `{field}` has half of a surrogate pair, {escape}, which is not a character");
        assert_eq!(error.to_string(), message, "{body}");
    }
    // The text of a JSON value is published verbatim: clients decode it.
    check_event(r#"{"name":"e","channel":"c","data":{"a":"\ud83d"}}"#, Ok(()));
}

#[test]
fn reserved_event_name_is_refused() {
    for name in
        ["pusher:", "pusher:delta", "pusher_internal:member_removed", "sockudo:x", "sockudo_internal:y"]
    {
        let prefix = name.split_inclusive(':').next().expect("a prefix with a colon");
        let body = format!(r#"{{"batch":[{{"name":"{name}","data":"d","channel":"c"}}]}}"#);
        let error = Batch::parse_batch(body.as_bytes(), &app()).unwrap_err();
        assert_eq!((error.index, error.field), (Some(0), Some("name")));
        let message = format!("event 0: `name` begins with \"{prefix}\", which is reserved for the protocol");
        assert_eq!(error.to_string(), message);
    }
    for name in ["pusher", "pusher-notification", "pusher_internal", "xpusher:y", "Pusher:x", "sockudo", ":"]
    {
        check_event(&format!(r#"{{"name":"{name}","data":"d","channel":"c"}}"#), Ok(()));
    }
}

#[test]
fn byte_order_mark_is_skipped() {
    check_event("\u{feff}{\"name\":\"e\",\"data\":\"d\",\"channel\":\"c\"}", Ok(()));
    assert!(Batch::parse_batch("\u{feff}{\"batch\":[]}".as_bytes(), &app()).is_ok());
}

#[test]
fn batch_with_one_invalid_event_is_refused() {
    let event = r#"{"name":"e","channel":"c","data":"d"}"#;
    let parse = |body: String| Batch::parse_batch(body.as_bytes(), &app()).map_err(|e| e.to_string());
    assert_eq!(parse(r#"{"batch":[]}"#.into()).expect("an empty batch is valid").events.len(), 0);
    assert_eq!(parse(format!(r#"{{"batch":[{event},{event}]}}"#)).expect("valid").events.len(), 2);
    assert_eq!(parse("[]".into()).unwrap_err(), "the body must be an object");
    assert_eq!(parse("{}".into()).unwrap_err(), "`batch` is required");
    assert_eq!(parse(r#"{"batch":{}}"#.into()).unwrap_err(), "`batch` must be an array");
    assert_eq!(parse(format!(r#"{{"batch":[{event},7]}}"#)).unwrap_err(), "event 1: must be an object");
    assert_eq!(parse(format!(r#"{{"batch":[{event},{{}}]}}"#)).unwrap_err(), "event 1: `name` is required");
    assert_eq!(
        parse(format!(r#"{{"batch":[{event},{event},{event},{event}]}}"#)).unwrap_err(),
        "`batch` has 4 events (limit: 3)"
    );
    let wide = r#"{"name":"e","channels":["1","2","3","4"],"data":"d"}"#;
    assert_eq!(
        parse(format!(r#"{{"batch":[{wide},{wide}]}}"#)).unwrap_err(),
        "event 1: `channels` has 8 publications so far (limit: 6)"
    );
}

#[test]
fn bytes_of_a_batch_are_limited_over_all_channels() {
    let app = AppLimits { payload_bytes_max: limits::BATCH_BYTES_MAX, ..app() };
    let parse = |body: String| {
        let batch = Batch::parse_batch(format!(r#"{{"batch":[{body}]}}"#).as_bytes(), &app);
        batch.map(|_| ()).map_err(|error| error.to_string())
    };
    let event = |channels: &str, bytes: usize| {
        let data = "x".repeat(bytes - "e".len() - r#"{"t":"\u0061"}"#.len());
        format!(r#"{{"name":"e","channels":[{channels}],"data":"{data}","tags":{{"t":"\u0061"}}}}"#)
    };
    let half = limits::BATCH_BYTES_MAX / 2;
    let two = event(r#""a","b","a""#, half / 2);
    assert_eq!(parse([two.clone(), event(r#""c""#, half)].join(",")), Ok(()));
    let refused = "`batch` has 4194305 bytes over all channels (limit: 4194304)";
    assert_eq!(parse([two, event(r#""c""#, half + 1)].join(",")), Err(refused.into()));
    let single = event(r#""a","b""#, half + 1);
    let error = Batch::parse_event(single.as_bytes(), &app).expect_err("two bytes more than the limit");
    assert_eq!(error.to_string(), "`data` has 4194306 bytes over all channels (limit: 4194304)");
}

#[test]
fn data_is_preserved_byte_for_byte() {
    let data = |body: &str| {
        let batch = Batch::parse_event(body.as_bytes(), &app()).expect("valid");
        String::from_utf8(batch.events[0].data.to_vec()).expect("UTF-8")
    };
    assert_eq!(
        data(r#"{"name":"e","channel":"c","data":{ "b":1.0,  "a":1e400 }}"#),
        r#"{ "b":1.0,  "a":1e400 }"#
    );
    assert_eq!(data(r#"{"name":"e","channel":"c","data":"{\"a\":\u00e9}"}"#), r#"{"a":é}"#);
    assert_eq!(data(r#"{"name":"e","channel":"c","data":null}"#), "null");
}

#[test]
fn channel_names_are_deduplicated_in_order() {
    let body = r#"{"name":"e","channel":"b","channels":["a","b","a"],"data":""}"#;
    let batch = Batch::parse_event(body.as_bytes(), &app()).expect("valid");
    let names: Vec<&str> = batch.events[0].channels.iter().map(ChannelName::as_str).collect();
    assert_eq!(names, ["b", "a"]);
}

/// If each name were compared with all names before it, ten times as many would take a hundred
/// times as long.
#[test]
fn channel_names_are_parsed_in_linear_time() {
    const FEW: usize = 3_000;
    let app = AppLimits { event_channels_max: 10 * FEW, batch_publications_max: 10 * FEW, ..app() };
    let time = |count: usize| {
        let names: Vec<String> = (0..count).map(|n| format!("{n:0>200}")).collect();
        let body = format!(r#"{{"name":"e","channels":{names:?},"data":""}}"#);
        let parse = || {
            let begun = Instant::now();
            let batch = Batch::parse_event(body.as_bytes(), &app).expect("valid");
            assert_eq!(batch.events[0].channels.len(), count);
            begun.elapsed()
        };
        (0..3).map(|_| parse()).min().unwrap_or(Duration::MAX)
    };
    let (few, many) = (time(FEW), time(10 * FEW));
    assert!(many < 40 * few, "{FEW} names in {few:?}, ten times as many in {many:?}");
}

#[test]
fn body_limit_admits_largest_valid_batch() {
    let app = AppLimits::default();
    let data = "\\u0000".repeat(app.payload_bytes_max);
    let name = "\\ud83d\\ude00".repeat(app.event_name_chars_max);
    // With all channels that an event may have, the batch would exceed `BATCH_BYTES_MAX`.
    let channels: Vec<String> = (0..app.event_channels_max / 4)
        .map(|n| format!("{n:0>width$}", width = app.channel_name_chars_max))
        .collect();
    let channels = serde_json::to_string(&channels).expect("strings are JSON");
    let event = format!(r#"{{"name":"{name}","channels":{channels},"data":"{data}"}}"#);
    let body = format!(r#"{{"batch":[{}]}}"#, vec![event; app.batch_events_max].join(","));
    assert!(body.len() <= app.body_bytes_max(app.batch_events_max), "{}", body.len());
    assert!(Batch::parse_batch(body.as_bytes(), &app).is_ok());
}

proptest! {
    #[test]
    fn arbitrary_body_does_not_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Batch::parse_batch(&body, &app());
        let _ = Batch::parse_event(&body, &app());
    }
}
