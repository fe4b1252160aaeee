//! Room 7: who is here, on this node, and which of the frames each of them gets.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::delta::chain::Chains;
use crate::event::SocketId;
use crate::fan_out::{Audiences, Form, Frames, Holds, Names};
use crate::metrics::metrics;
use crate::presence::Member;
use crate::sockets::push;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::dialect::Dialect;

/// One socket's subscription to one channel.
#[derive(Debug)]
pub struct Subscriber {
    pub write_buffer: Arc<WriteBuffer>,
    pub form: Form,
    /// Former connections of its client.
    pub former: Box<[SocketId]>,
    /// On a presence channel: as whom.
    pub member: Option<Arc<Member>>,
}

/// A live subscriber.
#[derive(Debug)]
struct Subscription {
    write_buffer: Arc<WriteBuffer>,
    /// The place of those who are sent the same.
    audience: u32,
    holds: Holds,
    former: Box<[SocketId]>,
    member: Option<Arc<Member>>,
}

/// The live subscribers of one channel.
#[derive(Debug, Default)]
pub struct Subscribers {
    /// In the order of their coming, as far as nobody left: what belongs to
    /// neighbours (write_buffer, task, the kernel's socket) was mostly made one after
    /// the other. In the order of a hash, each would be a miss of the cache.
    subscriptions: Vec<(SocketId, Subscription)>,
    places: HashMap<SocketId, usize>,
    audiences: Audiences,
}

impl Subscribers {
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    pub fn contains(&self, socket: SocketId) -> bool {
        self.places.contains_key(&socket)
    }

    /// Who is sent the same.
    pub fn audiences(&mut self) -> &mut Audiences {
        &mut self.audiences
    }

    /// `held` are the bases that it has been sent, and `next` is the number of what
    /// will be sent to it first.
    pub fn add(&mut self, socket: SocketId, subscriber: Subscriber, held: &Chains, next: u64) {
        self.remove(socket);
        let Subscriber { write_buffer, form, former, member } = subscriber;
        let (audience, holds) = self.audiences.enter(&form, held, next);
        self.places.insert(socket, self.subscriptions.len());
        self.subscriptions.push((socket, Subscription { write_buffer, audience, holds, former, member }));
    }

    pub fn remove(&mut self, socket: SocketId) -> Option<Subscriber> {
        let place = self.places.remove(&socket)?;
        let (_, Subscription { write_buffer, audience, former, member, .. }) =
            self.subscriptions.swap_remove(place);
        if let Some((moved, _)) = self.subscriptions.get(place) {
            self.places.insert(*moved, place);
        }
        let form = self.audiences.form(audience).clone();
        self.audiences.leave(audience);
        Some(Subscriber { write_buffer, form, former, member })
    }

    /// It is here, and is not sent deltas.
    pub fn is_without_deltas(&self, socket: SocketId) -> bool {
        let form =
            self.places.get(&socket).map(|place| self.audiences.form(self.subscriptions[*place].1.audience));
        form.is_some_and(|form| form.algorithm.is_none())
    }

    /// A subscriber has lost its bases: the event `next` of any chain is full.
    pub fn resync(&mut self, socket: SocketId, next: u64) {
        let Some(&place) = self.places.get(&socket) else { return };
        self.subscriptions[place].1.holds = Holds::from(next);
    }

    /// Hands a run of events to every subscriber: one push each. Those that have to
    /// be to_flush are appended to `to_flush`.
    pub fn deliver(&mut self, frames: &mut Frames, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        for (socket, subscription) in &mut self.subscriptions {
            let names = Names { socket: *socket, former: &subscription.former };
            let chunk = frames.chunk_for(subscription.audience, names, &mut subscription.holds);
            push(&subscription.write_buffer, chunk, to_flush);
        }
        for audience in frames.cut_short() {
            self.audiences.leave_behind(audience);
        }
        metrics().deliveries.increment(frames.deliveries() as u64);
    }

    /// Hands one frame that is the same for everyone, but for its names, to every
    /// subscriber.
    pub fn broadcast(&self, frame: impl Fn(Dialect) -> Bytes, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        self.broadcast_by_group(|_, form| Some(frame(form.dialect)), to_flush);
    }

    /// Hands every audience a frame of its own, or none.
    pub fn broadcast_by_group(
        &self,
        frame: impl Fn(u32, &Form) -> Option<Bytes>,
        to_flush: &mut Vec<Arc<WriteBuffer>>,
    ) {
        let frames = self.audiences.each(frame);
        if frames.iter().all(Option::is_none) {
            return;
        }
        for (_, subscription) in &self.subscriptions {
            if let Some(frame) = &frames[subscription.audience as usize] {
                push(&subscription.write_buffer, frame.clone(), to_flush);
            }
        }
    }

    pub fn write_buffers(&self) -> impl Iterator<Item = &Arc<WriteBuffer>> {
        self.subscriptions.iter().map(|(_, subscription)| &subscription.write_buffer)
    }
}
