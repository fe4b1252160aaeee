use super::*;
use proptest::prelude::*;

fn on(algorithm: Option<&str>) -> DeltaRequest {
    DeltaRequest::On { algorithm: algorithm.map(str::to_owned) }
}

#[test]
fn every_form_of_delta_is_read() {
    for (form, expected) in [
        (r#""fossil""#, on(Some("fossil"))),
        (r#""XDelta3""#, on(Some("xdelta3"))),
        (r#""anything""#, on(Some("anything"))),
        (r#""disabled""#, DeltaRequest::Off),
        (r#""False""#, DeltaRequest::Off),
        (r#""none""#, DeltaRequest::Off),
        ("true", on(None)),
        ("false", DeltaRequest::Off),
        ("{}", on(None)),
        (r#"{"enabled":null,"algorithm":"fossil"}"#, on(Some("fossil"))),
        (r#"{"enabled":true,"algorithms":["x"]}"#, on(None)),
        (r#"{"enabled":false,"algorithm":"fossil"}"#, DeltaRequest::Off),
        ("7", DeltaRequest::Unsaid),
        ("[1]", DeltaRequest::Unsaid),
    ] {
        let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"c","delta":{form}}}}}"#);
        let Ok(Command::Subscribe(subscribe)) = Command::parse(&text) else { panic!("{text}") };
        assert_eq!(subscribe.delta, expected, "{form}");
    }
}

#[test]
fn data_may_be_a_string() {
    let text = r#"{"event":"pusher:unsubscribe","data":"{\"channel\":\"c\"}"}"#;
    assert_eq!(Command::parse(text), Ok(Command::Unsubscribe { channel: "c".into() }));
}

#[test]
fn mistakes_are_named() {
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
fn mistakes_have_the_code_of_their_command() {
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
        (r#"{"event":"client-x","channel":"c","data":"\ud800"}"#, 4301, "`data` must be a string"),
    ] {
        let mistake = Command::parse(text).expect_err(text);
        assert_eq!((mistake.code(), mistake.to_string().as_str()), (Some(code), error), "{text}");
    }
    let mistake = Command::parse(r#"{"event":"pusher:subscribe"}"#).expect_err("no channel");
    assert_eq!(mistake.code(), None);
}

#[test]
fn a_client_event_is_read_in_every_form() {
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
fn a_sign_in_is_read_from_both_forms_of_data() {
    let signin = Signin { auth: "key:sig".into(), user_data: r#"{"id":"1"}"#.into() };
    let data = serde_json::json!({ "auth": signin.auth, "user_data": signin.user_data });
    for data in [data.clone(), data.to_string().into()] {
        let text = serde_json::json!({ "event": "pusher:signin", "data": data }).to_string();
        assert_eq!(Command::parse(&text), Ok(Command::Signin(signin.clone())), "{text}");
    }
}

proptest! {
    /// What was signed is what is checked, to the byte.
    #[test]
    fn signed_texts_come_through_unchanged(signed in any::<String>()) {
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
    fn no_command_makes_it_panic(
        event in prop::sample::select(vec!["client-a", "pusher:signin", "pusher:subscribe"]),
        member in prop::sample::select(vec!["channel", "auth", "channel_data", "user_data", "delta"]),
        value in "[\\[\\]{}\":,a-z0-9\\\\]{0,24}",
    ) {
        let _ = Command::parse(&format!(r#"{{"event":"{event}","channel":{value},"data":{{"{member}":{value}}}}}"#));
        let _ = Command::parse(&format!(r#"{{"event":"{event}","data":{value}}}"#));
    }

    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Command::parse(&text);
    }
}
