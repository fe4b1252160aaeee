//! soketi and Sockudo: Fanfare has Sockudo's names (protocol.md 6), and soketi's are the
//! same in camel case.

use serde_json::Value as Json;
use toml::Value;

use super::draft::{Draft, flag, number, plain};
use super::source::{Object, Product};
use crate::config::{self, keys};

pub(super) fn draft(index: usize, product: Product, app: &Object) -> Draft {
    let settings = flattened(app);
    let mut draft = Draft::new(index, app.get("id"));
    for key in [keys::ID, keys::KEY, keys::SECRET] {
        draft.identify(key, app.get(key.name()));
    }
    for (theirs, name, value) in &settings {
        match name.as_str() {
            "id" | "key" | "secret" => {}
            "message_rate_limit" => take_rate(&mut draft, theirs, value),
            name => match config::app_setting(name) {
                // Valid only if it is disabled.
                Some(ours) if ours.kind().is_unbuilt() => {
                    draft.put(theirs, ours, Value::try_from(value).ok());
                }
                Some(ours) => draft.take(theirs, ours, value),
                None => draft.no_equal(theirs),
            },
        }
    }
    // Defaults of the other product are written out.
    let product = product.to_string();
    draft.default(keys::MAX_EVENT_PAYLOAD, 100, &product);
    draft.default(keys::MAX_CLIENT_EVENTS, 0, &product);
    draft.default(keys::CACHE_TTL, 3_600, &product);
    draft
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
        draft.put(theirs, keys::MESSAGE_RATE_LIMIT, Some(Value::Table(table)));
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
