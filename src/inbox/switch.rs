//! Switching deltas off on a channel where they do not pay, and on again: for the
//! whole cluster, by an announcement (see [`crate::delta::policy`]).

use super::channel::Channel;
use super::{Desk, Done};
use crate::backend::BackendError;
use crate::channel::Address;
use crate::metrics::metrics;

impl Channel {
    /// What was seen here says that deltas should be on, or off: the cluster has to
    /// be asked, and is asked once.
    pub(super) fn verdict_on_deltas(&mut self) -> Option<bool> {
        let on = self.policy.verdict().filter(|_| !self.switching)?;
        self.switching = true;
        Some(on)
    }
}

impl Desk {
    /// Has the cluster decide.
    pub(super) fn switch_deltas(&mut self, address: Address, on: bool) {
        let backend = self.backend.clone();
        self.calls.spawn(async move {
            let result = backend.switch_deltas(&address, on).await;
            Done::Switched(address, on, result)
        });
    }

    pub(super) fn switched(&mut self, address: &Address, on: bool, result: Result<(), BackendError>) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        channel.switching = false;
        match result {
            // It may have been so already, unheard of here.
            Ok(()) => channel.policy.set(on),
            Err(error) => tracing::debug!(%address, %error, "deltas not switched; tried again"),
        }
    }

    /// The cluster has decided.
    pub(super) fn set_deltas(&mut self, address: &Address, on: bool) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        metrics().delta_switches.increment(1);
        tracing::debug!(%address, on, "deltas switched because of what they save");
        channel.policy.set(on);
    }
}
