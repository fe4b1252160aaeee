//! Conflation keys (protocol.md 3.8): a member of an event's data selects its chain.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::MARKERS;
use crate::{json, limits};

/// The key of the only chain of a channel without conflation.
pub const NO_KEY: Bytes = Bytes::new();

/// A dot path into `data`, such as `symbol` or `data.asset.id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyPath(Arc<[Box<str>]>);

impl KeyPath {
    /// `None` if a segment is empty. A leading `data.` is ignored.
    pub fn parse(path: &str) -> Option<KeyPath> {
        let path = path.strip_prefix("data.").unwrap_or(path);
        let segments: Arc<[Box<str>]> = path.split('.').map(Box::from).collect();
        (!segments.iter().any(|segment| segment.is_empty())).then_some(KeyPath(segments))
    }

    /// The path as text, without a leading `data.`.
    pub fn text(&self) -> String {
        self.0.join(".")
    }

    /// The conflation key of an event with this `data`: the value of a string, otherwise
    /// the JSON text, verbatim. [`NO_KEY`] for null, for an absent member, and for a key
    /// that some clients cannot parse: such an event is in no chain.
    ///
    /// The path leads through objects only. Of duplicate members the last one counts, as in
    /// JSON parsers of clients.
    pub fn key(&self, data: &[u8]) -> Bytes {
        if !json::depth_within(data, limits::JSON_DEPTH_MAX) {
            return NO_KEY;
        }
        let found = self.0.iter().try_fold(data, |object, name| member(object, name));
        let key = found.and_then(read_key).filter(|key| is_usable(key));
        key.map_or(NO_KEY, |key| Bytes::copy_from_slice(key.as_bytes()))
    }
}

fn read_key(json: &[u8]) -> Option<Cow<'_, str>> {
    match json.first()? {
        b'"' => serde_json::from_slice::<Unescaped<'_>>(json).ok().map(|Unescaped(text)| text),
        b'n' => None,
        _ => std::str::from_utf8(json).ok().map(Cow::Borrowed),
    }
}

/// A string, copied only if it has escapes.
#[derive(serde::Deserialize)]
struct Unescaped<'a>(#[serde(borrow)] Cow<'a, str>);

/// Whether clients can parse the key: frames contain it between quotation marks, and
/// clients cut it out up to the next one.
fn is_usable(key: &str) -> bool {
    let is_plain = |char: char| !char.is_control() && !matches!(char, '"' | '\\');
    key.len() <= limits::CONFLATION_KEY_BYTES_MAX
        && key.chars().all(is_plain)
        && !MARKERS.iter().any(|marker| key.contains(marker))
}

/// The JSON text of a member, if `object` is an object and has it. Other members are
/// skipped without allocation or recursion.
fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let mut parser = serde_json::Deserializer::from_slice(object);
    let found = parser.deserialize_map(Find(name)).ok()??;
    parser.end().ok()?;
    Some(found.get().as_bytes())
}

/// Searches an object for the last member with this name.
struct Find<'n>(&'n str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(is_match) = members.next_key_seed(Is(self.0))? {
            match is_match {
                true => found = Some(members.next_value()?),
                false => drop(members.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// Deserializes a string to whether it equals this one.
struct Is<'n>(&'n str);

impl<'de> DeserializeSeed<'de> for Is<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<bool, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for Is<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<bool, E> {
        Ok(text == self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn key(path: &str, data: &str) -> String {
        let key = KeyPath::parse(path).expect("a path").key(data.as_bytes());
        String::from_utf8(key.to_vec()).expect("a key is UTF-8")
    }

    #[test]
    fn path_with_an_empty_segment_is_rejected() {
        for (path, text) in [("symbol", "symbol"), ("data.asset.id", "asset.id"), ("data", "data")] {
            assert_eq!(KeyPath::parse(path).map(|it| it.text()).as_deref(), Some(text));
        }
        for path in ["", ".", "a.", ".a", "a..b", "data."] {
            assert_eq!(KeyPath::parse(path), None, "{path}");
        }
    }

    #[test]
    fn key_is_the_string_or_the_json_text_of_the_member() {
        let data = r#" {"a" : "BTC", "b":{"c":{"d":"x y"}}, "n":1.50e3, "t":true, "f":false, "l":[1,2],
            "o":{}, "e":"", "u":"\u00e9\/\ud83d\ude00", "\u0061b":"escaped name"} "#;
        for (path, expect) in [
            ("a", "BTC"),
            ("data.a", "BTC"),
            ("b.c.d", "x y"),
            ("n", "1.50e3"),
            ("t", "true"),
            ("f", "false"),
            ("l", "[1,2]"),
            ("o", "{}"),
            ("e", ""),
            ("u", "é/😀"),
            ("ab", "escaped name"),
        ] {
            assert_eq!(key(path, data), expect, "{path}");
        }
    }

    #[test]
    fn key_of_duplicate_members_is_that_of_the_last() {
        assert_eq!(key("a", r#"{"a":1,"a":2}"#), "2");
        assert_eq!(key("a", r#"{"a":1,"a":null}"#), "");
        assert_eq!(key("a.b", r#"{"a":{"b":1},"a":{}}"#), "");
    }

    #[test]
    fn data_without_the_member_has_no_key() {
        for data in
            ["", " ", "text", "7", "[1]", "\"{\\\"a\\\":1}\"", "{}", "{\"a\":1", "{\"a\":1}}", "{'a':1}"]
        {
            assert_eq!(key("a", data), "", "{data}");
        }
        for data in [r#"{"a":null}"#, r#"{"a":7}"#, r#"{"a":[{"b":1}]}"#, r#"{"b":1}"#, r#"{"a.b":1}"#] {
            assert_eq!(key("a.b", data), "", "{data}");
        }
    }

    #[test]
    fn key_that_clients_cannot_parse_is_none() {
        for unusable in [
            r#""say \"hi\"""#,
            r#""a\\b""#,
            r#""a\nb""#,
            r#""\u0085""#,
            r#"{"b":1}"#,
            r#"[1,"x"]"#,
            "[1,\n2]",
        ] {
            assert_eq!(key("a", &format!("{{\"a\":{unusable}}}")), "", "{unusable}");
        }
        assert_eq!(key("a", r#"{"a":"x__delta_seq"}"#), "");
        assert_eq!(key("a", r#"{"a":"__conflation\u005fkey"}"#), "");
        let long = |len: usize| key("a", &format!("{{\"a\":\"{}\"}}", "k".repeat(len))).len();
        assert_eq!(long(limits::CONFLATION_KEY_BYTES_MAX), limits::CONFLATION_KEY_BYTES_MAX);
        assert_eq!(long(limits::CONFLATION_KEY_BYTES_MAX + 1), 0);
    }

    #[test]
    fn key_of_deeply_nested_data_is_none() {
        let nested = |depth: usize| format!("{{\"a\":7,\"b\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(key("a", &nested(limits::JSON_DEPTH_MAX - 1)), "7");
        assert_eq!(key("a", &nested(limits::JSON_DEPTH_MAX)), "");
        assert_eq!(key("a", &nested(1_000_000)), "");
        let steps = 1_000;
        let deep = format!("{}1{}", "{\"a\":".repeat(steps), "}".repeat(steps));
        assert_eq!(key(&vec!["a"; steps].join("."), &deep), "");
    }

    /// Reference implementation with a full parse.
    fn naive(path: &str, data: &str) -> String {
        let Ok(value) = serde_json::from_str::<Value>(data) else { return String::new() };
        let found = path.split('.').try_fold(&value, |object, name| object.as_object()?.get(name));
        let text = match found {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        };
        let is_clean = !text.contains(['"', '\\']) && !text.contains(char::is_control);
        if is_clean && text.len() <= limits::CONFLATION_KEY_BYTES_MAX { text } else { String::new() }
    }

    /// Few names, so that paths match often.
    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-c\"\\\\\u{7}é]{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::vec(("[abé\"]", inner), 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn key_agrees_with_a_full_parse(value in json(), path in "[ab](\\.[abé\"]){0,2}", pretty: bool) {
            let data = match pretty {
                true => serde_json::to_string_pretty(&value),
                false => serde_json::to_string(&value),
            }.expect("a value is JSON");
            // With white space, the JSON text of an object or array differs.
            if !pretty {
                prop_assert_eq!(key(&path, &data), naive(&path, &data));
            } else if !naive(&path, &data).starts_with(['{', '[']) {
                prop_assert_eq!(key(&path, &data), naive(&path, &data));
            }
        }

        #[test]
        fn key_never_panics(data in any::<Vec<u8>>(), text in "[{}\\[\\]\":,a1\\\\]{0,40}") {
            let path = KeyPath::parse("a.b").expect("a path");
            path.key(&data);
            path.key(text.as_bytes());
        }
    }
}
