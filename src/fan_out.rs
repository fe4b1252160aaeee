//! Room 6: a delivery becomes frames, once per event and options, however many
//! sockets will get them.
//!
//! Three kinds: *plain*, exactly Pusher's; *full*, marked with its sequence
//! number, for sockets with deltas; *delta*, for those of them that hold the base.
//! Subscribers with equal forms are one group, and share chains and buffers.

mod base_state;
pub mod delivery_options;
mod encoded_batch;
mod event_frames;
mod group;
mod shared_slab;

use bytes::Bytes;

pub use base_state::BaseState;
pub use delivery_options::DeliveryOptions;
pub use group::Groups;

use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::event::{Event, SocketId};
use encoded_batch::EncodedBatch;
use event_frames::EventFrames;

/// A batch of events on one channel, in order, ready to be announced to sockets.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub channel: &'a str,
    pub first_seq: u64,
    pub time_ms: u64,
    pub events: &'a [Event],
    /// Published by a backend: what clients send is never a base.
    pub is_chained: bool,
}

/// What bases for deltas on the channel.
#[derive(Debug)]
pub struct EncodingContext<'a> {
    pub config: &'a DeltaConfig,
    pub channel: &'a ChannelDelta,
    pub policy: &'a mut Policy,
}

/// The frames of a delivery, for each group.
#[derive(Debug)]
pub struct Frames {
    /// Whom each event excepts.
    excepts: Vec<Option<SocketId>>,
    excepts_some: bool,
    batches: Vec<EncodedBatch>,
    deliveries: usize,
}

/// Encodes a delivery and moves the chains past it.
pub fn encode(delivery: &Delivery<'_>, groups: &mut Groups, context: &mut EncodingContext<'_>) -> Frames {
    let mut batches = groups.batches();
    for (at, (event, seq)) in delivery.events.iter().zip(delivery.first_seq..).enumerate() {
        groups.take(at, &mut EventFrames::new(delivery, event, seq, context), &mut batches);
    }
    batches.iter_mut().for_each(EncodedBatch::finish);
    let excepts: Vec<Option<SocketId>> = delivery.events.iter().map(|event| event.except).collect();
    Frames {
        excepts_some: excepts.iter().any(Option::is_some),
        excepts,
        deliveries: groups.deliveries(&batches),
        batches,
    }
}

/// Encodes a delivery for one socket that is not among the others yet. `held` are
/// the bases that it bases, before and after.
pub fn encode_for_one(
    delivery: &Delivery<'_>,
    options: &DeliveryOptions,
    identity: SocketIdentity<'_>,
    held: &mut Chains,
    context: &mut EncodingContext<'_>,
) -> Bytes {
    let mut alone = Groups::default();
    let (place, mut bases) = alone.enter(options, held, 0);
    let frames = encode(delivery, &mut alone, context).buffer_for(place, identity, &mut bases);
    *held = alone.into_chains();
    for key in bases.missing() {
        held.forget(key);
    }
    frames
}

/// The identity of a socket: its own, and those of previous_socket_ids connections of its client,
/// whose exceptions hold for it too.
#[derive(Debug, Clone, Copy)]
pub struct SocketIdentity<'a> {
    pub socket: SocketId,
    pub previous_socket_ids: &'a [SocketId],
}

impl Frames {
    /// The batch for a subscriber of the group at `place`: one buffer, shared by
    /// all who hold the same, but those whom an event excepts.
    pub fn buffer_for(&mut self, place: u32, identity: SocketIdentity<'_>, bases: &mut BaseState) -> Bytes {
        let batch = &mut self.batches[place as usize];
        if !self.excepts_some || !self.excepts.iter().flatten().any(|except| identity.has(*except)) {
            return batch.whole(bases);
        }
        batch.without(|at| self.excepts[at].is_some_and(|except| identity.has(except)), bases)
    }

    /// The places of groups of which somebody was not sent the last event: the
    /// channel has moved on without an event for it.
    pub fn cut_short(&self) -> impl Iterator<Item = u32> {
        let batches = self.batches.iter().zip(0..);
        batches.filter(|(batch, _)| batch.is_cut_short).map(|(_, place)| place)
    }

    /// Events times subscribers, for counting.
    pub fn deliveries(&self) -> usize {
        self.deliveries
    }
}

impl SocketIdentity<'_> {
    fn has(self, socket: SocketId) -> bool {
        self.socket == socket || self.previous_socket_ids.contains(&socket)
    }
}

#[cfg(test)]
mod tests;
