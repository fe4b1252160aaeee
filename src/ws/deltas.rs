//! Opting in to deltas (protocol.md 3.2), and saying that a base is missing (3.10).

use std::time::Instant;

use bytes::Bytes;

use super::connection::Connection;
use crate::channel::{ChannelId, ChannelKind, ChannelName};
use crate::channels;
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDelta;
use crate::fan_out::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::command::DeltaRequest;
use crate::wire::reply;

impl Connection {
    /// The socket's own opt-in: holds for every subscription that has said
    /// nothing of its own, before or after, and erases nothing.
    pub(super) async fn enable_deltas(&mut self, accepted: Vec<Algorithm>) {
        let preferred = self.node.delta.algorithm;
        let chosen = Algorithm::choose(preferred, &accepted).filter(|_| self.node.delta.enabled);
        self.write_buffer.send(reply::delta_enabled(self.event_prefix, None, chosen.map(Algorithm::name)));
        if chosen.is_none() || !self.accepted.is_empty() {
            return;
        }
        self.accepted = accepted.into();
        let unsaid = self.subscriptions.iter().filter(|(_, subscription)| !subscription.requests_deltas);
        let channels: Vec<ChannelName> = unsaid.map(|(channel, _)| channel.clone()).collect();
        for channel in channels {
            let Some(algorithm) = self.algorithm_for(&channel, &DeltaRequest::Unspecified) else { continue };
            let channel_id = ChannelId::new(&self.app.id, &channel);
            self.node
                .channels
                .send(channels::Command::EnableDeltas { channel_id, socket: self.socket, algorithm })
                .await;
        }
    }

    /// The format of a subscription's deltas, if it gets any. The server only
    /// permits; it is the client that asks.
    ///
    /// Where they are disabled for the channel it is as if all events were too small:
    /// an event that asks for it itself is a delta all the same (protocol.md 3.11).
    pub(super) fn algorithm_for(&self, channel: &ChannelName, request: &DeltaRequest) -> Option<Algorithm> {
        let accepted: &[Algorithm] = match request {
            DeltaRequest::Off => &[],
            DeltaRequest::Unspecified => &self.accepted,
            DeltaRequest::On { algorithms } => algorithms,
        };
        let may_be = self.node.delta.enabled && !self.is_refused_deltas && !never_has_deltas(channel);
        Algorithm::choose(self.deltas_on(channel).algorithm, accepted).filter(|_| may_be)
    }

    /// The answer to an opt-in for one channel. On encrypted channels and those of
    /// users deltas are off without a word (protocol.md 3.12).
    pub(super) fn delta_confirmation(
        &self,
        channel: &ChannelName,
        request: &DeltaRequest,
        options: &DeliveryOptions,
    ) -> Bytes {
        let DeltaRequest::On { algorithms } = request else { return Bytes::new() };
        if never_has_deltas(channel) {
            return Bytes::new();
        }
        let deltas = self.deltas_on(channel);
        // Who decodes no deltas is answered as if it did.
        let chosen = options.algorithm.or(Algorithm::choose(deltas.algorithm, algorithms));
        let algorithm = chosen.filter(|_| deltas.enabled).map(Algorithm::name);
        reply::delta_enabled(self.event_prefix, Some(channel.as_str()), algorithm)
    }

    fn deltas_on(&self, channel: &ChannelName) -> ChannelDelta {
        self.app.deltas.on(channel.as_str(), &self.node.delta)
    }

    /// The client has no base: its next event is full.
    pub(super) async fn resync(&mut self, channel: &str) {
        let Some((channel, _)) = self.subscriptions.get_key_value(channel) else { return };
        let channel = channel.clone();
        if self.may_sync(&channel) {
            metrics().delta_resyncs.increment(1);
            let channel_id = ChannelId::new(&self.app.id, &channel);
            self.node.channels.send(channels::Command::Resync { channel_id, socket: self.socket }).await;
        } else {
            metrics().delta_resyncs_ignored.increment(1);
        }
    }

    /// Whether a client may name the position that it resumes from. To do that on a
    /// channel that it is on is another way to say that it has no base.
    pub(super) fn may_resume(&mut self, channel: &ChannelName) -> bool {
        !self.subscriptions.contains_key(channel) || self.may_sync(channel)
    }

    /// Once a second at most: full events are what deltas are there to avoid.
    fn may_sync(&mut self, channel: &ChannelName) -> bool {
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
