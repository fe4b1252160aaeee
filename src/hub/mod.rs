//! Room 7: who is here, on this node, and which of the frames each of them gets.

pub mod connections;
pub mod outbox;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::event::SocketId;
use crate::fan_out::{Frames, Needs};
use crate::metrics::metrics;
use crate::presence::Member;

use outbox::Outbox;

/// What a subscriber is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Exactly Pusher's frames.
    Plain,
    /// Marked frames, and deltas where it holds the base.
    Chained {
        /// It was sent every event of the chain from this index on.
        holds_from: u64,
    },
}

/// One socket's subscription to one channel.
#[derive(Debug)]
pub struct Subscriber {
    pub outbox: Arc<Outbox>,
    pub form: Form,
    /// On a presence channel: as whom.
    pub member: Option<Arc<Member>>,
}

/// The live subscribers of one channel.
#[derive(Debug, Default)]
pub struct Hub {
    /// In the order of their coming, as far as nobody left: what belongs to
    /// neighbours (outbox, task, the kernel's socket) was mostly made one after
    /// the other. In the order of a hash, each would be a miss of the cache.
    subscribers: Vec<(SocketId, Subscriber)>,
    places: HashMap<SocketId, usize>,
    chained: usize,
}

impl Hub {
    pub fn len(&self) -> usize {
        self.subscribers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscribers.is_empty()
    }

    pub fn contains(&self, socket: SocketId) -> bool {
        self.places.contains_key(&socket)
    }

    pub fn needs(&self) -> Needs {
        Needs { plain: self.subscribers.len() > self.chained, delta: self.chained > 0 }
    }

    pub fn add(&mut self, socket: SocketId, subscriber: Subscriber) {
        self.remove(socket);
        self.chained += usize::from(matches!(subscriber.form, Form::Chained { .. }));
        self.places.insert(socket, self.subscribers.len());
        self.subscribers.push((socket, subscriber));
    }

    pub fn remove(&mut self, socket: SocketId) -> Option<Subscriber> {
        let place = self.places.remove(&socket)?;
        let (_, subscriber) = self.subscribers.swap_remove(place);
        if let Some((moved, _)) = self.subscribers.get(place) {
            self.places.insert(*moved, place);
        }
        self.chained -= usize::from(matches!(subscriber.form, Form::Chained { .. }));
        Some(subscriber)
    }

    /// Changes what a subscriber is sent from the next event on. One that is
    /// chained already keeps what it holds.
    pub fn change_form(&mut self, socket: SocketId, form: Form) {
        let Some(&place) = self.places.get(&socket) else { return };
        let (_, subscriber) = &mut self.subscribers[place];
        match (subscriber.form, form) {
            (Form::Plain, Form::Chained { .. }) => self.chained += 1,
            (Form::Chained { .. }, Form::Plain) => self.chained -= 1,
            _ => return,
        }
        subscriber.form = form;
    }

    /// A subscriber has lost its base: its next event is full.
    pub fn resync(&mut self, socket: SocketId, next_index: u64) {
        let Some(&place) = self.places.get(&socket) else { return };
        if let Form::Chained { holds_from } = &mut self.subscribers[place].1.form {
            *holds_from = next_index;
        }
    }

    /// Hands a run of events to every subscriber: one push each. Those that have to
    /// be woken are appended to `woken`.
    pub fn deliver(&mut self, frames: &mut Frames, woken: &mut Vec<Arc<Outbox>>) {
        for (socket, subscriber) in &mut self.subscribers {
            let chunk = match &mut subscriber.form {
                Form::Plain => frames.plain_for(*socket),
                Form::Chained { holds_from } => frames.chained_for(*socket, holds_from),
            };
            push(&subscriber.outbox, chunk, woken);
        }
        metrics().deliveries.increment((self.subscribers.len() * frames.count()) as u64);
    }

    /// Hands one frame that is the same for everyone to every subscriber.
    pub fn tell(&self, frame: &Bytes, woken: &mut Vec<Arc<Outbox>>) {
        for (_, subscriber) in &self.subscribers {
            push(&subscriber.outbox, frame.clone(), woken);
        }
    }

    pub fn outboxes(&self) -> impl Iterator<Item = &Arc<Outbox>> {
        self.subscribers.iter().map(|(_, subscriber)| &subscriber.outbox)
    }

    /// As whom the socket has joined, on a presence channel.
    pub fn member(&self, socket: SocketId) -> Option<&Arc<Member>> {
        self.subscribers[*self.places.get(&socket)?].1.member.as_ref()
    }
}

/// Wakes whoever has to be woken later, once for all that one round has for it.
pub fn push(outbox: &Arc<Outbox>, chunk: Bytes, woken: &mut Vec<Arc<Outbox>>) {
    if !chunk.is_empty() && outbox.push(chunk) {
        woken.push(outbox.clone());
    }
}
