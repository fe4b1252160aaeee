//! soketi and Sockudo: Fanfare has Sockudo's names (protocol.md 6), and soketi's are the
//! same in camel case.

use serde_json::Value as Json;
use toml::Value;

use super::draft::{Draft, flag, number, plain};
use super::source::{Object, Product};
use crate::config;

pub(super) fn draft(index: usize, product: Product, app: &Object) -> Draft {
    let settings = flattened(app);
    let mut draft = Draft::new(index, app.get("id"));
    for name in ["id", "key", "secret"] {
        draft.identify(name, app.get(name));
    }
    for (theirs, name, value) in &settings {
        match name.as_str() {
            "id" | "key" | "secret" => {}
            "message_rate_limit" => take_rate(&mut draft, theirs, value),
            name => match config::app_setting_names().find(|ours| *ours == name) {
                Some(ours) => draft.take(theirs, ours, value),
                None => take_other(&mut draft, theirs, name, value),
            },
        }
    }
    // Defaults of the other product are written out.
    let product = product.to_string();
    draft.default("max_event_payload_in_kb", 100, &product);
    draft.default("max_client_events_per_second", 0, &product);
    draft.default("cache_ttl_in_seconds", 3_600, &product);
    draft
}

/// Handles a setting that Fanfare does not implement: valid only if it is disabled.
fn take_other(draft: &mut Draft, theirs: &str, name: &str, value: &Json) {
    match ["channel_namespaces", "idempotency"].into_iter().find(|unbuilt| *unbuilt == name) {
        Some(unbuilt) => draft.put(theirs, unbuilt, Value::try_from(value).ok()),
        None => draft.no_equal(theirs),
    }
}

/// Converts a message rate limit. Numbers may be texts; without `enabled` it is off.
pub(super) fn take_rate(draft: &mut Draft, theirs: &str, value: &Json) {
    let get = |name: &str| value.get(name).filter(|it| !it.is_null());
    let mut table = toml::Table::new();
    let enabled = get("enabled").and_then(flag).unwrap_or(false);
    table.insert("enabled".to_owned(), Value::Boolean(enabled));
    for name in ["max_attempts", "decay_seconds"] {
        if let Some(given) = get(name).and_then(number) {
            table.insert(name.to_owned(), plain(given));
        }
    }
    if let Some(terminate) = get("terminate_on_limit").and_then(flag) {
        table.insert("terminate_on_limit".to_owned(), Value::Boolean(terminate));
    }
    if enabled {
        draft.put(theirs, "message_rate_limit", Some(Value::Table(table)));
    }
}

/// The settings as original name, Fanfare's name, and value. Members of `policy.…` move
/// to the top level.
fn flattened(app: &Object) -> Vec<(String, String, &Json)> {
    let mut settings = Vec::new();
    for (name, value) in app.iter().filter(|(_, value)| !value.is_null()) {
        match (name.as_str(), value) {
            ("policy", Json::Object(groups)) => {
                for (group, members) in groups {
                    let path = format!("policy.{group}");
                    match members {
                        Json::Object(members) => settings.extend(
                            members
                                .iter()
                                .filter(|(_, value)| !value.is_null())
                                .map(|(name, value)| (format!("{path}.{name}"), snake(name), value)),
                        ),
                        members if !members.is_null() => settings.push((path, snake(group), members)),
                        _ => {}
                    }
                }
            }
            _ => settings.push((name.clone(), snake(name), value)),
        }
    }
    settings
}

/// `maxEventPayloadInKb` → `max_event_payload_in_kb`
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    for char in name.chars() {
        if char.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}
