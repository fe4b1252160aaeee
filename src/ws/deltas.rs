//! Enabling deltas (protocol.md 3.2), and reports of missing bases (3.10).

use std::time::Instant;

use super::connection::Connection;
use crate::channel::{ChannelKind, ChannelName};
use crate::channels::{ChannelCommand, DeltasReply};
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDelta;
use crate::encode::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::command::DeltaRequest;
use crate::wire::reply;

impl Connection {
    /// Enables deltas for the connection: for every subscription, existing or later, that has
    /// no `delta` of its own. Resets neither options nor bases.
    pub(super) async fn enable_deltas(&mut self, accepted: Vec<Algorithm>) {
        let preferred = self.node.delta.algorithm;
        let chosen = Algorithm::choose(preferred, &accepted).filter(|_| self.node.delta.enabled);
        self.write_buffer.send(reply::delta_enabled(self.event_prefix, None, chosen.map(Algorithm::name)));
        if chosen.is_none() || !self.accepted_algorithms.is_empty() {
            return;
        }
        self.accepted_algorithms = accepted.into();
        let unspecified = self.subscriptions.iter().filter(|(_, subscription)| !subscription.requests_deltas);
        let channels: Vec<ChannelName> = unspecified.map(|(channel, _)| channel.clone()).collect();
        for channel in channels {
            let Some(algorithm) = self.algorithm_for(&channel, &DeltaRequest::Unspecified) else { continue };
            self.send(&channel, ChannelCommand::EnableDeltas { socket: self.socket, algorithm }).await;
        }
    }

    /// The format of a subscription's deltas, or `None` without deltas. Settings only permit
    /// deltas; the client requests them.
    ///
    /// A channel whose deltas are disabled still has a format: an event with `"delta":true` is
    /// sent as a delta there too (protocol.md 3.11).
    pub(super) fn algorithm_for(&self, channel: &ChannelName, request: &DeltaRequest) -> Option<Algorithm> {
        let accepted: &[Algorithm] = match request {
            DeltaRequest::Off => &[],
            DeltaRequest::Unspecified => &self.accepted_algorithms,
            DeltaRequest::On { algorithms } => algorithms,
        };
        let is_permitted = self.node.delta.enabled && !self.is_refused_deltas && !never_has_deltas(channel);
        Algorithm::choose(self.delta_settings(channel).algorithm, accepted).filter(|_| is_permitted)
    }

    /// The content of `delta_compression_enabled` for a subscription whose `delta` means on,
    /// else `None`. Encrypted channels and user channels have no deltas and no confirmation
    /// (protocol.md 3.12).
    pub(super) fn deltas_reply(
        &self,
        channel: &ChannelName,
        request: &DeltaRequest,
        options: &DeliveryOptions,
    ) -> Option<DeltasReply> {
        let DeltaRequest::On { algorithms } = request else { return None };
        if never_has_deltas(channel) {
            return None;
        }
        let settings = self.delta_settings(channel);
        // A client without a working decoder is confirmed like any other (protocol.md 3.6).
        let chosen = options.algorithm.or(Algorithm::choose(settings.algorithm, algorithms));
        Some(DeltasReply(chosen.filter(|_| settings.enabled)))
    }

    fn delta_settings(&self, channel: &ChannelName) -> ChannelDelta {
        self.app.deltas.on(channel.as_str(), &self.node.delta)
    }

    /// Handles `delta_sync_error`: the client lacks a base, so its next event of each chain is
    /// full. Ignored without a subscription, and above the limit of [`Self::admits_sync`].
    pub(super) async fn resync(&mut self, channel: &str) {
        let Some((channel, _)) = self.subscriptions.get_key_value(channel) else { return };
        let channel = channel.clone();
        if self.admits_sync(&channel) {
            metrics().delta_resyncs.increment(1);
            self.send(&channel, ChannelCommand::Resync { socket: self.socket }).await;
        } else {
            metrics().delta_resyncs_ignored.increment(1);
        }
    }

    /// Whether a subscription may resume from a position. A resume on a channel with an existing
    /// subscription clears its bases, so it counts against the limit of `delta_sync_error`
    /// (protocol.md 2.13, 3.10).
    pub(super) fn admits_resume(&mut self, channel: &ChannelName) -> bool {
        !self.subscriptions.contains_key(channel) || self.admits_sync(channel)
    }

    /// Rate limit of full events on request: one per channel and
    /// [`limits::DELTA_SYNC_INTERVAL`], because full events are what deltas avoid.
    fn admits_sync(&mut self, channel: &ChannelName) -> bool {
        let Some(subscription) = self.subscriptions.get_mut(channel) else { return false };
        if subscription.synced.is_some_and(|synced| synced.elapsed() < limits::DELTA_SYNC_INTERVAL) {
            return false;
        }
        subscription.synced = Some(Instant::now());
        true
    }
}

fn never_has_deltas(channel: &ChannelName) -> bool {
    matches!(channel.kind(), ChannelKind::Encrypted | ChannelKind::User)
}
