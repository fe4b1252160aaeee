use super::*;
use proptest::prelude::*;

fn on(algorithms: &[Algorithm]) -> DeltaRequest {
    DeltaRequest::On { algorithms: algorithms.to_vec() }
}

#[test]
fn delta_member_is_parsed_in_every_form() {
    use Algorithm::{Fossil, Vcdiff};
    let any = || on(&Algorithm::ALL);
    for (form, expected) in [
        (r#""fossil""#, on(&[Fossil])),
        (r#""XDelta3""#, on(&[Vcdiff])),
        (r#""vcdiff""#, on(&[Vcdiff])),
        (r#""anything""#, any()),
        (r#""disabled""#, DeltaRequest::Off),
        (r#""False""#, DeltaRequest::Off),
        (r#""none""#, DeltaRequest::Off),
        ("true", any()),
        ("false", DeltaRequest::Off),
        ("{}", any()),
        (r#"{"enabled":null,"algorithm":"fossil"}"#, on(&[Fossil])),
        (r#"{"enabled":true,"algorithms":["x","xdelta3"]}"#, on(&[Vcdiff])),
        (r#"{"enabled":true,"algorithms":["x"]}"#, on(&[])),
        (r#"{"enabled":true,"algorithms":["xdelta3","fossil","xdelta3","fossil"]}"#, on(&[Vcdiff, Fossil])),
        (r#"{"enabled":false,"algorithm":"fossil"}"#, DeltaRequest::Off),
        ("7", DeltaRequest::Unspecified),
        ("[1]", DeltaRequest::Unspecified),
    ] {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"c","delta":{form}}}}}"#);
        let Ok(Command::Subscribe(subscribe)) = Command::parse(&text) else { panic!("{text}") };
        assert_eq!(subscribe.delta, expected, "{form}");
    }
}

#[test]
fn filter_and_resume_keep_their_json_text() {
    let subscribe = |members: &str| {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"c"{members}}}}}"#);
        match Command::parse(&text) {
            Ok(Command::Subscribe(subscribe)) => (subscribe.filter, subscribe.resume),
            other => panic!("{text}: {other:?}"),
        }
    };
    assert_eq!(subscribe(r#","filter":null,"tags_filter":null"#), (None, None));
    let tags = Some(FilterText::Tags("{ }".into()));
    assert_eq!(subscribe(r#","tags_filter":{ },"resume":[7]"#), (tags, Some("[7]".into())));
    let both = Some(FilterText::Filter("1".into()));
    assert_eq!(subscribe(r#","tags_filter":{ },"filter":1"#), (both, None));
}

#[test]
fn data_may_be_a_string() {
    let text = r#"{"event":"pusher:unsubscribe","data":"{\"channel\":\"c\"}"}"#;
    assert_eq!(Command::parse(text), Ok(Command::Unsubscribe { channel: "c".into() }));
}

#[test]
fn invalid_message_error_names_the_cause() {
    for (text, error) in [
        ("{}", "`event` must be a string"),
        (r#"{"event":7}"#, "`event` must be a string"),
        (r#"{"event":"pusher:subscribe"}"#, "`channel` must be a string"),
        (r#"{"event":"pusher:subscribe","data":7}"#, "`data` must be an object"),
        (r#"{"event":"pusher:subscribe","data":{"channel":"c","auth":1}}"#, "`auth` must be a string"),
        (
            r#"{"event":"pusher:subscribe","data":{"channel":"c","channel_data":{}}}"#,
            "`channel_data` must be a string",
        ),
        ("[]", "The message must be a JSON object with the member `event`"),
        ("7", "The message must be a JSON object with the member `event`"),
        ("\"pusher:ping\"", "The message must be a JSON object with the member `event`"),
        ("", "The message is not valid JSON: EOF while parsing a value at line 1 column 0"),
        ("ping", "The message is not valid JSON: expected value at line 1 column 1"),
        (r#"{"event":"\ud83d"}"#, r"`event` has half of a surrogate pair, \ud83d, which is not a character"),
        (
            r#"{"event":"pusher:subscribe","data":"\ude00"}"#,
            r"`data` has half of a surrogate pair, \ude00, which is not a character",
        ),
        (r#"{"event":"x"}"#, "`x` is not an event that a client may send"),
        (r#"{"event":"Client-x"}"#, "`Client-x` is not an event that a client may send"),
    ] {
        assert_eq!(Command::parse(text).map_err(|e| e.to_string()), Err(error.to_owned()), "{text}");
    }
    assert_eq!(Command::parse(&"[".repeat(20_000)), Err(CommandError::TooDeep));
    let nested = serde_json::json!({ "event": "pusher:subscribe", "data": "[".repeat(20_000) });
    assert_eq!(Command::parse(&nested.to_string()), Err(CommandError::TooDeep));
}

#[test]
fn invalid_message_error_has_the_code_of_its_command() {
    for (text, code, error) in [
        (r#"{"event":"pusher:signin"}"#, 4009, "`auth` must be a string"),
        (r#"{"event":"pusher:signin","data":{"auth":"a:b"}}"#, 4009, "`user_data` must be a string"),
        (
            r#"{"event":"pusher:signin","data":{"auth":"a:b","user_data":{"id":"1"}}}"#,
            4009,
            "`user_data` must be a string",
        ),
        (r#"{"event":"pusher:signin","data":[]}"#, 4009, "`data` must be an object"),
        (r#"{"event":"client-x","data":1}"#, 4301, "`channel` must be a string"),
        (r#"{"event":"client-x","channel":["c"]}"#, 4301, "`channel` must be a string"),
        (
            r#"{"event":"client-x","channel":"c","data":"\ud800"}"#,
            4301,
            r"`data` has half of a surrogate pair, \ud800, which is not a character",
        ),
    ] {
        let found = Command::parse(text).expect_err(text);
        assert_eq!((found.code(), found.to_string().as_str()), (Some(code), error), "{text}");
    }
    let found = Command::parse(r#"{"event":"pusher:subscribe"}"#).expect_err("no channel");
    assert_eq!(found.code(), None);
}

#[test]
fn subscription_error_in_a_field_keeps_the_channel() {
    for (members, error) in [
        (r#""auth":{}"#, "`auth` must be a string"),
        (r#""auth":"","channel_data":{"user_id":"1"}"#, "`channel_data` must be a string"),
        (r#""auth":"\ud83d""#, r"`auth` has half of a surrogate pair, \ud83d, which is not a character"),
    ] {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"c",{members}}}}}"#);
        let Err(CommandError::Subscription { channel, error: inner }) = Command::parse(&text) else {
            panic!("{text}");
        };
        assert_eq!((channel.as_str(), inner.to_string().as_str()), ("c", error));
    }
}

#[test]
fn socket_io_and_engine_io_packets_are_recognised() {
    let socket_io = "This is a Socket.IO packet";
    let engine_io = "This is an Engine.IO packet";
    let no_object = "The message must be";
    for (text, error) in [
        ("40", socket_io),
        ("42[1]", socket_io),
        (r#"42["message","hello"]"#, socket_io),
        ("42/admin,[\"a\"]", socket_io),
        ("451-[\"a\"]", socket_io),
        (r#"0{"sid":"x"}"#, engine_io),
        ("2probe", engine_io),
        ("2", engine_io),
        ("7", no_object),
        ("12", no_object),
        ("[42]", no_object),
    ] {
        let message = Command::parse(text).expect_err(text).to_string();
        assert!(message.starts_with(error), "{text}: {message}");
    }
}

#[test]
fn byte_order_mark_before_a_message_is_skipped() {
    assert_eq!(Command::parse("\u{feff}{\"event\":\"pusher:ping\"}"), Ok(Command::Ping));
}

#[test]
fn client_event_data_becomes_a_string_in_every_form() {
    for (members, data) in [
        (r#","data":"text""#, "text"),
        (r#","data":"{\"a\":1}""#, r#"{"a":1}"#),
        (r#","data":{ "a" : 1.0 }"#, r#"{ "a" : 1.0 }"#),
        (r#","data":[1,2]"#, "[1,2]"),
        (r#","data":null"#, "null"),
        (r#","data":7"#, "7"),
        (r#","user_id":"someone else""#, "{}"),
    ] {
        let text = format!(r#"{{"event":"client-a","channel":"private-c"{members}}}"#);
        let event = ClientEvent { name: "client-a".into(), channel: "private-c".into(), data: data.into() };
        assert_eq!(Command::parse(&text), Ok(Command::ClientEvent(event)), "{text}");
    }
}

#[test]
fn signin_data_is_an_object_or_a_string() {
    let signin = Signin { auth: "key:sig".into(), user_data: r#"{"id":"1"}"#.into() };
    let data = serde_json::json!({ "auth": signin.auth, "user_data": signin.user_data });
    for data in [data.clone(), data.to_string().into()] {
        let text = serde_json::json!({ "event": "pusher:signin", "data": data }).to_string();
        assert_eq!(Command::parse(&text), Ok(Command::Signin(signin.clone())), "{text}");
    }
}

/// On every connection, independent of its own event prefix (protocol.md 2.1).
#[test]
fn command_with_either_event_prefix_is_accepted() {
    for command in ["ping", "pong", "subscribe", "unsubscribe", "signin", "enable_delta_compression"] {
        let parse = |prefix: &str| {
            let data = r#"{"channel":"c","auth":"a:b","user_data":"{}"}"#;
            Command::parse(&format!(r#"{{"event":"{prefix}:{command}","data":{data}}}"#))
        };
        assert!(parse("pusher").is_ok(), "{command}");
        assert_eq!(parse("sockudo"), parse("pusher"), "{command}");
    }
    for name in [
        "sockudo:nonsense",
        "sockudo",
        "sockudo:",
        "sockudo_internal:ping",
        "sockudo:client-x",
        "Pusher:ping",
    ] {
        let text = format!(r#"{{"event":"{name}","channel":"private-c"}}"#);
        assert_eq!(Command::parse(&text), Err(CommandError::Unknown(name.into())));
    }
}

proptest! {
    /// A signature covers the exact bytes of its text.
    #[test]
    fn signed_text_is_kept_byte_for_byte(signed in any::<String>()) {
        let data = serde_json::json!({ "channel": "presence-c", "auth": "a", "channel_data": signed });
        let text = serde_json::json!({ "event": "pusher:subscribe", "data": data }).to_string();
        let Ok(Command::Subscribe(subscribe)) = Command::parse(&text) else { panic!("{text}") };
        prop_assert_eq!(subscribe.channel_data.as_deref(), Some(signed.as_str()));
        let data = serde_json::json!({ "auth": "a", "user_data": signed });
        let text = serde_json::json!({ "event": "pusher:signin", "data": data }).to_string();
        let Ok(Command::Signin(signin)) = Command::parse(&text) else { panic!("{text}") };
        prop_assert_eq!(signin.user_data, signed);
    }

    #[test]
    fn parse_never_panics_on_malformed_commands(
        event in prop::sample::select(vec!["client-a", "pusher:signin", "pusher:subscribe"]),
        member in prop::sample::select(vec!["channel", "auth", "channel_data", "user_data", "delta"]),
        value in "[\\[\\]{}\":,a-z0-9\\\\]{0,24}",
    ) {
        let _ = Command::parse(&format!(r#"{{"event":"{event}","channel":{value},"data":{{"{member}":{value}}}}}"#));
        let _ = Command::parse(&format!(r#"{{"event":"{event}","data":{value}}}"#));
    }

    #[test]
    fn parse_never_panics_on_any_text(text in any::<String>()) {
        let _ = Command::parse(&text);
    }
}
