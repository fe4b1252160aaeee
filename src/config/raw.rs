//! Values as written, before they are checked against the type of their key.

use std::collections::BTreeMap;
use std::fmt;

use toml::de::{DeString, DeValue};

/// Replaces secrets in output.
pub(super) const HIDDEN: &str = "[hidden]";

/// A value as written in its source. The environment and the flags provide only texts;
/// every kind can be parsed from a text.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    Text(String),
    Flag(bool),
    /// An integer or a fraction, with its digits as written.
    Number(String),
    List(Vec<Raw>),
    Table(BTreeMap<String, Raw>),
}

impl Raw {
    pub(super) fn text(&self) -> Option<&str> {
        if let Raw::Text(text) = self { Some(text) } else { None }
    }

    /// A text, or the digits of a number: `id = 1001` is a number in TOML.
    pub(super) fn word(&self) -> Option<String> {
        match self {
            Raw::Text(text) | Raw::Number(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(super) fn digits(&self) -> Option<&str> {
        if let Raw::Text(text) | Raw::Number(text) = self { Some(text.trim()) } else { None }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self {
            Raw::Flag(flag) => Some(*flag),
            Raw::Text(text) => match text.to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn texts(&self) -> Option<Vec<String>> {
        match self {
            Raw::List(list) => list.iter().map(|item| item.text().map(str::to_owned)).collect(),
            Raw::Text(text) if text.trim().is_empty() => Some(Vec::new()),
            Raw::Text(text) => Some(text.split([',', '\n']).map(|item| item.trim().to_owned()).collect()),
            _ => None,
        }
    }

    /// A list or table that a text contains: the value of a variable or of `--set`, in
    /// the notation of the file.
    pub(super) fn parsed(&self) -> Option<Raw> {
        let text = self.text()?.trim();
        let value = DeValue::parse(text).ok().filter(|_| text.starts_with(['[', '{']))?;
        Some(value.get_ref().into())
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Raw::Text(text) => matches!(text.trim(), "" | "0" | "false" | "null" | "[]" | "{}"),
            Raw::Flag(flag) => !flag,
            Raw::Number(digits) => digits.parse() == Ok(0.0),
            Raw::List(list) => list.is_empty(),
            Raw::Table(table) => table.is_empty() || table.get("enabled").is_some_and(Raw::is_empty),
        }
    }
}

/// TOML notation.
impl fmt::Display for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Raw::Text(text) => f.write_str(&quoted(text)),
            Raw::Flag(flag) => write!(f, "{flag}"),
            Raw::Number(digits) => f.write_str(digits),
            Raw::List(list) => {
                let items: Vec<String> = list.iter().map(Raw::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Raw::Table(table) => {
                let items: Vec<String> =
                    table.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                write!(f, "{{ {} }}", items.join(", "))
            }
        }
    }
}

impl From<&DeValue<'_>> for Raw {
    fn from(value: &DeValue<'_>) -> Raw {
        match value {
            DeValue::String(text) => Raw::Text(text.clone().into_owned()),
            DeValue::Integer(integer) if integer.radix() == 10 => Raw::Number(integer.as_str().to_owned()),
            // A number above i64 stays as written; the key rejects it.
            DeValue::Integer(integer) => Raw::Number(
                i64::from_str_radix(integer.as_str(), integer.radix())
                    .map_or_else(|_| integer.to_string(), |number| number.to_string()),
            ),
            DeValue::Float(float) => Raw::Number(float.as_str().to_owned()),
            DeValue::Boolean(flag) => Raw::Flag(*flag),
            DeValue::Datetime(time) => Raw::Text(time.to_string()),
            DeValue::Array(list) => Raw::List(list.iter().map(|item| item.get_ref().into()).collect()),
            DeValue::Table(table) => {
                let entry = |name: &DeString<'_>, value: &DeValue<'_>| (name.to_string(), value.into());
                Raw::Table(table.iter().map(|(name, value)| entry(name.get_ref(), value.get_ref())).collect())
            }
        }
    }
}

/// A TOML basic string with control characters escaped, safe for a terminal.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug())
}

/// A TOML list.
pub(super) fn listed(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}
