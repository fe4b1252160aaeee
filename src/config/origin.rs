//! Where a value comes from.

use std::fmt;

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
