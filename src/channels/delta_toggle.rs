//! The delta toggle: switches deltas off on a channel where they do not pay, and on
//! again, for the whole cluster, by an entry (see [`crate::delta::policy`]).

use super::channel::Channel;
use super::{Channels, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::metrics::metrics;

impl Channel {
    /// Returns the new state of the toggle if this node's measurements call for a
    /// change and no request is in flight.
    pub(super) fn delta_decision(&mut self) -> Option<bool> {
        let on = self.policy.verdict().filter(|_| !self.toggling)?;
        self.toggling = true;
        Some(on)
    }
}

impl Channels {
    /// Appends a toggle entry, unless the toggle already has this state.
    pub(super) fn request_delta_toggle(&mut self, channel_id: ChannelId, on: bool) {
        let backend = self.backend.clone();
        self.jobs.spawn(async move {
            let result = backend.switch_deltas(&channel_id, on).await;
            JobResult::DeltasToggled(channel_id, on, result)
        });
    }

    pub(super) fn on_deltas_toggled(
        &mut self,
        channel_id: &ChannelId,
        on: bool,
        result: Result<(), BackendError>,
    ) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.toggling = false;
        match result {
            // The toggle may have had this state already, so that no entry follows.
            Ok(()) => channel.policy.set(on),
            Err(error) => tracing::debug!(%channel_id, %error, "delta toggle not appended; will be retried"),
        }
    }

    /// Applies a toggle entry of the cluster.
    pub(super) fn set_deltas(&mut self, channel_id: &ChannelId, on: bool) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        metrics().delta_toggles.increment(1);
        tracing::debug!(%channel_id, on, "delta toggle changed");
        channel.policy.set(on);
    }
}
