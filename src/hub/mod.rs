//! Room 7: who is here, on this node, and which of the frames each of them gets.

pub mod connections;
pub mod outbox;

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{AnnouncementId, SocketId};
use crate::fan_out::{Frames, Needs};
use crate::metrics::metrics;

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
    /// It joined at this announcement, which the node has not handled yet: until
    /// then, what comes is older than its subscription.
    pub joined_at: Option<AnnouncementId>,
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
    skipping: usize,
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
        self.skipping += usize::from(subscriber.joined_at.is_some());
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
        self.skipping -= usize::from(subscriber.joined_at.is_some());
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

    /// Hands a run of events, the announcement `id`, to every subscriber: one
    /// push each. Those that have to be woken are appended to `woken`.
    /// `next_index` is that of the chain after the run.
    pub fn deliver(
        &mut self,
        id: AnnouncementId,
        frames: &mut Frames,
        next_index: u64,
        woken: &mut Vec<Arc<Outbox>>,
    ) {
        let mut receivers = 0;
        for (socket, subscriber) in &mut self.subscribers {
            if subscriber.joined_at.is_some() {
                if subscriber.joined_at == Some(id) {
                    subscriber.start(next_index);
                    self.skipping -= 1;
                }
                continue;
            }
            receivers += 1;
            let chunk = match &mut subscriber.form {
                Form::Plain => frames.plain_for(*socket),
                Form::Chained { holds_from } => frames.chained_for(*socket, holds_from),
            };
            if !chunk.is_empty() && subscriber.outbox.push(chunk) {
                woken.push(subscriber.outbox.clone());
            }
        }
        metrics().deliveries.increment(receivers * frames.count() as u64);
    }

    /// The announcements that joiners wait for will not come: the channel's
    /// history was adopted anew from its head.
    pub fn stop_skipping(&mut self, next_index: u64) {
        if self.skipping == 0 {
            return;
        }
        for (_, subscriber) in self.subscribers.iter_mut().filter(|(_, s)| s.joined_at.is_some()) {
            subscriber.start(next_index);
        }
        self.skipping = 0;
    }
}

impl Subscriber {
    /// What comes from here on is newer than the subscription.
    fn start(&mut self, next_index: u64) {
        self.joined_at = None;
        if let Form::Chained { holds_from } = &mut self.form {
            *holds_from = next_index;
        }
    }
}
