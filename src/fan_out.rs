//! Room 6: a delivery becomes frames, once per event and form, however many
//! sockets will get them.
//!
//! Three forms: *plain*, exactly Pusher's; *full*, marked with its sequence
//! number, for sockets with deltas; *delta*, for those of them that hold the base.

use bytes::{Bytes, BytesMut};

use crate::delta::settings::DeltaConfig;
use crate::delta::{self, Algorithm, Chain};
use crate::event::{Event, SocketId};
use crate::metrics::metrics;
use crate::wire::{envelope, frame};

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

/// Which forms the subscribers here need: nothing else is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    pub plain: bool,
    pub delta: bool,
}

/// The frames of a run.
#[derive(Debug)]
pub struct Frames {
    excepted: Vec<SocketId>,
    excepts: Vec<Option<SocketId>>,
    plain: Vec<Bytes>,
    plain_run: Bytes,
    chained: Vec<ChainedFrames>,
    /// The run for a socket that holds the base of all events but the first `n`.
    chained_runs: Vec<Option<Bytes>>,
}

/// One event for sockets with deltas.
#[derive(Debug)]
struct ChainedFrames {
    full: Bytes,
    /// The delta, and the index of its base.
    delta: Option<(Bytes, u64)>,
    /// Its index in the chain, unless it is outside: unmarked, never a base.
    index: Option<u64>,
}

/// Encodes a run and moves the chain past it.
pub fn encode(delivery: &Delivery<'_>, needs: Needs, chain: &mut Chain, config: &DeltaConfig) -> Frames {
    let excepts: Vec<Option<SocketId>> = delivery.events.iter().map(|event| event.except).collect();
    let (plain, plain_run) = if needs.plain { encode_plain(delivery) } else { Default::default() };
    let chained = match needs.delta {
        true => encode_chained(delivery, chain, config),
        false => {
            // Nobody here follows the chain: the next who does starts in full.
            chain.restart();
            Vec::new()
        }
    };
    Frames {
        excepted: excepts.iter().flatten().copied().collect(),
        excepts,
        plain,
        plain_run,
        chained_runs: vec![None; chained.len() + 1],
        chained,
    }
}

fn encode_plain(delivery: &Delivery<'_>) -> (Vec<Bytes>, Bytes) {
    let mut run = BytesMut::new();
    let mut ends = Vec::with_capacity(delivery.events.len());
    for event in delivery.events {
        let text = envelope::plain(delivery.channel, event);
        if run.is_empty() {
            run.reserve(frame::text_len(text.len()) * delivery.events.len());
        }
        frame::put_text(&mut run, &text);
        ends.push(run.len());
    }
    let run = run.freeze();
    let mut start = 0;
    let each = ends.into_iter().map(|end| run.slice(std::mem::replace(&mut start, end)..end)).collect();
    (each, run)
}

fn encode_chained(delivery: &Delivery<'_>, chain: &mut Chain, config: &DeltaConfig) -> Vec<ChainedFrames> {
    let numbered = delivery.events.iter().zip(delivery.first_seq..);
    numbered.map(|(event, seq)| encode_event(delivery, event, seq, chain, config)).collect()
}

fn encode_event(
    delivery: &Delivery<'_>,
    event: &Event,
    seq: u64,
    chain: &mut Chain,
    config: &DeltaConfig,
) -> ChainedFrames {
    if !delivery.is_chained || envelope::has_marker(&event.name, &event.data) {
        let text = envelope::plain(delivery.channel, event);
        return ChainedFrames { full: frame::text(&text), delta: None, index: None };
    }
    let base = Bytes::from(envelope::base(delivery.channel, event));
    let full = envelope::marked(&base, seq);
    let delta = encode_delta(delivery, event, seq, &base, full.len(), chain, config);
    if delta.is_none() {
        metrics().deltas_skipped.increment(1);
    }
    let index = chain.advance(base, seq, delivery.time_ms);
    ChainedFrames { full: frame::text(&full), delta, index: Some(index) }
}

/// The delta, where one is permitted and pays (protocol.md 3.11).
fn encode_delta(
    delivery: &Delivery<'_>,
    event: &Event,
    seq: u64,
    text: &[u8],
    full_bytes: usize,
    chain: &Chain,
    config: &DeltaConfig,
) -> Option<(Bytes, u64)> {
    let tiny = text.len() < config.min_message_bytes && event.delta != Some(true);
    if tiny || event.delta == Some(false) || delta::is_interval(seq, config) {
        return None;
    }
    let base = chain.base_at(delivery.time_ms, config)?;
    let patch = Algorithm::Fossil.encode(&base.text, text);
    metrics().deltas_encoded.increment(1);
    let algorithm = (!config.omit_algorithm).then_some(Algorithm::Fossil.name());
    let frame_text = envelope::delta(delivery.channel, &event.name, &patch, seq, base.seq, algorithm);
    let pays = frame_text.len() as f64 <= full_bytes as f64 * config.compression_ratio_max;
    pays.then(|| (frame::text(&frame_text), base.index))
}

impl Frames {
    /// The run for a socket without deltas: one buffer, shared by all of them
    /// but those that an event excepts.
    pub fn plain_for(&self, socket: SocketId) -> Bytes {
        if !self.excepted.contains(&socket) {
            return self.plain_run.clone();
        }
        let mut run = BytesMut::new();
        for (frame, except) in self.plain.iter().zip(&self.excepts) {
            if *except != Some(socket) {
                run.extend_from_slice(frame);
            }
        }
        run.freeze()
    }

    /// The run for a socket with deltas that was sent every event of the chain
    /// from index `holds_from` on; moves `holds_from` past what it is not sent.
    pub fn chained_for(&mut self, socket: SocketId, holds_from: &mut u64) -> Bytes {
        if self.excepted.contains(&socket) {
            return self.chained_without(socket, holds_from);
        }
        // Bases only grow along the run, so a socket lacks those of its first
        // events or none.
        let lacks =
            |chained: &ChainedFrames| chained.delta.as_ref().is_none_or(|(_, base)| base < holds_from);
        let full = match self.chained.iter().rposition(|chained| chained.delta.is_some() && lacks(chained)) {
            Some(last) => last + 1,
            None => 0,
        };
        self.chained_runs[full].get_or_insert_with(|| run_with_full(&self.chained, full)).clone()
    }

    fn chained_without(&self, socket: SocketId, holds_from: &mut u64) -> Bytes {
        let mut run = BytesMut::new();
        for (chained, except) in self.chained.iter().zip(&self.excepts) {
            if *except == Some(socket) {
                *holds_from = chained.index.map_or(*holds_from, |index| index + 1);
                continue;
            }
            match &chained.delta {
                Some((delta, base)) if base >= holds_from => run.extend_from_slice(delta),
                _ => run.extend_from_slice(&chained.full),
            }
        }
        run.freeze()
    }

    /// Events in this run, for counting.
    pub fn count(&self) -> usize {
        self.excepts.len()
    }
}

fn run_with_full(chained: &[ChainedFrames], full: usize) -> Bytes {
    let mut run = BytesMut::new();
    for (at, event) in chained.iter().enumerate() {
        match &event.delta {
            Some((delta, _)) if at >= full => run.extend_from_slice(delta),
            _ => run.extend_from_slice(&event.full),
        }
    }
    run.freeze()
}

#[cfg(test)]
mod tests;
