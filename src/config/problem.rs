//! What can be wrong with a configuration, each with the place it was written.

use std::path::PathBuf;

use super::layers::{Origin, Place};

/// One mistake.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot read the configuration file `{path}` ({origin}): {error}")]
    FileUnreadable { path: PathBuf, origin: Origin, error: std::io::Error },

    #[error("{origin}: {message}")]
    Syntax { origin: Origin, message: String },

    #[error("`{key}` is not a setting; the nearest is `{nearest}` ({origin})")]
    UnknownKey { key: String, nearest: String, origin: Origin },

    #[error("`{name}` is not a variable that fanfare knows; the nearest is `{nearest}` (environment)")]
    UnknownVariable { name: String, nearest: String },

    /// A section that is no table, or `apps` that is no list of tables.
    #[error("`{section}` must be written as {expected} ({origin})")]
    NotASection { section: &'static str, expected: String, origin: Origin },

    /// `inside` is where within the value, such as `[1].url`; empty for all of it.
    #[error("`{place}{inside}` ({doc}) must be {expected}; it is {found} ({origin})", doc = place.key().doc)]
    Wrong { place: Place, inside: String, expected: String, found: String, origin: Origin },

    #[error("`{place}{inside}` is not supported by this version ({origin})")]
    Unsupported { place: Place, inside: String, origin: Origin },

    #[error("this is not the settings of one app ({origin})")]
    NotOneApp { origin: Origin },

    #[error("`{place}` has more than {count_max} secrets, with `secret` ({origin})")]
    TooManySecrets { place: Place, count_max: usize, origin: Origin },

    #[error("`{place}` = {value} is not supported by this version ({origin})")]
    UnsupportedValue { place: Place, value: String, origin: Origin },

    /// One value given twice in one layer: which one was meant?
    #[error("`{name}` and `{name}_FILE` are both set: keep one (environment)")]
    GivenTwice { name: String },

    #[error("cannot read the file `{path}` ({origin}): {error}")]
    ValueFileUnreadable { path: String, origin: Origin, error: std::io::Error },

    #[error("`{place}` is not set: add {hint} ({origin})")]
    Missing { place: Place, hint: String, origin: Origin },

    #[error("`{place}` and `{other}` are the same: give each app its own ({origin})")]
    Duplicate { place: Place, other: Place, origin: Origin },

    #[error("`{place}` is the address of `{other}`: give each its own ({origin})")]
    SameAddress { place: Place, other: Place, origin: Origin },

    #[error(
        "no app is configured: set FANFARE_APP_ID, FANFARE_APP_KEY and FANFARE_APP_SECRET, \
         or write [[apps]] with id, key and secret in a file and name it with --config, \
         or start with --dev to try it with a demo app, \
         or set `redis` and keep apps there with `fanfare app add`"
    )]
    NoApp,
}

/// All mistakes of a configuration, for one look at them.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Nothing that was written is wrong; there is only no app yet.
    pub fn only_app_missing(&self) -> bool {
        self.0.iter().all(|problem| matches!(problem, Problem::NoApp))
    }
}

impl std::error::Error for Problems {}

impl std::fmt::Display for Problems {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let [problem] = self.0.as_slice() {
            return write!(f, "{problem}");
        }
        write!(f, "{} mistakes in the configuration:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n- {problem}"))
    }
}

/// What works, and may still surprise.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    #[error("`{place}` = {id:?} is not all digits: Pusher's Python library will refuse it ({origin})")]
    AppIdNotDigits { place: Place, id: String, origin: Origin },

    #[error("the demo app, whose secret everybody knows, can be reached from other machines at {listen}")]
    DemoAppExposed { listen: std::net::SocketAddr },
}
