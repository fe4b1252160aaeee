//! Stage 6 of a batch's path: the subscribers of a channel on this node, and the frames
//! that each of them receives.
//!
//! Subscribers with equal delivery options form a group, which shares chains and encoded
//! frames.

mod base_state;
mod encoded_batch;
mod fan_out;
mod groups;
mod shared_slab;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

pub use base_state::BaseState;
pub use fan_out::{FanOutContext, Frames, SocketIdentity, fan_out, fan_out_to_one};
pub use groups::Groups;

use crate::capacity::Shrink;
use crate::delta::chain::Chains;
use crate::encode::{Delivery, DeliveryOptions};
use crate::event::SocketId;
use crate::metrics::metrics;
use crate::presence::Member;
use crate::sockets::push;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;

/// One connection's subscription to one channel.
#[derive(Debug)]
pub struct Subscriber {
    pub write_buffer: Arc<WriteBuffer>,
    pub options: DeliveryOptions,
    /// Socket ids of the client's previous connections.
    pub previous_socket_ids: Box<[SocketId]>,
    /// The member, on a presence channel.
    pub member: Option<Arc<Member>>,
}

/// A live subscription.
#[derive(Debug)]
struct Subscription {
    write_buffer: Arc<WriteBuffer>,
    /// The index of its group.
    group: u32,
    base_state: BaseState,
    previous_socket_ids: Box<[SocketId]>,
    member: Option<Arc<Member>>,
}

/// The live subscribers of one channel.
#[derive(Debug, Default)]
pub struct Subscribers {
    /// In the order of subscription, except after removals: the memory of neighbours
    /// (write buffer, task, kernel socket) was mostly allocated one after the other. In
    /// the order of a hash map, each access would be a cache miss.
    subscriptions: Vec<(SocketId, Subscription)>,
    indices: HashMap<SocketId, usize>,
    groups: Groups,
}

impl Subscribers {
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    pub fn contains(&self, socket: SocketId) -> bool {
        self.indices.contains_key(&socket)
    }

    /// The groups of subscribers with equal delivery options.
    pub fn groups(&mut self) -> &mut Groups {
        &mut self.groups
    }

    /// Adds a subscriber, or replaces it. `held` are the bases that the client has, and
    /// `next` is the sequence number of the first event that it will be sent.
    pub fn add(&mut self, socket: SocketId, subscriber: Subscriber, held: &Chains, next: u64) {
        self.remove(socket);
        let Subscriber { write_buffer, options, previous_socket_ids, member } = subscriber;
        let (group, base_state) = self.groups.enter(&options, held, next);
        self.indices.insert(socket, self.subscriptions.len());
        self.subscriptions
            .push((socket, Subscription { write_buffer, group, base_state, previous_socket_ids, member }));
    }

    pub fn remove(&mut self, socket: SocketId) -> Option<Subscriber> {
        let index = self.indices.remove(&socket)?;
        let (_, Subscription { write_buffer, group, previous_socket_ids, member, .. }) =
            self.subscriptions.swap_remove(index);
        if let Some((moved, _)) = self.subscriptions.get(index) {
            self.indices.insert(*moved, index);
        }
        self.subscriptions.shrink_if_sparse();
        self.indices.shrink_if_sparse();
        let options = self.groups.options(group).clone();
        self.groups.leave(group);
        Some(Subscriber { write_buffer, options, previous_socket_ids, member })
    }

    /// The delivery options of a subscriber.
    pub fn options(&self, socket: SocketId) -> Option<&DeliveryOptions> {
        let index = self.indices.get(&socket)?;
        Some(self.groups.options(self.subscriptions[*index].1.group))
    }

    /// Drops the bases of a subscriber: from event `next` on, the first of each chain
    /// is full.
    pub fn resync(&mut self, socket: SocketId, next: u64) {
        let Some(&index) = self.indices.get(&socket) else { return };
        self.subscriptions[index].1.base_state = BaseState::from(next);
    }

    /// Encodes a delivery once per group and pushes one buffer to every subscriber. Write
    /// buffers that the caller must flush are appended to `to_flush`. Returns the number of
    /// deliveries: events times subscribers.
    pub fn deliver(
        &mut self,
        delivery: &Delivery<'_>,
        context: &mut FanOutContext<'_>,
        to_flush: &mut Vec<Arc<WriteBuffer>>,
    ) -> usize {
        if self.is_empty() {
            return 0;
        }
        let mut frames = fan_out(delivery, &mut self.groups, context);
        for (socket, subscription) in &mut self.subscriptions {
            let identity =
                SocketIdentity { socket: *socket, previous_socket_ids: &subscription.previous_socket_ids };
            let buffer = frames.buffer_for(subscription.group, identity, &mut subscription.base_state);
            push(&subscription.write_buffer, buffer, to_flush);
        }
        for group in frames.groups_behind() {
            self.groups.mark_behind(group);
        }
        metrics().deliveries.increment(frames.deliveries() as u64);
        frames.deliveries()
    }

    /// Broadcasts a frame to all subscribers; only the event prefix in it may differ.
    pub fn broadcast(&self, frame: impl Fn(EventPrefix) -> Bytes, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        self.broadcast_by_group(|_, options| Some(frame(options.event_prefix)), to_flush);
    }

    /// Pushes a frame per group, or none where `frame` returns None.
    pub fn broadcast_by_group(
        &self,
        frame: impl Fn(u32, &DeliveryOptions) -> Option<Bytes>,
        to_flush: &mut Vec<Arc<WriteBuffer>>,
    ) {
        let frames = self.groups.each(frame);
        if frames.iter().all(Option::is_none) {
            return;
        }
        for (_, subscription) in &self.subscriptions {
            if let Some(frame) = &frames[subscription.group as usize] {
                push(&subscription.write_buffer, frame.clone(), to_flush);
            }
        }
    }

    pub fn write_buffers(&self) -> impl Iterator<Item = &Arc<WriteBuffer>> {
        self.subscriptions.iter().map(|(_, subscription)| &subscription.write_buffer)
    }
}

#[cfg(test)]
pub(crate) mod test_client;
#[cfg(test)]
mod tests;
