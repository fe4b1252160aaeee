//! From one delivery to the frames of every group: each event is encoded once per group,
//! whatever the number of connections.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::base_state::BaseState;
use super::encoded_batch::EncodedBatch;
use super::groups::Groups;
use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::encode::{Delivery, DeliveryOptions, EncodingContext, EventFrames};
use crate::event::SocketId;

/// The encoded frames of a delivery, for each group.
#[derive(Debug)]
pub struct Frames {
    /// The excluded connection of each event: `socket_id` of the publish.
    excluded: Vec<Option<SocketId>>,
    excludes_any: bool,
    batches: Vec<EncodedBatch>,
    deliveries: usize,
}

/// Settings of the channel, and its delta toggle with this node's measurements.
#[derive(Debug)]
pub struct FanOutContext<'a> {
    pub config: &'a DeltaConfig,
    pub channel: &'a ChannelDelta,
    pub policy: &'a mut Policy,
    /// Time that deliveries with filters have taken, without the writes: it grows with the number
    /// of distinct filters.
    pub filter_time: Duration,
}

impl<'a> FanOutContext<'a> {
    pub fn new(
        config: &'a DeltaConfig,
        channel: &'a ChannelDelta,
        policy: &'a mut Policy,
    ) -> FanOutContext<'a> {
        FanOutContext { config, channel, policy, filter_time: Duration::ZERO }
    }
}

/// Encodes a delivery for all groups and advances their chains.
pub fn fan_out(delivery: &Delivery<'_>, groups: &mut Groups, context: &mut FanOutContext<'_>) -> Frames {
    let started = groups.has_filters().then(Instant::now);
    let mut batches = groups.batches();
    for (index, (event, seq)) in delivery.events.iter().zip(delivery.first_seq..).enumerate() {
        let FanOutContext { config, channel, policy, .. } = &mut *context;
        let encoding = EncodingContext { config, channel, policy };
        let mut frames = EventFrames::new(delivery, event, seq, encoding);
        groups.encode_event(index, &mut frames, &mut batches);
        let savings = frames.into_savings();
        savings.into_iter().for_each(|it| context.policy.record(it.full_bytes, it.sent_bytes));
    }
    batches.iter_mut().for_each(EncodedBatch::finish);
    context.filter_time += started.map_or(Duration::ZERO, |started| started.elapsed());
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
pub fn fan_out_to_one(
    delivery: &Delivery<'_>,
    options: &DeliveryOptions,
    identity: SocketIdentity<'_>,
    held: &mut Chains,
    context: &mut FanOutContext<'_>,
) -> Bytes {
    let mut groups_of_one = Groups::default();
    let (group, mut base_state) = groups_of_one.enter(options, held, 0);
    let frames = fan_out(delivery, &mut groups_of_one, context).buffer_for(group, identity, &mut base_state);
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
