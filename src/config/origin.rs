//! The source of a value, and its place among the settings.

use std::fmt;

use super::keys::{self, KEYS, Key};

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File {
        name: String,
        line: usize,
    },
    /// An app stored in Redis.
    Stored {
        id: String,
    },
    /// Arguments of a command that creates or changes an app.
    Command,
    Env(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Default => f.write_str("default"),
            Origin::File { name, line } => write!(f, "file {name}, line {line}"),
            Origin::Stored { id } => write!(f, "app {id} in Redis"),
            Origin::Command => f.write_str("command line"),
            Origin::Env(name) => write!(f, "env {name}"),
            Origin::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A key and, for a key of `[[apps]]`, the index of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub(super) app: Option<usize>,
    /// Index in [`KEYS`], so that the order is that of the table.
    pub(super) position: usize,
}

impl Place {
    pub(super) fn top(path: &str) -> Place {
        Place { app: None, position: keys::position(path).expect("the path of a key in the table") }
    }

    /// `name` is without the section `apps`.
    pub(super) fn app(app: usize, name: &str) -> Place {
        Place { app: Some(app), ..Place::top(&format!("apps.{name}")) }
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
