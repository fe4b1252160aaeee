//! One script per file in `lua/`, under the same name.

use std::time::Duration;

use fred::bytes::Bytes;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::prelude::{Client, Error, Options, Value};
use fred::types::scripts::Script as Source;

use super::error::{CallError, reply_code};
use crate::backend::BackendError;
use crate::limits;

/// A script with its digest, by which Redis runs it.
#[derive(Debug)]
pub(super) struct Script(Source);

macro_rules! scripts {
    ($($name:ident: $($include:literal)*;)*) => {
        #[derive(Debug)]
        pub(super) struct Scripts { $(pub(super) $name: Script,)* }

        impl Scripts {
            /// All scripts, each preceded by the files that it includes.
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
    claim_webhook_outboxes:;
    read_webhook_outbox:;
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
    mark_swept:;
    probe_link:;
}

impl Script {
    pub(super) fn new(text: &str) -> Script {
        Script(Source::from_lua(text))
    }

    /// Runs the script at most once. By default, fred sends a command again after a reconnect, when
    /// Redis may have executed it already. Only a script that Redis does not have (NOSCRIPT) is
    /// sent again, with its text.
    pub(super) async fn run(
        &self,
        client: &Client,
        keys: Vec<String>,
        arguments: Vec<Value>,
    ) -> Result<Value, CallError> {
        let inputs = || (keys.clone(), arguments.clone());
        self.run_within(limits::SCRIPT_ATTEMPT_TIMEOUT, client, inputs).await
    }

    /// As [`Script::run`], with a reply within `timeout`. `inputs` creates keys and arguments for
    /// each attempt: keeping those of a batch for a second attempt, which is rare, would cost a
    /// copy of each.
    pub(super) async fn run_within(
        &self,
        timeout: Duration,
        client: &Client,
        inputs: impl Fn() -> (Vec<String>, Vec<Value>),
    ) -> Result<Value, CallError> {
        if !is_connected(client) {
            return Err(CallError::Backend(BackendError::Unavailable));
        }
        Ok(self.attempt(timeout, client, inputs).await?)
    }

    /// As [`Script::run_within`], with the error of fred.
    pub(super) async fn attempt(
        &self,
        timeout: Duration,
        client: &Client,
        inputs: impl Fn() -> (Vec<String>, Vec<Value>),
    ) -> Result<Value, Error> {
        let once = client.with_options(&Options { timeout: Some(timeout), ..once() });
        let (keys, arguments) = inputs();
        match once.evalsha(self.0.sha1().clone(), keys, arguments).await {
            Err(error) if reply_code(&error) == Some("NOSCRIPT") => {
                let text = self.0.lua().cloned().unwrap_or_default();
                let (keys, arguments) = inputs();
                once.eval(text, keys, arguments).await
            }
            result => result,
        }
    }
}

pub(super) fn is_connected(client: &Client) -> bool {
    client.state() == fred::types::ClientState::Connected
}

/// Options for one attempt, with a timeout.
pub(super) fn once() -> Options {
    Options {
        max_attempts: Some(1),
        timeout: Some(limits::SCRIPT_ATTEMPT_TIMEOUT),
        fail_fast: true,
        ..Options::default()
    }
}

/// An argument of bytes.
pub(super) fn bytes(bytes: impl Into<Bytes>) -> Value {
    Value::Bytes(bytes.into())
}

/// A text argument.
pub(super) fn text(text: impl Into<String>) -> Value {
    Value::String(text.into().into())
}

/// A numeric argument.
pub(super) fn number(number: u64) -> Value {
    match number {
        // The most frequent numbers, without an allocation.
        0 => Value::from_static_str("0"),
        1 => Value::from_static_str("1"),
        _ => Value::String(number.to_string().into()),
    }
}
