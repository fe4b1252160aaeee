//! Admission: a pending subscription is confirmed, receives the entries since its
//! membership update, and becomes live. Frames are in the order of protocol.md 2.4; see
//! also 2.12, 3.9 and docs/resume.md.

use bytes::Bytes;

use super::Channels;
use super::catch_up::CatchUpEncoder;
use super::channel::{CatchUpBuffer, Channel, PendingSubscription, State};
use super::delivery::{broadcast_member_change, missed_frames};
use super::position_notices::first_position;
use super::recovery::{Recovery, start_of};
use crate::backend::Cached;
use crate::channel::{ChannelId, ChannelName};
use crate::delta::chain::Chains;
use crate::delta::settings::DeltaConfig;
use crate::entry::Position;
use crate::event::SocketId;
use crate::fan_out::SocketIdentity;
use crate::sockets::push;
use crate::subscribers::Subscriber;
use crate::wire::reply;
use crate::wire::resume::Standing;

/// A pending subscription with nothing left to wait for.
struct Admission {
    socket: SocketId,
    subscriber: Subscriber,
    confirmation: Bytes,
    succeeds: bool,
    recovery: Recovery,
    /// Position at which the subscription begins.
    at: Position,
    total: Option<u64>,
    last: Option<Box<Cached>>,
    /// For subscribers with positions enabled.
    start: Option<Standing>,
}

impl Channels {
    pub(super) fn admit_one(&mut self, channel_id: &ChannelId, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let Some(pending) = channel.pending.remove(&socket) else { return };
        self.pending -= 1;
        let Some(admission) = channel.admission(socket, pending) else { return };
        let member = admission.subscriber.member.as_ref();
        if let (Some(presence), Some(member)) = (&mut channel.presence, member)
            && let Some(change) = presence.admit(member)
        {
            broadcast_member_change(channel_id, &channel.subscribers, &change, &mut self.to_flush);
        }
        let mut frames = channel.confirm(channel_id, &admission);
        let held = channel.catch_up(channel_id, &admission, &self.delta, &mut frames);
        frames.extend(channel.position_notice(channel_id, &admission));
        for frame in frames {
            push(&admission.subscriber.write_buffer, frame, &mut self.to_flush);
        }
        let (is_user, next) = (channel.watch.is_some(), channel.next_seq());
        channel.subscribers.add(socket, admission.subscriber, &held, next);
        if is_user {
            self.send_initial_status(socket);
        }
    }
}

impl Channel {
    fn admission(&self, socket: SocketId, pending: PendingSubscription) -> Option<Admission> {
        let PendingSubscription { subscriber, confirmation, succeeds, mut recovery, state } = pending;
        let State::Registered { mut at, total, last, .. } = state else { return None };
        if self.catch_up_buffer.as_ref().is_some_and(CatchUpBuffer::has_overflowed) {
            // The buffered entries are incomplete, so the subscription begins at the current
            // position.
            recovery.lose();
            at = self.sequencer.position().unwrap_or_default();
        }
        let start = subscriber.options.positions.then(|| start_of(&recovery, at));
        Some(Admission { socket, subscriber, confirmation, succeeds, recovery, at, total, last, start })
    }

    /// Frames that confirm the subscription; empty when it is only restarted.
    fn confirm(&mut self, channel_id: &ChannelId, admission: &Admission) -> Vec<Bytes> {
        if !admission.succeeds {
            return Vec::new();
        }
        let (event_prefix, start) = (admission.subscriber.options.event_prefix, admission.start);
        let succeeded = match &mut self.presence {
            Some(presence) => Some(presence.succeeded(event_prefix, channel_id.channel(), start)),
            // Without positions, `subscription_succeeded` is part of `confirmation`.
            None => start.map(|_| reply::subscription_succeeded(event_prefix, channel_id.channel(), start)),
        };
        succeeded.into_iter().chain([admission.confirmation.clone()]).collect()
    }

    /// Appends the missed entries and the initial bases to `frames`. Returns the bases
    /// that the client has afterwards.
    fn catch_up(
        &mut self,
        channel_id: &ChannelId,
        admission: &Admission,
        config: &DeltaConfig,
        frames: &mut Vec<Bytes>,
    ) -> Chains {
        let Admission { socket, subscriber, recovery, at, total, last, .. } = admission;
        let (options, event_prefix) = (&subscriber.options, subscriber.options.event_prefix);
        let mut encoder = CatchUpEncoder {
            channel: channel_id.channel(),
            options,
            identity: SocketIdentity {
                socket: *socket,
                previous_socket_ids: &subscriber.previous_socket_ids,
            },
            config,
            deltas: &self.deltas,
            policy: self.policy.clone(),
            held: Chains::default(),
        };
        let is_new = total.is_some() && !matches!(recovery, Recovery::Recovered { .. });
        if is_new && ChannelName::is_cache_name(channel_id.channel()) {
            let cached = last.as_ref().map(|cached| encoder.cached(cached)).filter(|it| !it.is_empty());
            frames.push(cached.unwrap_or_else(|| reply::cache_miss(event_prefix, channel_id.channel())));
        }
        if let Some(total) = total.filter(|_| self.reports_counts()) {
            // The count entry of this subscription was published before the admission.
            frames.push(reply::subscription_count(event_prefix, channel_id.channel(), total));
        }
        if let Recovery::Recovered { missed, .. } = recovery {
            frames.push(missed.frames.clone());
            encoder.held = missed.held.clone();
        }
        let mut epoch = at.epoch;
        for entry in &self.missed_since(*at) {
            if options.positions && std::mem::replace(&mut epoch, entry.epoch) != entry.epoch {
                frames.push(first_position(channel_id, event_prefix, entry, at.epoch != 0));
            }
            frames.push(missed_frames(channel_id, entry, event_prefix, &mut encoder));
        }
        let held = encoder.held;
        if recovery.keeps_bases() {
            return held;
        }
        match self.first_bases(channel_id, options, config) {
            Some((frame, bases)) => {
                frames.push(frame);
                bases
            }
            None => held,
        }
    }

    /// A position notice, if the channel has moved since `start`.
    fn position_notice(&mut self, channel_id: &ChannelId, admission: &Admission) -> Option<Bytes> {
        let Position { epoch, seq, .. } = self.sequencer.position().unwrap_or_default();
        if self.subscribers.is_empty() {
            self.notified_epoch = epoch;
        }
        let event_prefix = admission.subscriber.options.event_prefix;
        let outdated = admission.start.filter(|start| (start.epoch, start.seq) != (epoch, seq));
        outdated.map(|_| reply::position(event_prefix, channel_id.channel(), epoch, seq, false))
    }
}
