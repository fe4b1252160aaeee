//! `--print-config`: every key with its value and source, secrets hidden.

use std::fmt;

use super::keys::{KEYS, Key, TEST_SECTION};
use super::layers::Settings;
use super::place::Place;

impl fmt::Display for Settings {
    /// One line `key = value  # origin` per key. Keys without effect are printed only if
    /// they are set.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows: Vec<(String, String)> = Vec::new();
        if let Some((name, origin)) = &self.file {
            rows.push((format!("config = {name:?}"), origin.to_string()));
        }
        let is_listed = |key: &&Key| !["apps", TEST_SECTION].contains(&key.section()) && key.matters();
        let unset = KEYS.iter().filter(is_listed);
        let unset = unset.map(Place::of).filter(|place| self.get(*place).is_none());
        let mut places: Vec<Place> = self.iter().map(|(place, _)| place).chain(unset).collect();
        places.sort();
        rows.extend(places.into_iter().map(|place| match self.get(place) {
            Some(setting) => (format!("{place} = {}", setting.value), setting.origin.to_string()),
            None => (format!("{place} = (not set)"), format!("default: {}", place.key().doc)),
        }));
        let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0);
        rows.iter().try_for_each(|(left, right)| writeln!(f, "{left:width$}  # {right}"))
    }
}
