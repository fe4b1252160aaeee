//! Room 6: a delivery becomes frames, once per event and form, however many
//! sockets will get them.
//!
//! Three kinds: *plain*, exactly Pusher's; *full*, marked with its sequence
//! number, for sockets with deltas; *delta*, for those of them that hold the base.
//! Subscribers with equal forms are one audience, and share chains and buffers.

mod audience;
mod event_frames;
pub mod form;
mod holds;
mod run;
mod shared;

use bytes::Bytes;

pub use audience::Audiences;
pub use form::Form;
pub use holds::Holds;

use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::event::{Event, SocketId};
use event_frames::EventFrames;
use run::Run;

/// A run of events on one channel, in order, ready to be announced to sockets.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub channel: &'a str,
    pub first_seq: u64,
    pub time_ms: u64,
    pub events: &'a [Event],
    /// Published by a backend: what clients send is never a base.
    pub is_chained: bool,
}

/// What holds for deltas on the channel.
#[derive(Debug)]
pub struct Rules<'a> {
    pub config: &'a DeltaConfig,
    pub channel: &'a ChannelDelta,
    pub policy: &'a mut Policy,
}

/// The frames of a delivery, for each audience.
#[derive(Debug)]
pub struct Frames {
    /// Whom each event excepts.
    excepts: Vec<Option<SocketId>>,
    excepts_some: bool,
    runs: Vec<Run>,
    deliveries: usize,
}

/// Encodes a delivery and moves the chains past it.
pub fn encode(delivery: &Delivery<'_>, audiences: &mut Audiences, rules: &mut Rules<'_>) -> Frames {
    let mut runs = audiences.runs();
    for (at, (event, seq)) in delivery.events.iter().zip(delivery.first_seq..).enumerate() {
        audiences.take(at, &mut EventFrames::new(delivery, event, seq, rules), &mut runs);
    }
    runs.iter_mut().for_each(Run::finish);
    let excepts: Vec<Option<SocketId>> = delivery.events.iter().map(|event| event.except).collect();
    Frames {
        excepts_some: excepts.iter().any(Option::is_some),
        excepts,
        deliveries: audiences.deliveries(&runs),
        runs,
    }
}

/// Encodes a delivery for one socket that is not among the others yet. `held` are
/// the bases that it holds, before and after.
pub fn encode_for_one(
    delivery: &Delivery<'_>,
    form: &Form,
    names: Names<'_>,
    held: &mut Chains,
    rules: &mut Rules<'_>,
) -> Bytes {
    let mut alone = Audiences::default();
    let (place, mut holds) = alone.enter(form, held, 0);
    let frames = encode(delivery, &mut alone, rules).chunk_for(place, names, &mut holds);
    *held = alone.into_chains();
    for key in holds.lacked() {
        held.forget(key);
    }
    frames
}

/// The names of a socket: its own, and those of former connections of its client,
/// whose exceptions hold for it too.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    pub socket: SocketId,
    pub former: &'a [SocketId],
}

impl Frames {
    /// The run for a subscriber of the audience at `place`: one buffer, shared by
    /// all who hold the same, but those whom an event excepts.
    pub fn chunk_for(&mut self, place: u32, names: Names<'_>, holds: &mut Holds) -> Bytes {
        let run = &mut self.runs[place as usize];
        if !self.excepts_some || !self.excepts.iter().flatten().any(|except| names.has(*except)) {
            return run.whole(holds);
        }
        run.without(|at| self.excepts[at].is_some_and(|except| names.has(except)), holds)
    }

    /// The places of audiences of which somebody was not sent the last event: the
    /// channel has moved on without an event for it.
    pub fn cut_short(&self) -> impl Iterator<Item = u32> {
        let runs = self.runs.iter().zip(0..);
        runs.filter(|(run, _)| run.is_cut_short).map(|(_, place)| place)
    }

    /// Events times subscribers, for counting.
    pub fn deliveries(&self) -> usize {
        self.deliveries
    }
}

impl Names<'_> {
    fn has(self, socket: SocketId) -> bool {
        self.socket == socket || self.former.contains(&socket)
    }
}

#[cfg(test)]
mod tests;
