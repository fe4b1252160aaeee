//! What is next for a channel goes through rooms 6 and 7, to everyone who is here
//! or to one who enters.

use std::sync::Arc;

use bytes::Bytes;

use super::channel::{Channel, Entry, Joiner};
use crate::channel::Address;
use crate::delta::Chain;
use crate::delta::settings::DeltaConfig;
use crate::event::{Announcement, Event, SocketId};
use crate::fan_out::{self, Delivery, Needs};
use crate::hub::Form;
use crate::hub::outbox::Outbox;
use crate::metrics::metrics;

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
    if channel.hub.is_empty() {
        channel.chain.restart();
        return;
    }
    let Some(events) = events(address, announcement) else { return channel.chain.restart() };
    let delivery = delivery(address, announcement, &events);
    let mut frames = fan_out::encode(&delivery, channel.hub.needs(), &mut channel.chain, delta);
    channel.hub.deliver(announcement.id, &mut frames, channel.chain.next_index(), woken);
}

/// A joiner is confirmed, gets what everyone else has had since its script, and
/// is live.
pub(super) fn enter(
    address: &Address,
    channel: &mut Channel,
    socket: SocketId,
    joiner: Joiner,
    entry: &Entry,
    delta: &DeltaConfig,
    woken: &mut Vec<Arc<Outbox>>,
) {
    let mut subscriber = joiner.subscriber;
    send(&subscriber.outbox, joiner.confirmation, woken);
    match entry {
        Entry::After(id) => subscriber.joined_at = Some(*id),
        Entry::Now(missed) => {
            for announcement in missed {
                let Some(events) = events(address, announcement) else { continue };
                let chunk =
                    full_frames(&delivery(address, announcement, &events), socket, subscriber.form, delta);
                send(&subscriber.outbox, chunk, woken);
            }
        }
    }
    if let Form::Chained { holds_from } = &mut subscriber.form {
        *holds_from = channel.chain.next_index();
    }
    channel.hub.add(socket, subscriber);
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
    }
}

fn events(address: &Address, announcement: &Announcement) -> Option<Vec<Event>> {
    match announcement.events() {
        Ok(events) => Some(events),
        Err(error) => {
            metrics().announcements_unreadable.increment(1);
            tracing::warn!(%address, %error, "announcement not read");
            None
        }
    }
}

pub(super) fn send(outbox: &Arc<Outbox>, chunk: Bytes, woken: &mut Vec<Arc<Outbox>>) {
    if !chunk.is_empty() && outbox.push(chunk) {
        woken.push(outbox.clone());
    }
}
