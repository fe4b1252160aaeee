//! Position notices: the current position, for subscribers with positions whose channel
//! has moved without an event for them (docs/resume.md).

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Channels;
use super::channel::Channel;
use crate::channel::ChannelId;
use crate::entry::{Entry, Position};
use crate::fan_out::DeliveryOptions;
use crate::metrics::metrics;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

impl Channel {
    /// Returns true once after an entry without an event for every subscriber. The
    /// notices follow after [`crate::limits::POSITION_DELAY`], unless an event comes
    /// first.
    pub(super) fn position_falls_due(&mut self) -> bool {
        let is_new = !self.position_due && self.subscribers.groups().is_behind();
        self.position_due |= is_new;
        is_new
    }

    /// Sends a position notice for a new epoch that begins without a gap: the first epoch
    /// of the channel, or the one after a fork.
    pub(super) fn send_epoch_notices(
        &mut self,
        channel_id: &ChannelId,
        next: &Entry,
        to_flush: &mut Vec<Arc<WriteBuffer>>,
    ) {
        if std::mem::replace(&mut self.notified_epoch, next.epoch) == next.epoch {
            return;
        }
        let frame = |event_prefix| first_position(channel_id, event_prefix, next, false);
        self.subscribers.broadcast_by_group(
            |_, options| options.positions.then(|| frame(options.event_prefix)),
            to_flush,
        );
    }
}

impl Channels {
    pub(super) fn send_due_position_notices(&mut self, now: Instant) {
        while self.position_notices.front().is_some_and(|(due, _)| *due <= now) {
            let (_, channel_id) = self.position_notices.pop_front().expect("the front was checked");
            let Some(channel) = self.channels.get_mut(&channel_id) else { continue };
            channel.position_due = false;
            let Some(position) = channel.sequencer.position() else { continue };
            let behind = channel.subscribers.groups().take_behind();
            metrics().position_notices.increment(behind.len() as u64);
            let frame = |event_prefix| {
                reply::position(event_prefix, channel_id.channel(), position.epoch, position.seq, false)
            };
            channel.subscribers.broadcast_by_group(
                |group, options| behind.contains(&group).then(|| frame(options.event_prefix)),
                &mut self.to_flush,
            );
        }
    }

    /// Notifies subscribers of a break in the channel's history: their bases are invalid,
    /// and events may be missing.
    pub(super) fn send_break_notices(&mut self, channel_id: &ChannelId, position: Position) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.notified_epoch = position.epoch;
        let is_keyed = channel.deltas.conflation_key.is_some();
        let frame = |options: &DeliveryOptions| {
            let mut frames = Vec::new();
            if is_keyed && options.algorithm.is_some() {
                frames.extend(reply::delta_cache_sync(
                    options.event_prefix,
                    channel_id.channel(),
                    &channel.deltas,
                    &[],
                ));
            }
            if options.positions {
                let Position { epoch, seq, .. } = position;
                frames.extend(reply::position(options.event_prefix, channel_id.channel(), epoch, seq, true));
            }
            (!frames.is_empty()).then(|| frames.into())
        };
        channel.subscribers.broadcast_by_group(|_, options| frame(options), &mut self.to_flush);
    }
}

/// A position notice for the position before an epoch's first entry; `missed` if
/// earlier events may be lost.
pub(super) fn first_position(
    channel_id: &ChannelId,
    event_prefix: EventPrefix,
    first: &Entry,
    missed: bool,
) -> Bytes {
    reply::position(event_prefix, channel_id.channel(), first.epoch, first.first_seq - 1, missed)
}
