//! The tags of one event, parsed for all filters.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The tags of one event, parsed once for all filters.
#[derive(Debug, Default)]
pub struct Tags<'a> {
    /// Sorted by key, without duplicates.
    sorted: Vec<(Cow<'a, str>, Tag<'a>)>,
}

/// The value of a tag.
#[derive(Debug)]
pub(super) struct Tag<'a> {
    value: Cow<'a, str>,
    /// Parsed for the first filter that compares it: a text of some kilobytes takes a microsecond.
    number: OnceCell<Option<f64>>,
}

impl Tag<'_> {
    pub(super) fn value(&self) -> &str {
        &self.value
    }

    /// The value as a finite number.
    pub(super) fn number(&self) -> Option<f64> {
        *self.number.get_or_init(|| finite(&self.value))
    }
}

/// Number of tags up to which a linear search is faster; events rarely have more.
const FEW: usize = 8;

impl<'a> Tags<'a> {
    /// Parses `json`, an object of strings as validated at publication. Anything else, and
    /// `None`, has no tags. Of duplicate keys the last one counts.
    pub fn read(json: Option<&'a [u8]>) -> Tags<'a> {
        json.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
    }

    fn of(mut pairs: Vec<(Cow<'a, str>, Tag<'a>)>) -> Tags<'a> {
        // Reversed and sorted stably: of equal keys, `dedup_by` keeps the last one.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(a, _), (b, _)| a == b);
        Tags { sorted: pairs }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Tag<'a>> {
        // Equality compares lengths first, which is faster for few keys.
        let at = match self.sorted.len() {
            0..=FEW => self.sorted.iter().position(|(other, _)| *other == *key),
            _ => self.sorted.binary_search_by(|(other, _)| (**other).cmp(key)).ok(),
        };
        at.map(|at| &self.sorted[at].1)
    }
}

impl<'de> Deserialize<'de> for Tags<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tags<'de>, D::Error> {
        deserializer.deserialize_map(Object)
    }
}

struct Object;

impl<'de> Visitor<'de> for Object {
    type Value = Tags<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tags<'de>, A::Error> {
        let mut pairs = Vec::new();
        while let Some((Text(key), Text(value))) = map.next_entry()? {
            pairs.push((key, Tag { value, number: OnceCell::new() }));
        }
        Ok(Tags::of(pairs))
    }
}

/// Borrowed from the JSON text unless it has escapes. serde borrows a `Cow` only as a field
/// with this attribute, not as a map key or value itself.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The text as a finite number.
pub(super) fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}
