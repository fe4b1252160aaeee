//! Properties of the conversion, for any file.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use super::*;

/// Member names that the conversion reads, and a few others.
const NAMES: &[&str] = &[
    "accept_client_events_from",
    "allowed_origins",
    "app_id",
    "appManager",
    "app_manager",
    "apps",
    "array",
    "channels",
    "decay_seconds",
    "enabled",
    "event_types",
    "filter",
    "headers",
    "id",
    "idempotency",
    "key",
    "limits",
    "maxConnections",
    "max_attempts",
    "max_event_payload_in_kb",
    "max_message_size",
    "message_rate_limit",
    "policy",
    "rate_limiting",
    "reverb",
    "secret",
    "terminate_on_limit",
    "url",
    "webhooks",
    "x\u{0}\n\"]",
];

const VARIABLES: &[&str] = &[
    "REVERB_APP_ID",
    "REVERB_APP_KEY",
    "REVERB_APP_SECRET",
    "REVERB_APP_RATE_LIMITING",
    "REVERB_APP_RATE_LIMITING_ENABLED",
    "REVERB_APP_RATE_LIMIT_MAX_ATTEMPTS",
    "REVERB_APP_ALLOWED_ORIGINS",
    "REVERB_APP_",
    "REVERB_HOST",
    "=",
];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~\u{0}\n]{0,8}".prop_map(Value::from),
        select(&["*", "1", "true", "none", "http://a", "member_added"][..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, |inner| {
        let members = vec((select(NAMES), inner.clone()), 0..8);
        let object = |members: Vec<(&str, Value)>| {
            Value::Object(
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>(),
            )
        };
        prop_oneof![vec(inner, 0..4).prop_map(Value::Array), members.prop_map(object)]
    })
}

/// An app with valid credentials, so that the conversion reaches its other settings.
fn app() -> impl Strategy<Value = Value> {
    vec((select(NAMES), value()), 0..10).prop_map(|members| {
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value));
        let mut app: Map<String, Value> = members.collect();
        for name in ["id", "app_id", "key", "secret"] {
            app.entry(name).or_insert(json!("1"));
        }
        Value::Object(app)
    })
}

/// The output of a conversion is a valid configuration, and an error has a text.
fn check(file: &[u8]) {
    match convert(file) {
        Ok(imported) => config::check_apps(&imported.toml).expect("a valid configuration"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_converted_or_refused(file in vec(any::<u8>(), 0..200)) {
        check(&file);
    }

    #[test]
    fn any_json_is_converted_or_refused(value in value()) {
        check(value.to_string().as_bytes());
    }

    #[test]
    fn any_toml_is_converted_or_refused(value in value()) {
        if let Ok(toml) = toml::to_string(&value) {
            check(toml.as_bytes());
        }
    }

    #[test]
    fn apps_with_any_settings_are_converted_or_refused(apps in vec(app(), 1..3)) {
        for file in [
            json!(apps),
            json!({ "appManager": { "array": { "apps": apps } } }),
            json!({ "app_manager": { "array": { "apps": apps } } }),
            json!({ "apps": { "apps": apps } }),
        ] {
            check(file.to_string().as_bytes());
        }
    }

    #[test]
    fn any_variables_are_converted_or_refused(lines in vec((select(VARIABLES), "[ -~]{0,8}"), 0..12)) {
        let file: String = lines.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        check(file.as_bytes());
    }
}
