//! Room 7: who is here, on this node, and which of the frames each of them gets.

pub mod connections;
pub mod outbox;
mod write;
pub mod writers;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::delta::chain::Chains;
use crate::event::SocketId;
use crate::fan_out::{Audiences, Form, Frames, Holds, Names};
use crate::metrics::metrics;
use crate::presence::Member;
use crate::wire::dialect::Dialect;

use outbox::Outbox;

/// One socket's subscription to one channel.
#[derive(Debug)]
pub struct Subscriber {
    pub outbox: Arc<Outbox>,
    pub form: Form,
    /// Former connections of its client.
    pub former: Box<[SocketId]>,
    /// On a presence channel: as whom.
    pub member: Option<Arc<Member>>,
}

/// A live subscriber.
#[derive(Debug)]
struct Seat {
    outbox: Arc<Outbox>,
    /// The place of those who are sent the same.
    audience: u32,
    holds: Holds,
    former: Box<[SocketId]>,
    member: Option<Arc<Member>>,
}

/// The live subscribers of one channel.
#[derive(Debug, Default)]
pub struct Hub {
    /// In the order of their coming, as far as nobody left: what belongs to
    /// neighbours (outbox, task, the kernel's socket) was mostly made one after
    /// the other. In the order of a hash, each would be a miss of the cache.
    seats: Vec<(SocketId, Seat)>,
    places: HashMap<SocketId, usize>,
    audiences: Audiences,
}

impl Hub {
    pub fn len(&self) -> usize {
        self.seats.len()
    }

    pub fn is_empty(&self) -> bool {
        self.seats.is_empty()
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
        let Subscriber { outbox, form, former, member } = subscriber;
        let (audience, holds) = self.audiences.enter(&form, held, next);
        self.places.insert(socket, self.seats.len());
        self.seats.push((socket, Seat { outbox, audience, holds, former, member }));
    }

    pub fn remove(&mut self, socket: SocketId) -> Option<Subscriber> {
        let place = self.places.remove(&socket)?;
        let (_, Seat { outbox, audience, former, member, .. }) = self.seats.swap_remove(place);
        if let Some((moved, _)) = self.seats.get(place) {
            self.places.insert(*moved, place);
        }
        let form = self.audiences.form(audience).clone();
        self.audiences.leave(audience);
        Some(Subscriber { outbox, form, former, member })
    }

    /// It is here, and is not sent deltas.
    pub fn is_without_deltas(&self, socket: SocketId) -> bool {
        let form = self.places.get(&socket).map(|place| self.audiences.form(self.seats[*place].1.audience));
        form.is_some_and(|form| form.algorithm.is_none())
    }

    /// A subscriber has lost its bases: the event `next` of any chain is full.
    pub fn resync(&mut self, socket: SocketId, next: u64) {
        let Some(&place) = self.places.get(&socket) else { return };
        self.seats[place].1.holds = Holds::from(next);
    }

    /// Hands a run of events to every subscriber: one push each. Those that have to
    /// be filled are appended to `filled`.
    pub fn deliver(&mut self, frames: &mut Frames, filled: &mut Vec<Arc<Outbox>>) {
        for (socket, seat) in &mut self.seats {
            let names = Names { socket: *socket, former: &seat.former };
            let chunk = frames.chunk_for(seat.audience, names, &mut seat.holds);
            push(&seat.outbox, chunk, filled);
        }
        for audience in frames.cut_short() {
            self.audiences.leave_behind(audience);
        }
        metrics().deliveries.increment(frames.deliveries() as u64);
    }

    /// Hands one frame that is the same for everyone, but for its names, to every
    /// subscriber.
    pub fn tell(&self, frame: impl Fn(Dialect) -> Bytes, filled: &mut Vec<Arc<Outbox>>) {
        self.tell_those(|_, form| Some(frame(form.dialect)), filled);
    }

    /// Hands every audience a frame of its own, or none.
    pub fn tell_those(&self, frame: impl Fn(u32, &Form) -> Option<Bytes>, filled: &mut Vec<Arc<Outbox>>) {
        let frames = self.audiences.each(frame);
        if frames.iter().all(Option::is_none) {
            return;
        }
        for (_, seat) in &self.seats {
            if let Some(frame) = &frames[seat.audience as usize] {
                push(&seat.outbox, frame.clone(), filled);
            }
        }
    }

    pub fn outboxes(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.seats.iter().map(|(_, seat)| &seat.outbox)
    }
}

/// Wakes whoever has to be filled later, once for all that one round has for it.
pub fn push(outbox: &Arc<Outbox>, chunk: Bytes, filled: &mut Vec<Arc<Outbox>>) {
    if !chunk.is_empty() && outbox.push(chunk) {
        filled.push(outbox.clone());
    }
}
