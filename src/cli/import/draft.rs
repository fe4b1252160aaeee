//! An app during its conversion to Fanfare's settings.

use std::fmt;

use serde_json::Value as Json;
use toml::Value;

use super::source::Object;
use crate::app::HookedEvents;
use crate::config::keys::{self, Key, Kind, Scope};
use crate::config::{self, Origin};

pub(super) struct Draft {
    /// For notes: the id of the app, or its number in the file.
    label: String,
    lines: Vec<Line>,
    webhooks: Vec<toml::Table>,
    /// Settings that are not converted, or only in part.
    pub(super) notes: Vec<String>,
}

struct Line {
    key: &'static Key,
    value: Value,
    comment: String,
}

impl Draft {
    pub(super) fn new(index: usize, id: Option<&Json>) -> Draft {
        let label = id.and_then(text).unwrap_or_else(|| format!("number {}", index + 1));
        Draft { label, lines: Vec::new(), webhooks: Vec::new(), notes: Vec::new() }
    }

    /// Sets id, key or secret. Their mistakes are reported by the final check.
    pub(super) fn identify(&mut self, key: &'static Key, value: Option<&Json>) {
        if let Some(text) = value.and_then(text) {
            self.write(key, Value::String(text), "");
        }
    }

    pub(super) fn note(&mut self, theirs: &str, why: &str) {
        self.notes.push(format!("app {}: `{theirs}` {why}", self.label));
    }

    pub(super) fn no_equal(&mut self, theirs: &str) {
        self.note(theirs, "has no equal here, and is left out");
    }

    /// Writes a default of the other product that differs from Fanfare's, unless the setting
    /// is present.
    pub(super) fn default(&mut self, ours: &'static Key, value: impl Into<Value>, product: &str) {
        if !self.lines.iter().any(|line| line.key.path == ours.path) {
            self.write(ours, value.into(), &format!("  # the default of {product}"));
        }
    }

    /// Converts a setting with the same meaning as `ours`.
    pub(super) fn take(&mut self, theirs: &str, ours: &'static Key, value: &Json) {
        let Scope::App(kind) = &ours.scope else { return self.no_equal(theirs) };
        let taken = match *kind {
            Kind::Flag(_) => flag(value).map(Value::Boolean),
            Kind::Limit(max, _) => number(value).map(|it| self.limit(theirs, it.max(0.0), max as f64)),
            Kind::Count(_, max, _) => number(value).map(|it| self.bound(theirs, it, max as f64)),
            Kind::Number(_, max, _) => number(value).map(|it| self.bound(theirs, it, max)),
            Kind::Origins(_) => return self.take_origins(theirs, value),
            Kind::Webhooks(_) => return self.take_webhooks(theirs, value),
            _ => Value::try_from(without_nulls(value)).ok(),
        };
        self.put(theirs, ours, taken);
    }

    /// Writes a setting if the configuration accepts it, otherwise a note.
    pub(super) fn put(&mut self, theirs: &str, ours: &'static Key, value: Option<Value>) {
        let checked = value.map(|value| (check(ours, &value), value));
        match checked {
            Some((Ok(()), value)) if ours.kind().is_unbuilt() => drop(value),
            Some((Ok(()), value)) => self.write(ours, value, ""),
            Some((Err(_), _)) if ours.kind().is_unbuilt() => self.no_equal(theirs),
            Some((Err(why), _)) => self.note(theirs, &format!("is left out: {why}")),
            None => self.note(theirs, "is left out: it is not understood"),
        }
    }

    fn write(&mut self, key: &'static Key, value: Value, comment: &str) {
        self.lines.push(Line { key, value, comment: comment.to_owned() });
    }

    /// A limit for which 0 is no limit in both products, lowered to Fanfare's maximum.
    fn limit(&mut self, theirs: &str, given: f64, max: f64) -> Value {
        if given > max {
            self.note(theirs, &format!("is lowered to {max}, the most that there is here"));
        }
        plain(given.min(max))
    }

    /// A limit that always applies in Fanfare: no limit becomes its maximum.
    fn bound(&mut self, theirs: &str, given: f64, max: f64) -> Value {
        if given <= 0.0 {
            self.note(theirs, &format!("has a limit here: {max}, the most that there is"));
            return plain(max);
        }
        self.limit(theirs, given, max)
    }

    /// Converts origins. A list without any valid origin must not become a default that allows
    /// all.
    fn take_origins(&mut self, theirs: &str, value: &Json) {
        let list = match value {
            Json::Array(list) => list.clone(),
            Json::String(list) => list.split(',').map(|item| Json::String(item.trim().to_owned())).collect(),
            other => vec![other.clone()],
        };
        if list.is_empty() {
            return self.put(theirs, keys::ALLOWED_ORIGINS, Some(Value::String("*".to_owned())));
        }
        let mut origins = Vec::new();
        for item in &list {
            let origin = text(item).unwrap_or_default().trim_end_matches('/').to_owned();
            let origin = Value::String(origin);
            match check(keys::ALLOWED_ORIGINS, &Value::Array(vec![origin.clone()])) {
                Ok(()) => origins.push(origin),
                Err(_) => {
                    self.note(theirs, &format!("is left without {item}: no browser sends such an origin"));
                }
            }
        }
        if origins.is_empty() {
            origins.push(nobody());
        }
        self.put(theirs, keys::ALLOWED_ORIGINS, Some(Value::Array(origins)));
    }

    /// Allows no page: the meaning of Reverb's empty list.
    pub(super) fn allow_no_origin(&mut self, theirs: &str) {
        self.note(theirs, "is empty: no page may connect");
        self.put(theirs, keys::ALLOWED_ORIGINS, Some(Value::Array(vec![nobody()])));
    }

    fn take_webhooks(&mut self, theirs: &str, value: &Json) {
        let Some(list) = value.as_array() else { return self.put(theirs, keys::WEBHOOKS, None) };
        for (index, hook) in list.iter().enumerate() {
            let theirs = format!("{theirs}[{index}]");
            match hook.as_object() {
                Some(hook) => self.take_webhook(&theirs, hook),
                None => self.note(&theirs, "is left out: it is not understood"),
            }
        }
    }

    /// Converts a webhook. One with an invalid filter would receive too many events, so it is
    /// omitted.
    fn take_webhook(&mut self, theirs: &str, hook: &Object) {
        let mut table = toml::Table::new();
        for (name, value) in hook.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "event_types" => {
                    let Some(known) = self.known_events(theirs, value) else { return };
                    table.insert(name.clone(), known);
                }
                "url" | "headers" | "filter" | "lambda" | "lambda_function" => {
                    let Ok(value) = Value::try_from(value) else { continue };
                    table.insert(name.clone(), value);
                }
                _ => self.no_equal(&format!("{theirs}.{name}")),
            }
        }
        match check(keys::WEBHOOKS, &Value::Array(vec![Value::Table(table.clone())])) {
            Ok(()) => self.webhooks.push(table),
            Err(why) => self.note(theirs, &format!("is left out: {why}")),
        }
    }

    /// The known event types, or `None` if there is none: the webhook would never be called.
    fn known_events(&mut self, theirs: &str, value: &Json) -> Option<Value> {
        let mut known = Vec::new();
        for name in value.as_array().into_iter().flatten().filter_map(Json::as_str) {
            match HookedEvents::of(name) {
                Some(_) => known.push(Value::String(name.to_owned())),
                None => self.note(theirs, &format!("is left without `{name}`: there is no such event here")),
            }
        }
        if known.is_empty() {
            self.note(theirs, "is left out: it would never be called");
            return None;
        }
        Some(Value::Array(known))
    }
}

/// Checks a value against the configuration. The error has no app and no line of a file,
/// because neither exists yet.
fn check(ours: &Key, value: &Value) -> Result<(), String> {
    let checked = config::check_app_setting(ours.name(), &value.to_string(), &Origin::Command);
    checked.map_err(|problems| {
        let texts: Vec<String> = problems.0.iter().map(ToString::to_string).collect();
        texts.join("; ").replace("`apps[0].", "`").replace(&format!(" ({})", Origin::Command), "")
    })
}

pub(super) fn text(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// A finite number, which may be a text as in Sockudo's limits.
pub(super) fn number(value: &Json) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|it| it.is_finite())
}

pub(super) fn flag(value: &Json) -> Option<bool> {
    match value {
        Json::Bool(flag) => Some(*flag),
        Json::String(text) => match text.to_ascii_lowercase().as_str() {
            "true" | "1" => Some(true),
            "false" | "0" | "" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

/// Removes null members: null means absent, and TOML has no null.
fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(members) => {
            let present = members.iter().filter(|(_, value)| !value.is_null());
            present.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        other => other.clone(),
    }
}

/// An integer if the number is whole, otherwise a float.
pub(super) fn plain(number: f64) -> Value {
    if number.fract() == 0.0 { Value::Integer(number as i64) } else { Value::Float(number) }
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[apps]]")?;
        // In the order of the table of all keys, which groups related ones.
        let mut lines: Vec<&Line> = self.lines.iter().collect();
        lines.sort_by_key(|line| keys::position(line.key.path));
        for Line { key, value, comment } in lines {
            writeln!(f, "{} = {value}{comment}", key.name())?;
        }
        for hook in &self.webhooks {
            writeln!(f, "\n[[apps.webhooks]]")?;
            hook.iter().try_for_each(|(name, value)| writeln!(f, "{name} = {value}"))?;
        }
        Ok(())
    }
}

/// A pattern that matches no origin: no browser has a page of this domain (RFC 2606).
fn nobody() -> Value {
    Value::String("nobody.invalid".to_owned())
}
