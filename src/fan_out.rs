//! Stage 6 of a batch's path: encodes a delivery into frames, once per event and group,
//! whatever the number of connections.
//!
//! There are three kinds of frames: *plain*, exactly as in the Pusher protocol; *full*,
//! marked with the sequence number, for connections with deltas; *delta*, for those of
//! them that have the base. Subscribers with equal delivery options form a group, which
//! shares chains and buffers.

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

/// Consecutive events of one channel, ready to be encoded and sent.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub channel: &'a str,
    pub first_seq: u64,
    pub time_ms: u64,
    pub events: &'a [Event],
    /// Published by a backend. Client events are in no chain and never a base.
    pub is_chained: bool,
}

/// Settings and the delta toggle of the channel.
#[derive(Debug)]
pub struct EncodingContext<'a> {
    pub config: &'a DeltaConfig,
    pub channel: &'a ChannelDelta,
    pub policy: &'a mut Policy,
}

/// The encoded frames of a delivery, for each group.
#[derive(Debug)]
pub struct Frames {
    /// The excluded connection of each event: `socket_id` of the publish.
    excluded: Vec<Option<SocketId>>,
    excludes_any: bool,
    batches: Vec<EncodedBatch>,
    deliveries: usize,
}

/// Encodes a delivery for all groups and advances their chains.
pub fn encode(delivery: &Delivery<'_>, groups: &mut Groups, context: &mut EncodingContext<'_>) -> Frames {
    let mut batches = groups.batches();
    for (index, (event, seq)) in delivery.events.iter().zip(delivery.first_seq..).enumerate() {
        groups.encode_event(index, &mut EventFrames::new(delivery, event, seq, context), &mut batches);
    }
    batches.iter_mut().for_each(EncodedBatch::finish);
    let excluded: Vec<Option<SocketId>> = delivery.events.iter().map(|event| event.except).collect();
    Frames {
        excludes_any: excluded.iter().any(Option::is_some),
        excluded,
        deliveries: groups.deliveries(&batches),
        batches,
    }
}

/// Encodes a delivery for one connection that is in no group yet. `held` are the bases
/// of the client, before the call and after it.
pub fn encode_for_one(
    delivery: &Delivery<'_>,
    options: &DeliveryOptions,
    identity: SocketIdentity<'_>,
    held: &mut Chains,
    context: &mut EncodingContext<'_>,
) -> Bytes {
    let mut groups_of_one = Groups::default();
    let (group, mut base_state) = groups_of_one.enter(options, held, 0);
    let frames = encode(delivery, &mut groups_of_one, context).buffer_for(group, identity, &mut base_state);
    *held = groups_of_one.into_chains();
    for key in base_state.missing() {
        held.forget(key);
    }
    frames
}

/// The socket id of a connection, and the previous ones of the same client: an
/// exclusion of any of them applies.
#[derive(Debug, Clone, Copy)]
pub struct SocketIdentity<'a> {
    pub socket: SocketId,
    pub previous_socket_ids: &'a [SocketId],
}

impl Frames {
    /// The buffer for one subscriber of `group`. Subscribers with the same bases share
    /// one buffer, unless an event excludes one of them.
    pub fn buffer_for(
        &mut self,
        group: u32,
        identity: SocketIdentity<'_>,
        base_state: &mut BaseState,
    ) -> Bytes {
        let batch = &mut self.batches[group as usize];
        if !self.excludes_any || !self.excluded.iter().flatten().any(|except| identity.has(*except)) {
            return batch.whole(base_state);
        }
        batch.without(|at| self.excluded[at].is_some_and(|except| identity.has(except)), base_state)
    }

    /// Groups with a subscriber that was excluded from the last event: the channel has
    /// moved without an event for it.
    pub fn groups_behind(&self) -> impl Iterator<Item = u32> {
        let batches = self.batches.iter().zip(0..);
        batches.filter(|(batch, _)| batch.omits_last).map(|(_, group)| group)
    }

    /// Events times subscribers, for the metric.
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
