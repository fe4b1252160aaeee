//! Errors of commands, each a sentence for the user.

use std::path::PathBuf;
use std::time::Duration;

use super::output::printable;
use crate::backend::BackendError;
use crate::backend::redis::ConnectError;
use crate::backend::redis::apps::ChangeError;
use crate::config::{Problems, SECRET_EXPECTED};
use crate::delta::fossil::FossilError;
use crate::delta::vcdiff::VcdiffError;

#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),

    #[error(
        "`{url}` is not the URL of a server: write it as http://HOST:PORT or https://HOST:PORT, with its path prefix if it has one"
    )]
    BadUrl { url: String },

    #[error(
        "`{path}` cannot be requested: write the path as in /apps/1001/events, percent-encoded, and parameters with --query"
    )]
    BadPath { path: String },

    #[error("`{name}` is part of the signature and cannot be given with --query")]
    ReservedParameter { name: String },

    #[error("cannot read `{path}`: {error}")]
    File { path: PathBuf, error: std::io::Error },

    #[error("the secret in `{path}` must not be empty, and be {SECRET_EXPECTED}")]
    BadSecret { path: PathBuf },

    #[error("the configuration has several apps: select one with --app-id")]
    SeveralApps,

    #[error("the configuration has no app {id}: add --key and --secret-file")]
    AppNotConfigured { id: String },

    #[error("`{path}` is not JSON: {error}")]
    NotJson { path: PathBuf, error: serde_json::Error },

    #[error("`{path}` must hold one event, a list of events or {{\"batch\":[…]}}")]
    NotEvents { path: PathBuf },

    /// `cause` is the innermost error.
    #[error("cannot connect to {authority}: {cause}")]
    Connect { authority: String, cause: String },

    #[error("no answer from {authority} within {} s", after.as_secs())]
    Timeout { authority: String, after: Duration },

    #[error("no valid HTTP response from {authority}: {}", printable(cause))]
    Http { authority: String, cause: String },

    #[error("the response of {authority} cannot be read: {}", printable(cause))]
    Response { authority: String, cause: String },

    /// Status and body of the response.
    #[error("refused with {status}: {}", printable(body))]
    Refused { status: reqwest::StatusCode, body: String },

    #[error("the WebSocket to {authority} broke: {}", printable(&error.to_string()))]
    WebSocket { authority: String, error: Box<tokio_tungstenite::tungstenite::Error> },

    #[error("{frame} is not a frame of the Pusher protocol: {error}")]
    BadFrame { frame: String, error: serde_json::Error },

    #[error("subscription to `{channel}` refused: {reason}")]
    Subscription { channel: String, reason: String },

    #[error("closed by the server with {code}, {meaning}: {reason}")]
    Closed { code: u16, meaning: &'static str, reason: String },

    #[error("the server closed the connection without a close frame")]
    Gone,

    #[error("{0}")]
    Config(#[from] Problems),

    #[error("cannot use Redis: {0}")]
    Connection(#[from] ConnectError),

    #[error("Redis did not do it: {0}")]
    Redis(BackendError),

    #[error("Redis is not available: nothing was read or changed")]
    RedisAway,

    #[error("no answer came from Redis: look with `fanfare app list` whether app {id} was changed")]
    AppUnknown { id: String },

    #[error(
        "`{setting}` is not KEY=VALUE with a key of [[apps]]; id, key, secret and secrets cannot be set so"
    )]
    BadSetting { setting: String },

    #[error("`{path}` is not TOML: {error}")]
    NotToml { path: PathBuf, error: TomlFault },

    #[error("there is no app {id} in this Redis; one of the configuration file is changed there")]
    NoSuchApp { id: String },

    #[error("what Redis keeps of app {id} is not understood; it can only be removed")]
    NotUnderstood { id: String },

    #[error("app {id} is as it was: {error}")]
    App { id: String, error: ChangeError },

    #[error("cannot import `{path}`: {error}")]
    Import { path: PathBuf, error: ImportError },

    #[error("cannot write the output: {0}")]
    Output(#[from] std::io::Error),
}

impl CliError {
    /// Whether the reader of the output has closed it.
    pub(super) fn is_closed_output(&self) -> bool {
        matches!(self, CliError::Output(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }
}

/// The reason why a file cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(
        "this is none of: soketi's JSON (appManager.array.apps), Sockudo's JSON or TOML \
         (app_manager.array.apps), Reverb's configuration as JSON (apps.apps), or a .env with REVERB_APP_ID, \
         REVERB_APP_KEY and REVERB_APP_SECRET"
    )]
    Unknown,
    #[error("it is not JSON: {0}")]
    NotJson(serde_json::Error),
    #[error("it is not TOML: {0}")]
    NotToml(TomlFault),
    #[error(
        "this is PHP, which only PHP can read; give what this prints: \
         php artisan tinker --execute 'echo json_encode(config(\"reverb\"));'"
    )]
    Php,
    #[error("there are no apps at `{0}`; those in a database cannot be read")]
    NoApps(&'static str),
    #[error("`{0}` is not a list of apps")]
    NotApps(&'static str),
    #[error("`{list}[{index}]` is not an app")]
    NotAnApp { list: &'static str, index: usize },
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// The apps, in the order of the file, are no valid configuration.
    #[error("{0}")]
    Refused(Problems),
}

/// A mistake in TOML, without the text of its line, which may contain a secret.
#[derive(Debug)]
pub struct TomlFault {
    line: usize,
    message: String,
}

impl TomlFault {
    pub(super) fn new(text: &str, error: &toml::de::Error) -> TomlFault {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        TomlFault { line, message: error.message().to_owned() }
    }
}

impl std::fmt::Display for TomlFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (line {})", printable(&self.message), self.line)
    }
}

/// The reason why a delta frame cannot be decoded.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    #[error("it is not a delta frame: {0}")]
    Frame(#[from] serde_json::Error),
    #[error("its algorithm `{0}` was not asked for")]
    Algorithm(String),
    #[error("its base {base_index} is not here{}", held.map(|seq| format!(", but {seq}")).unwrap_or_default())]
    NoBase { base_index: u64, held: Option<u64> },
    #[error("it is not base64: {0}")]
    Base64(#[from] base64::DecodeError),
    #[error(transparent)]
    Fossil(#[from] FossilError),
    #[error(transparent)]
    Vcdiff(#[from] VcdiffError),
    #[error("it decodes to something that is not UTF-8")]
    NotUtf8,
}
