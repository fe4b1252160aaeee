//! Delivery of the next entry of a channel: fan-out, then one push per subscriber.

use std::sync::Arc;

use bytes::Bytes;

use super::catch_up::CatchUpEncoder;
use super::channel::Channel;
use crate::channel::ChannelId;
use crate::delta::settings::DeltaConfig;
use crate::entry::{Body, Entry, Kind};
use crate::event::Event;
use crate::fan_out::{self, Delivery, EncodingContext};
use crate::metrics::metrics;
use crate::presence::MemberChange;
use crate::sockets::write_buffer::WriteBuffer;
use crate::subscribers::Subscribers;
use crate::wire::close::Close;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

/// Stages 6 and 7 (design.md 2): encodes the frames once and pushes them to every
/// subscriber.
pub(super) fn deliver(
    channel_id: &ChannelId,
    channel: &mut Channel,
    entry: &Entry,
    delta: &DeltaConfig,
    to_flush: &mut Vec<Arc<WriteBuffer>>,
) {
    if let Some(catch_up_buffer) = &mut channel.catch_up_buffer {
        catch_up_buffer.push(entry.clone());
    }
    let Some(body) = read(channel_id, entry) else { return channel.subscribers.groups().restart() };
    match body {
        Body::Events(events) | Body::ClientEvents(events) => {
            return deliver_events(channel_id, channel, entry, &events, delta, to_flush);
        }
        Body::Members(changes) => {
            let Some(presence) = &mut channel.presence else { return };
            for change in changes.iter().filter(|change| presence.apply(change)) {
                broadcast_member_change(channel_id, &channel.subscribers, change, to_flush);
            }
        }
        Body::SubscriptionCount(count) => {
            channel.subscribers.broadcast(
                |event_prefix| reply::subscription_count(event_prefix, channel_id.channel(), count),
                to_flush,
            );
        }
        Body::Termination => {
            // The connections of pending subscriptions are signed in as the user too.
            let pending = channel.pending.values().map(|pending| &pending.subscriber.write_buffer);
            for write_buffer in channel.subscribers.write_buffers().chain(pending) {
                write_buffer.close(Close::Terminated);
            }
        }
        // No frame on this channel. The caller applies the first two.
        Body::UserStatus { .. } | Body::Deltas { .. } | Body::Unknown => {}
    }
    channel.subscribers.groups().mark_all_behind();
}

fn deliver_events(
    channel_id: &ChannelId,
    channel: &mut Channel,
    entry: &Entry,
    events: &[Event],
    delta: &DeltaConfig,
    to_flush: &mut Vec<Arc<WriteBuffer>>,
) {
    let is_chained = entry.kind == Kind::Events;
    if let Some(initial_bases) = channel.initial_bases.as_mut().filter(|_| is_chained) {
        initial_bases.record(entry, events, &channel.deltas);
    }
    if channel.subscribers.is_empty() {
        return;
    }
    let Entry { first_seq, time_ms, .. } = *entry;
    let delivery = Delivery { channel: channel_id.channel(), first_seq, time_ms, events, is_chained };
    let mut context =
        EncodingContext { config: delta, channel: &channel.deltas, policy: &mut channel.policy };
    let mut frames = fan_out::encode(&delivery, channel.subscribers.groups(), &mut context);
    channel.subscribers.deliver(&mut frames, to_flush);
}

/// Sends `member_added` or `member_removed` to all subscribers.
pub(super) fn broadcast_member_change(
    channel_id: &ChannelId,
    subscribers: &Subscribers,
    change: &MemberChange,
    to_flush: &mut Vec<Arc<WriteBuffer>>,
) {
    let channel = channel_id.channel();
    let frame = |event_prefix| match change {
        MemberChange::Added { user_id, info } => reply::member_added(event_prefix, channel, user_id, info),
        MemberChange::Removed { user_id } => reply::member_removed(event_prefix, channel, user_id),
    };
    subscribers.broadcast(frame, to_flush);
}

/// The frames of an entry that a pending subscription missed. Member changes have none:
/// the roster in its confirmation includes them.
pub(super) fn missed_frames(
    channel_id: &ChannelId,
    entry: &Entry,
    event_prefix: EventPrefix,
    encoder: &mut CatchUpEncoder<'_>,
) -> Bytes {
    match read(channel_id, entry) {
        Some(Body::Events(events) | Body::ClientEvents(events)) => encoder.frames(entry, &events, 0),
        Some(Body::SubscriptionCount(count)) => {
            reply::subscription_count(event_prefix, channel_id.channel(), count)
        }
        _ => Bytes::new(),
    }
}

pub(super) fn read(channel_id: &ChannelId, entry: &Entry) -> Option<Body> {
    match entry.read() {
        Ok(body) => Some(body),
        Err(error) => {
            metrics().entries_unreadable.increment(1);
            tracing::warn!(%channel_id, %error, "entry is unreadable; skipped");
            None
        }
    }
}
