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

macro_rules! scripts {
    ($($name:ident: $($include:literal)*;)*) => {
        #[derive(Debug)]
        pub(super) struct Scripts { $(pub(super) $name: Script,)* }

        impl Scripts {
            /// Each with what it includes in front.
            pub(super) fn new() -> Scripts {
                Scripts {
                    $($name: Script(Source::from_lua(concat!(
                        $(include_str!(concat!("../../../lua/include/", $include, ".lua")), "\n",)*
                        include_str!(concat!("../../../lua/", stringify!($name), ".lua")),
                    ))),)*
                }
            }
        }
    };
}

scripts! {
    publish_batch: "append" "find_entry" "charge" "keep_bases";
    append_control_entry: "append" "notify";
    update_subscriptions: "append" "notify" "occupancy";
    update_members: "append" "notify" "occupancy";
    settle_due: "append" "notify";
    claim_webhook_outbox:;
    list_occupied:;
    read_cached:;
    charge_app: "charge";
    hold_connections:;
    switch_deltas: "append";
    read_log: "find_entry";
    read_log_since:;
    open_epoch:;
    renew_node:;
    fence_node:;
}

impl Script {
    pub(super) fn new(text: &str) -> Script {
        Script(Source::from_lua(text))
    }

    /// Runs once, or not at all: fred would send a command again after a
    /// reconnect, and it may have been done. Only a script that Redis says it
    /// does not know is sent again, with its text.
    pub(super) async fn run(
        &self,
        client: &Client,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, BackendError> {
        let words = || (keys.clone(), arguments.clone());
        self.run_within(limits::SCRIPT_ATTEMPT_TIMEOUT, client, words).await
    }

    /// As [`Script::run`], with an answer within `timeout`. Keys and arguments are
    /// made anew for each sending: to keep those of a batch for a second one that
    /// hardly ever comes would cost a copy of each.
    pub(super) async fn run_within(
        &self,
        timeout: Duration,
        client: &Client,
        words: impl Fn() -> (Vec<String>, Vec<Value>),
    ) -> Result<Value, BackendError> {
        if !is_connected(client) {
            return Err(BackendError::Unavailable);
        }
        let once = client.with_options(&Options { timeout: Some(timeout), ..once() });
        let (keys, arguments) = words();
        match once.evalsha(self.0.sha1().clone(), keys, arguments).await {
            Err(error) if error.details().starts_with("NOSCRIPT") => {
                let text = self.0.lua().cloned().unwrap_or_default();
                let (keys, arguments) = words();
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

/// WebhookEventKind an error of fred says about the command: was it done?
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

/// An argument that is text.
pub(super) fn text(text: impl Into<String>) -> Value {
    Value::String(text.into().into())
}

/// An argument that is a number.
pub(super) fn number(number: u64) -> Value {
    match number {
        // Most of them, and no allocation.
        0 => Value::from_static_str("0"),
        1 => Value::from_static_str("1"),
        _ => Value::String(number.to_string().into()),
    }
}
