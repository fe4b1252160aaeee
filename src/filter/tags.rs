//! The tags of one event, as all its filters see them.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The tags of one event, read once for all filters.
#[derive(Debug, Default)]
pub struct Tags<'a> {
    /// By key, each once.
    sorted: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Tags of an event, as they usually are.
const FEW: usize = 8;

impl<'a> Tags<'a> {
    /// `json` is an object of strings, as it was checked when it was published.
    /// Anything else, like `None`, has no tags. Of a key that is there twice the
    /// last counts.
    pub fn read(json: Option<&'a [u8]>) -> Tags<'a> {
        json.and_then(|json| serde_json::from_slice(json).ok()).unwrap_or_default()
    }

    fn of(mut pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>) -> Tags<'a> {
        // Stable and from the end on: the last of equal keys is the one that stays.
        pairs.reverse();
        pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
        pairs.dedup_by(|(a, _), (b, _)| a == b);
        Tags { sorted: pairs }
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        // Few keys are found sooner by equality, which looks at lengths first.
        let at = match self.sorted.len() {
            0..=FEW => self.sorted.iter().position(|(other, _)| *other == *key),
            _ => self.sorted.binary_search_by(|(other, _)| (**other).cmp(key)).ok(),
        };
        at.map(|at| &*self.sorted[at].1)
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
            pairs.push((key, value));
        }
        Ok(Tags::of(pairs))
    }
}

/// Borrowed from the JSON text where it has no escapes: serde does so for a `Cow`
/// that is a field and asks for it, not for one that stands alone.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
