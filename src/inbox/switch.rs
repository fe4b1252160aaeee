//! Switching deltas off on a channel where they do not pay, and on again: for the
//! whole cluster, by an announcement (see [`crate::delta::policy`]).

use super::{Desk, Done};
use crate::backend::BackendError;
use crate::channel::Address;
use crate::metrics::metrics;

impl Desk {
    /// Has the cluster decide, if what was seen here says so.
    pub(super) fn consider_deltas(&mut self, address: &Address) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let Some(on) = channel.policy.verdict().filter(|_| !channel.switching) else { return };
        channel.switching = true;
        let (backend, address) = (self.backend.clone(), address.clone());
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
