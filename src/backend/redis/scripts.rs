//! One script per file in `lua/`, under the same name.

use std::time::Duration;

use fred::bytes::Bytes;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::prelude::{Client, Error, ErrorKind, Options, Value};
use fred::types::scripts::Script as Source;

use crate::backend::BackendError;
use crate::limits;

/// A script, ready to be run by its digest.
#[derive(Debug)]
pub(super) struct Script(Source);

#[derive(Debug)]
pub(super) struct Scripts {
    pub(super) publish_batch: Script,
    pub(super) assert_subscriptions: Script,
    pub(super) read_log: Script,
    pub(super) open_epoch: Script,
    pub(super) renew_node: Script,
    pub(super) condemn_node: Script,
}

const FIND_ANNOUNCEMENT: &str = include_str!("../../../lua/include/find_announcement.lua");

impl Scripts {
    pub(super) fn new() -> Scripts {
        let script = |text: &str| Script(Source::from_lua(text));
        let with_find = |text: &str| Script(Source::from_lua([FIND_ANNOUNCEMENT, text].concat()));
        Scripts {
            publish_batch: with_find(include_str!("../../../lua/publish_batch.lua")),
            assert_subscriptions: script(include_str!("../../../lua/assert_subscriptions.lua")),
            read_log: with_find(include_str!("../../../lua/read_log.lua")),
            open_epoch: script(include_str!("../../../lua/open_epoch.lua")),
            renew_node: script(include_str!("../../../lua/renew_node.lua")),
            condemn_node: script(include_str!("../../../lua/condemn_node.lua")),
        }
    }
}

impl Script {
    /// Runs once, or not at all: fred would send a command again after a
    /// reconnect, and it may have been done. Only a script that Redis says it
    /// does not know is sent again, with its text.
    pub(super) async fn run(
        &self,
        client: &Client,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, BackendError> {
        self.run_within(limits::SCRIPT_ATTEMPT_TIMEOUT, client, keys, arguments).await
    }

    /// As [`Script::run`], with an answer within `timeout`.
    pub(super) async fn run_within(
        &self,
        timeout: Duration,
        client: &Client,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, BackendError> {
        if !is_connected(client) {
            return Err(BackendError::Unavailable);
        }
        let once = client.with_options(&Options { timeout: Some(timeout), ..once() });
        match once.evalsha(self.0.sha1().clone(), keys.clone(), arguments.clone()).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                let text = self.0.lua().cloned().unwrap_or_default();
                once.eval(text, keys, arguments).await.map_err(backend_error)
            }
            result => result.map_err(backend_error),
        }
    }
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.state() == fred::types::ClientState::Connected
}

/// One attempt, which ends in time.
pub(super) fn once() -> Options {
    Options {
        max_attempts: Some(1),
        timeout: Some(limits::SCRIPT_ATTEMPT_TIMEOUT),
        fail_fast: true,
        ..Options::default()
    }
}

/// What an error of fred says about the command: was it done?
#[allow(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
pub(super) fn backend_error(error: Error) -> BackendError {
    let details = error.details();
    let says = |words: &[&str]| words.iter().any(|word| details.starts_with(word));
    match error.kind() {
        // Redis itself has answered: nothing was done.
        _ if says(&["UNKNOWN"]) => BackendError::OutcomeUnknown,
        _ if says(&["OOM"]) => BackendError::OutOfMemory,
        _ if says(&["LOADING", "READONLY", "MASTERDOWN", "BUSY", "NOREPLICAS"]) => BackendError::Unavailable,
        ErrorKind::Backpressure => BackendError::Unavailable,
        // fred's own words, under the kind that it also gives to what Redis says:
        // there was no connection to write to; there was, and it was lost.
        _ if says(&["Failed to route command", "Client is not initialized"]) => BackendError::Unavailable,
        _ if says(&["Too many failed write attempts"]) => BackendError::OutcomeUnknown,
        ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled | ErrorKind::Routing => {
            BackendError::OutcomeUnknown
        }
        _ => BackendError::Refused(error.to_string()),
    }
}

/// An argument that is bytes.
pub(super) fn bytes(bytes: impl Into<Bytes>) -> Value {
    Value::Bytes(bytes.into())
}

/// An argument that is a number.
pub(super) fn number(number: u64) -> Value {
    Value::String(number.to_string().into())
}
