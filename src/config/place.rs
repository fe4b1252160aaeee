//! A key with the app to which it belongs.

use std::fmt;

use super::keys::{self, KEYS, Key};

/// A key and, for a key of `[[apps]]`, the index of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) app: Option<usize>,
    /// Index in [`KEYS`], so that the order is that of the table.
    pub(super) position: usize,
}

impl Place {
    pub(super) fn of(key: &Key) -> Place {
        Place { app: None, position: keys::position(key.path).expect("every key is in the table") }
    }

    pub(super) fn of_app(app: usize, key: &Key) -> Place {
        Place { app: Some(app), ..Place::of(key) }
    }

    pub fn key(self) -> &'static Key {
        &KEYS[self.position]
    }
}

/// `redis`, `delta_compression.enabled`, `apps[0].id`
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.app {
            None => f.write_str(self.key().path),
            Some(app) => write!(f, "apps[{app}].{}", self.key().name()),
        }
    }
}
