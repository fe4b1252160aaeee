//! Every way in which one event can be invalid (protocol.md 1.3, 1.4), as a table
//! for `/events` and for each index of a batch.

use serde_json::{Value, json};

use super::http::{Answer, Refusal};

pub struct Invalid {
    pub what: &'static str,
    pub event: Value,
    status: u16,
    /// None: any code is accepted.
    code: Option<&'static str>,
    /// The fields that the error may name. Empty: the fault is in no single field.
    fields: &'static [&'static str],
}

impl Invalid {
    /// Checks that `answer` refuses this event for the right reason.
    #[track_caller]
    pub fn expect_refusal(&self, answer: &Answer) -> Refusal {
        assert_eq!(answer.status, self.status, "{}: {}", self.what, answer.text());
        let refusal = match self.code {
            Some(code) => answer.expect_error(self.status, code),
            None => answer.expect_refused(self.status),
        };
        let field = refusal.0["field"].as_str().unwrap_or("");
        let named = self.fields.is_empty() || self.fields.contains(&field);
        assert!(named, "{}: field is one of {:?} in {}", self.what, self.fields, refusal.0);
        refusal
    }
}

/// A valid event on `news` with these members changed; `null` removes one.
fn but(changes: Value) -> Value {
    let mut event = json!({ "name": "spoiled", "channel": "news", "data": "x" });
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    for (member, value) in changes {
        event[&member] = value;
    }
    event.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    event
}

const NAME: &[&str] = &["name"];
const DATA: &[&str] = &["data"];
const CHANNEL: &[&str] = &["channel"];
const CHANNELS: &[&str] = &["channels"];
const EITHER: &[&str] = &["channel", "channels"];

pub fn invalid_events() -> Vec<Invalid> {
    [malformed(), bad_names(), bad_data(), bad_channels(), too_much(), bad_options()]
        .into_iter()
        .flatten()
        .collect()
}

/// 400 `invalid_input`.
fn input(what: &'static str, fields: &'static [&'static str], event: Value) -> Invalid {
    Invalid { what, event, status: 400, code: Some("invalid_input"), fields }
}

fn malformed() -> Vec<Invalid> {
    vec![
        input("a number for an event", &[], json!(7)),
        input("a string for an event", &[], json!("event")),
        input("null for an event", &[], Value::Null),
        input("an array for an event", &[], json!([{ "name": "e", "channel": "news", "data": "x" }])),
        input("an empty event", &[], json!({})),
    ]
}

fn bad_names() -> Vec<Invalid> {
    vec![
        input("no name", NAME, but(json!({ "name": null }))),
        input("an empty name", NAME, but(json!({ "name": "" }))),
        input("a number for a name", NAME, but(json!({ "name": 7 }))),
        input("a name of the protocol", NAME, but(json!({ "name": "pusher:delta" }))),
        input(
            "an internal name of the protocol",
            NAME,
            but(json!({ "name": "pusher_internal:member_removed" })),
        ),
        input("a name of Sockudo's protocol", NAME, but(json!({ "name": "sockudo:" }))),
        input("an internal name of Sockudo's protocol", NAME, but(json!({ "name": "sockudo_internal:x" }))),
        Invalid {
            code: None,
            ..input("a name of 201 characters", NAME, but(json!({ "name": "n".repeat(201) })))
        },
    ]
}

fn bad_data() -> Vec<Invalid> {
    let large = |what, data: Value| Invalid {
        status: 413,
        code: Some("payload_too_large"),
        ..input(what, DATA, but(json!({ "data": data })))
    };
    vec![
        input("no data", DATA, but(json!({ "data": null }))),
        large("a string that is too large", "x".repeat(10 * 1024 + 1).into()),
        large("an object that is too large", json!({ "x": "x".repeat(10 * 1024) })),
    ]
}

fn bad_channels() -> Vec<Invalid> {
    let name = |what, name: &str| input(what, CHANNEL, but(json!({ "channel": name })));
    let names =
        |what, names: Value| input(what, CHANNELS, but(json!({ "channel": null, "channels": names })));
    let both = |what, names: Value| input(what, CHANNELS, but(json!({ "channels": names })));
    vec![
        input("no channel", EITHER, but(json!({ "channel": null }))),
        name("an empty channel", ""),
        name("a channel with a space", "bad name"),
        name("a channel with a slash", "a/b"),
        name("a channel with an umlaut", "nächste"),
        name("a channel with a hash", "#news"),
        name("a user without an id", "#server-to-user-"),
        name("a user id with a line break", "#server-to-user-a\nb"),
        input(
            "a user id of 129 characters",
            CHANNEL,
            but(json!({ "channel": format!("#server-to-user-{}", "u".repeat(129)) })),
        ),
        name("a channel with a line break", "news\n"),
        input("a number for a channel", CHANNEL, but(json!({ "channel": 7 }))),
        input("an array for a channel", CHANNEL, but(json!({ "channel": ["news"] }))),
        Invalid {
            code: None,
            ..input("a channel of 201 characters", CHANNEL, but(json!({ "channel": "c".repeat(201) })))
        },
        names("no channels", json!([])),
        names("a string for channels", json!("news")),
        names("an object for channels", json!({ "news": true })),
        names("one channel of several is bad", json!(["news", "bad name"])),
        names("one channel of several is empty", json!(["news", ""])),
        names("one channel of several is a number", json!(["news", 7])),
        both("a good channel and bad channels", json!(["news", "bad name"])),
    ]
}

fn too_much() -> Vec<Invalid> {
    let channels: Vec<String> = (0..101).map(|number| format!("news-{number}")).collect();
    let event = but(json!({ "channel": null, "channels": channels }));
    vec![Invalid { code: Some("limit_exceeded"), ..input("101 channels", CHANNELS, event) }]
}

fn bad_options() -> Vec<Invalid> {
    let socket = |what, id: Value| input(what, &["socket_id"], but(json!({ "socket_id": id })));
    let tags = |what, tags: Value| input(what, &["tags"], but(json!({ "tags": tags })));
    let delta = |what, delta: Value| input(what, &["delta"], but(json!({ "delta": delta })));
    let key = |what, key: Value| Invalid {
        code: None,
        ..input(what, &["idempotency_key"], but(json!({ "idempotency_key": key })))
    };
    vec![
        socket("a socket id of letters", "nobody".into()),
        socket("an empty socket id", "".into()),
        socket("half a socket id", "123".into()),
        socket("a socket id and more", "123.456 ".into()),
        socket("a socket id with a third part", "1.2.3".into()),
        socket("a number for a socket id", json!(1.5)),
        input("a number for info", &["info"], but(json!({ "info": 7 }))),
        input("an array of numbers for info", &["info"], but(json!({ "info": [7] }))),
        tags("an array for tags", json!(["a"])),
        tags("a string for tags", "a".into()),
        tags("a number for a tag", json!({ "a": 7 })),
        delta("a string for delta", "false".into()),
        delta("a number for delta", json!(0)),
        key("an empty idempotency key", "".into()),
        key("an idempotency key of 129 characters", "k".repeat(129).into()),
        key("a number for an idempotency key", json!(7)),
    ]
}
