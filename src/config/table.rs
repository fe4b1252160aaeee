//! Reads a table within a value and collects all of its mistakes, each with its path.

use std::collections::BTreeMap;

use super::fault::{Fault, Mistake};
use super::raw::Raw;

/// One table and the mistakes found so far.
pub(super) struct Table<'a> {
    members: &'a BTreeMap<String, Raw>,
    /// Path of the table from the key on: `[1]`, `.filter`.
    inside: String,
    mistakes: &'a mut Vec<Mistake>,
}

impl<'a> Table<'a> {
    /// Reports every name that is not in `known`: as unsupported if it is in
    /// `unsupported`, otherwise as unknown.
    pub(super) fn new(
        members: &'a BTreeMap<String, Raw>,
        inside: String,
        known: &'static [&'static str],
        unsupported: &[&str],
        mistakes: &'a mut Vec<Mistake>,
    ) -> Table<'a> {
        for name in members.keys().filter(|name| !known.contains(&name.as_str())) {
            let fault = match unsupported.contains(&name.as_str()) {
                true => Fault::Unsupported,
                false => Fault::Unknown { nearest: nearest(known, name) },
            };
            mistakes.push(Mistake { inside: format!("{inside}.{name}"), fault });
        }
        Table { members, inside, mistakes }
    }

    /// The member as parsed by `read`, or `None` if it is absent. Reports a mistake if
    /// `read` returns `None`.
    pub(super) fn read<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Raw) -> Option<T>,
    ) -> Option<T> {
        let raw = self.members.get(name)?;
        let value = read(raw);
        if value.is_none() {
            self.refuse(name, expected, raw.to_string());
        }
        value
    }

    /// The same for a mandatory member that may contain a secret: `shown` is a value that was not
    /// accepted, for output.
    pub(super) fn require<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&Raw) -> Option<T>,
        shown: impl FnOnce(&Raw) -> String,
    ) -> Option<T> {
        let raw = self.members.get(name);
        let value = raw.and_then(read);
        if value.is_none() {
            self.refuse(name, expected, raw.map_or_else(|| "missing".to_owned(), shown));
        }
        value
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    pub(super) fn refuse(&mut self, name: &str, expected: &str, found: String) {
        let fault = Fault::Expected { expected: expected.to_owned(), found };
        self.mistakes.push(Mistake { inside: format!("{}.{name}", self.inside), fault });
    }

    /// The table of this name, its path, and the list for its mistakes.
    pub(super) fn within(
        &mut self,
        name: &str,
    ) -> Option<(&'a BTreeMap<String, Raw>, String, &mut Vec<Mistake>)> {
        let members = self.members;
        match members.get(name)? {
            Raw::Table(table) => Some((table, format!("{}.{name}", self.inside), self.mistakes)),
            other => {
                self.refuse(name, "a table", other.to_string());
                None
            }
        }
    }
}

fn nearest(known: &'static [&'static str], name: &str) -> &'static str {
    let similarity = |it: &&&str| (strsim::normalized_damerau_levenshtein(it, name) * 1000.0) as u32;
    known.iter().max_by_key(similarity).copied().unwrap_or_default()
}
