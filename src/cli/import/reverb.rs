//! Laravel Reverb (protocol.md 6).

use serde_json::Value as Json;

use super::draft::{Draft, number, plain, text};
use super::snake::take_rate;
use super::source::Object;
use crate::config::keys;

pub(super) fn draft(index: usize, app: &Object) -> Draft {
    let mut draft = Draft::new(index, app.get("app_id"));
    for (ours, theirs) in [(keys::ID, "app_id"), (keys::KEY, "key"), (keys::SECRET, "secret")] {
        draft.identify(ours, app.get(theirs));
    }
    let mut accepted = "members".to_owned();
    for (name, value) in app.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "app_id" | "key" | "secret" => {}
            "allowed_origins" if value.as_array().is_some_and(Vec::is_empty) => draft.allow_no_origin(name),
            "allowed_origins" => draft.take(name, keys::ALLOWED_ORIGINS, value),
            "max_connections" => draft.take(name, keys::MAX_CONNECTIONS, value),
            "rate_limiting" => take_rate(&mut draft, name, value),
            "max_message_size" => take_size(&mut draft, name, value),
            "accept_client_events_from" => accepted = text(value).unwrap_or_default(),
            "activity_timeout" => {
                draft.note(name, "is one for all apps here: `activity_timeout` at the top of the file");
            }
            "ping_interval" => draft.note(name, "follows from `activity_timeout` here, and is left out"),
            "options" => draft.note(name, "is for the app's backend, and is left out"),
            name => draft.no_equal(name),
        }
    }
    accept(&mut draft, &accepted);
    draft.default(keys::MAX_CLIENT_EVENTS, 0, "Reverb");
    draft
}

/// Converts bytes of a whole message, the unit in Reverb, to kilobytes of data.
fn take_size(draft: &mut Draft, name: &str, value: &Json) {
    let kilobytes = number(value).map(|bytes| (bytes / 1024.0 * 1000.0).ceil() / 1000.0);
    match kilobytes.filter(|it| *it > 0.0) {
        Some(kilobytes) => {
            let kilobytes = serde_json::json!(kilobytes);
            draft.take(name, keys::MAX_EVENT_PAYLOAD, &kilobytes);
        }
        None => draft.put(name, keys::MAX_EVENT_PAYLOAD, number(value).map(plain)),
    }
}

fn accept(draft: &mut Draft, from: &str) {
    let name = "accept_client_events_from";
    match from {
        "none" => draft.default(keys::ENABLE_CLIENT_MESSAGES, false, "Reverb"),
        "all" => {
            draft.note(name, "is `members` here: client events are taken from subscribers of their channel");
            draft.put(name, keys::ENABLE_CLIENT_MESSAGES, Some(true.into()));
        }
        "members" => draft.put(name, keys::ENABLE_CLIENT_MESSAGES, Some(true.into())),
        _ => draft.put(name, keys::ENABLE_CLIENT_MESSAGES, None),
    }
}
