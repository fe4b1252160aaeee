//! Errors and warnings about a configuration, each with its source.

use std::path::PathBuf;

use super::keys::Key;
use super::origin::Origin;
use super::place::Place;

/// One mistake in a configuration.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot read the configuration file `{path}` ({origin}): {error}")]
    FileUnreadable { path: PathBuf, origin: Origin, error: std::io::Error },

    #[error("{origin}: {message}")]
    Syntax { origin: Origin, message: String },

    #[error("`{key}` is not a setting; the most similar is `{nearest}` ({origin})")]
    UnknownKey { key: String, nearest: String, origin: Origin },

    #[error("`{name}` is not a variable of fanfare; the most similar is `{nearest}` (environment)")]
    UnknownVariable { name: String, nearest: String },

    /// A section that is not a table, or an `apps` that is not a list of tables.
    #[error("`{section}` must be written as {expected} ({origin})")]
    NotASection { section: &'static str, expected: String, origin: Origin },

    /// An invalid value. `inside` is the path within it, such as `[1].url`; empty for
    /// the value itself.
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

    /// One key set twice in one layer, without an order between the two.
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

impl Problem {
    /// Whether one of these keys may have another value than was intended.
    pub(super) fn concerns(&self, keys: &[&Key]) -> bool {
        let has_place = |place: &Place| keys.iter().any(|key| key.path == place.key().path);
        let has_variable = |name: &str| keys.iter().any(|key| key.has_variable(name));
        match self {
            Problem::FileUnreadable { .. } | Problem::Syntax { .. } | Problem::NotASection { .. } => true,
            Problem::GivenTwice { name } => has_variable(name),
            Problem::ValueFileUnreadable { origin: Origin::Env(name), .. } => has_variable(name),
            Problem::Wrong { place, .. }
            | Problem::Unsupported { place, .. }
            | Problem::UnsupportedValue { place, .. } => has_place(place),
            _ => false,
        }
    }
}

/// All mistakes of a configuration, reported together.
#[derive(Debug)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Whether all settings are valid and only an app is missing.
    pub fn only_app_missing(&self) -> bool {
        self.0.iter().all(|problem| matches!(problem, Problem::NoApp))
    }

    /// For a line of the log.
    pub fn in_one_line(&self) -> String {
        self.0.iter().map(Problem::to_string).collect::<Vec<_>>().join("; ")
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

/// A valid setting with a likely unwanted effect.
#[derive(Debug, thiserror::Error)]
pub enum Warning {
    #[error("`{place}` = {id:?} is not all digits: Pusher's Python library will refuse it ({origin})")]
    AppIdNotDigits { place: Place, id: String, origin: Origin },

    #[error(
        "the configuration file {path} contains secrets, and all users of this machine may read it (mode {mode:o}): \
         set its mode to 640 or 600"
    )]
    FileReadable { path: String, mode: u32 },

    #[error(
        "the password of Redis is an argument of the command, which all users of this machine can read: \
         use FANFARE_REDIS or FANFARE_REDIS_FILE"
    )]
    PasswordInArgument,

    #[error("the demo app, whose secret everybody knows, can be reached from other machines at {listen}")]
    DemoAppExposed { listen: std::net::SocketAddr },
}
