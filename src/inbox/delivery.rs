//! What is next for a channel goes through rooms 6 and 7, to everyone who is here
//! or to one who enters.

use std::sync::Arc;

use bytes::Bytes;

use super::channel::Channel;
use crate::announcement::{Announcement, Body, Kind};
use crate::backend::Cached;
use crate::channel::Address;
use crate::delta::Chain;
use crate::delta::settings::DeltaConfig;
use crate::event::{Event, SocketId};
use crate::fan_out::{self, Delivery, Needs};
use crate::hub::outbox::Outbox;
use crate::hub::{Form, Hub};
use crate::metrics::metrics;
use crate::presence::MemberChange;
use crate::wire::close::Close;
use crate::wire::reply;

/// Rooms 6 and 7: frames once, then to everyone who is here.
pub(super) fn deliver(
    address: &Address,
    channel: &mut Channel,
    announcement: &Announcement,
    delta: &DeltaConfig,
    woken: &mut Vec<Arc<Outbox>>,
) {
    if let Some(recent) = &mut channel.recent {
        recent.push(announcement.clone());
    }
    let Some(body) = read(address, announcement) else { return channel.chain.restart() };
    match body {
        Body::Events(events) | Body::ClientEvents(events) => {
            deliver_events(address, channel, announcement, &events, delta, woken);
        }
        Body::Members(changes) => {
            let Some(presence) = &mut channel.presence else { return };
            for change in changes.iter().filter(|change| presence.apply(change)) {
                tell_change(address, &channel.hub, change, woken);
            }
        }
        Body::SubscriptionCount(count) => {
            channel.hub.tell(&reply::subscription_count(address.channel(), count), woken);
        }
        Body::Termination => {
            // Who is joining has signed in already.
            let joining = channel.joining.values().map(|joiner| &joiner.subscriber.outbox);
            for outbox in channel.hub.outboxes().chain(joining) {
                outbox.close(Close::Terminated);
            }
        }
        // Watchers are told by the desk, which knows them.
        Body::UserStatus { .. } | Body::Unknown => {}
    }
}

fn deliver_events(
    address: &Address,
    channel: &mut Channel,
    announcement: &Announcement,
    events: &[Event],
    delta: &DeltaConfig,
    woken: &mut Vec<Arc<Outbox>>,
) {
    if channel.hub.is_empty() {
        return channel.chain.restart();
    }
    let delivery = delivery(address, announcement, events);
    let mut frames = fan_out::encode(&delivery, channel.hub.needs(), &mut channel.chain, delta);
    channel.hub.deliver(&mut frames, woken);
}

/// A member has come or gone.
pub(super) fn tell_change(address: &Address, hub: &Hub, change: &MemberChange, woken: &mut Vec<Arc<Outbox>>) {
    let frame = match change {
        MemberChange::Added { user_id, info } => reply::member_added(address.channel(), user_id, info),
        MemberChange::Removed { user_id } => reply::member_removed(address.channel(), user_id),
    };
    hub.tell(&frame, woken);
}

/// What a joiner is owed of what everyone else has had. Who is here it knows from
/// the roster.
pub(super) fn missed_frames(
    address: &Address,
    announcement: &Announcement,
    socket: SocketId,
    form: Form,
    delta: &DeltaConfig,
) -> Bytes {
    match read(address, announcement) {
        Some(Body::Events(events) | Body::ClientEvents(events)) => {
            full_frames(&delivery(address, announcement, &events), socket, form, delta)
        }
        Some(Body::SubscriptionCount(count)) => reply::subscription_count(address.channel(), count),
        _ => Bytes::new(),
    }
}

/// The last event of a cache channel, for one who joins it (protocol.md 2.12).
pub(super) fn cached_frame(
    address: &Address,
    cached: &Cached,
    socket: SocketId,
    form: Form,
    delta: &DeltaConfig,
) -> Bytes {
    let Cached { seq, time_ms, ref event, .. } = *cached;
    // Its sender has left meanwhile, or comes back as another.
    let events = [Event { except: None, ..event.clone() }];
    let delivery =
        Delivery { channel: address.channel(), first_seq: seq, time_ms, events: &events, is_chained: true };
    full_frames(&delivery, socket, form, delta)
}

/// A run in full for one socket, outside the channel's chain.
fn full_frames(delivery: &Delivery<'_>, socket: SocketId, form: Form, delta: &DeltaConfig) -> Bytes {
    let chained = matches!(form, Form::Chained { .. });
    let needs = Needs { plain: !chained, delta: chained };
    // Deltas within the run are made against its own first event.
    let mut frames = fan_out::encode(delivery, needs, &mut Chain::default(), delta);
    match chained {
        true => frames.chained_for(socket, &mut 0),
        false => frames.plain_for(socket),
    }
}

fn delivery<'a>(address: &'a Address, announcement: &Announcement, events: &'a [Event]) -> Delivery<'a> {
    Delivery {
        channel: address.channel(),
        first_seq: announcement.first_seq,
        time_ms: announcement.time_ms,
        events,
        is_chained: announcement.kind == Kind::Events,
    }
}

pub(super) fn read(address: &Address, announcement: &Announcement) -> Option<Body> {
    match announcement.read() {
        Ok(body) => Some(body),
        Err(error) => {
            metrics().announcements_unreadable.increment(1);
            tracing::warn!(%address, %error, "announcement not read");
            None
        }
    }
}
