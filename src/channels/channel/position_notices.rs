//! Position notices: the current position, for subscribers with positions whose channel
//! has moved without an event for them (docs/resume.md).

use bytes::Bytes;

use super::state::Channel;
use crate::channels::context::Context;
use crate::encode::DeliveryOptions;
use crate::entry::{Entry, Position};
use crate::metrics::metrics;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

impl Channel {
    /// Sends the position to subscribers that are behind. Called
    /// [`crate::limits::POSITION_DELAY`] after an entry without an event for them; an event
    /// may have come first.
    pub(super) fn send_position_notices(&mut self, context: &mut Context<'_>) {
        let Some(Position { epoch, seq, .. }) = self.sequencer.position() else { return };
        let behind = self.subscribers.groups().take_behind();
        metrics().position_notices.increment(behind.len() as u64);
        let frame = |event_prefix| reply::position(event_prefix, self.id.channel(), epoch, seq, false);
        self.subscribers.broadcast_by_group(
            |group, options| behind.contains(&group).then(|| frame(options.event_prefix)),
            &mut context.effects.to_flush,
        );
    }

    /// Sends a position notice for a new epoch that begins without a gap: the first epoch
    /// of the channel, or the one after a fork.
    pub(super) fn send_epoch_notices(&mut self, next: &Entry, context: &mut Context<'_>) {
        if std::mem::replace(&mut self.notified_epoch, next.epoch) == next.epoch {
            return;
        }
        let frame = |event_prefix| first_position(self.id.channel(), event_prefix, next);
        self.subscribers.broadcast_by_group(
            |_, options| options.positions.then(|| frame(options.event_prefix)),
            &mut context.effects.to_flush,
        );
    }

    /// Notifies subscribers of a break in the channel's history.
    pub(super) fn send_break_notices(&mut self, position: Position, context: &mut Context<'_>) {
        self.notified_epoch = position.epoch;
        let frames = |options: &DeliveryOptions| {
            let frames: Vec<Bytes> = self.break_frames(options, position).collect();
            (!frames.is_empty()).then(|| frames.concat().into())
        };
        self.subscribers.broadcast_by_group(|_, options| frames(options), &mut context.effects.to_flush);
    }

    /// The notice of a break in the channel's history, which continues from `position`: bases are
    /// invalid, and events may be missing.
    pub(super) fn break_frames(
        &self,
        options: &DeliveryOptions,
        Position { epoch, seq, .. }: Position,
    ) -> impl Iterator<Item = Bytes> {
        let (channel, event_prefix) = (self.id.channel(), options.event_prefix);
        let has_chains = self.deltas.conflation_key.is_some() && options.algorithm.is_some();
        let sync = has_chains.then(|| reply::delta_cache_sync(event_prefix, channel, &self.deltas, &[]));
        let position = options.positions.then(|| reply::position(event_prefix, channel, epoch, seq, true));
        sync.into_iter().chain(position)
    }
}

/// A position notice for the position before an epoch's first entry, which follows without a gap.
pub(super) fn first_position(channel: &str, event_prefix: EventPrefix, first: &Entry) -> Bytes {
    let Position { epoch, seq, .. } = first.before();
    reply::position(event_prefix, channel, epoch, seq, false)
}
