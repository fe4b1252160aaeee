//! The frames of one event, each encoded when the first group needs it.

use bytes::Bytes;

use super::{Delivery, DeliveryOptions, EncodingContext, Savings};
use crate::delta::chain::Base;
use crate::delta::settings::DeltaConfig;
use crate::delta::{self, Algorithm};
use crate::event::Event;
use crate::filter::Tags;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::envelope::{self, DeltaText, Extras};
use crate::wire::event_prefix::EventPrefix;
use crate::wire::frame;

#[derive(Debug)]
pub struct EventFrames<'a> {
    delivery: &'a Delivery<'a>,
    pub event: &'a Event,
    pub seq: u64,
    context: EncodingContext<'a>,
    /// The key of its chain, if any; computed for the first group with deltas.
    chain: Option<Option<Bytes>>,
    /// Indexed by whether the frame has tags (1) and the sequence number (2).
    unmarked: [Option<Bytes>; 4],
    marked: Option<Marked>,
    patches: Vec<Patch>,
    deltas: Vec<Delta>,
    savings: Vec<Savings>,
}

/// The full frame with markers, and the text that it leaves as a base.
#[derive(Debug, Clone)]
struct Marked {
    base_text: Bytes,
    frame: Bytes,
    text_bytes: usize,
}

#[derive(Debug)]
struct Patch {
    algorithm: Algorithm,
    base_seq: u64,
    patch: Vec<u8>,
}

#[derive(Debug)]
struct Delta {
    algorithm: Algorithm,
    base_seq: u64,
    event_prefix: EventPrefix,
    /// None if the delta does not pay.
    frame: Option<Bytes>,
}

impl<'a> EventFrames<'a> {
    pub fn new(
        delivery: &'a Delivery<'a>,
        event: &'a Event,
        seq: u64,
        context: EncodingContext<'a>,
    ) -> EventFrames<'a> {
        EventFrames {
            delivery,
            event,
            seq,
            context,
            chain: None,
            unmarked: Default::default(),
            marked: None,
            patches: Vec::new(),
            deltas: Vec::new(),
            savings: Vec::new(),
        }
    }

    /// The key of the event's chain. Client events are in no chain.
    pub fn chain(&mut self) -> Option<Bytes> {
        let (delivery, event, channel) = (self.delivery, self.event, self.context.channel);
        let find = || delivery.is_chained.then(|| envelope::chain_of(event, channel.enabled)).flatten();
        self.chain.get_or_insert_with(find).clone()
    }

    pub fn time_ms(&self) -> u64 {
        self.delivery.time_ms
    }

    pub fn config(&self) -> &'a DeltaConfig {
        self.context.config
    }

    pub fn keys_max(&self) -> usize {
        self.context.channel.keys_max
    }

    pub fn tags(&self) -> Tags<'a> {
        Tags::read(self.event.tags.as_deref())
    }

    /// The frame for groups without deltas, and for events in no chain.
    pub fn unmarked(&mut self, options: &DeliveryOptions) -> Bytes {
        let extras = Extras {
            tags: self.context.channel.shows_tags && options.has_opted_in(),
            seq: options.positions.then_some(self.seq),
        };
        let index = usize::from(extras.tags) + 2 * usize::from(options.positions);
        let (delivery, event) = (self.delivery, self.event);
        let encode = || frame::text(&envelope::plain(delivery.channel, event, extras));
        self.unmarked[index].get_or_insert_with(encode).clone()
    }

    /// The full frame, which becomes a base.
    pub fn full(&mut self) -> Bytes {
        self.marked().frame
    }

    /// The base for the next event of the chain.
    pub fn base(&mut self) -> Base {
        Base { text: self.marked().base_text, seq: self.seq, time_ms: self.delivery.time_ms }
    }

    fn marked(&mut self) -> Marked {
        if let Some(marked) = &self.marked {
            return marked.clone();
        }
        let EncodingContext { config, channel, .. } = self.context;
        let (text, base_text) =
            envelope::full(self.delivery.channel, self.event, self.seq, channel.shows_tags, config.markers);
        let marked = Marked { frame: frame::text(&text), text_bytes: text.len(), base_text };
        self.marked.insert(marked).clone()
    }

    /// The delta against `base`, if one is permitted and pays (protocol.md 3.11).
    pub fn delta(&mut self, algorithm: Algorithm, event_prefix: EventPrefix, base: &Base) -> Option<Bytes> {
        if !self.may_be_delta() {
            return None;
        }
        let is_known = |it: &&Delta| {
            it.algorithm == algorithm && it.base_seq == base.seq && it.event_prefix == event_prefix
        };
        if let Some(delta) = self.deltas.iter().find(is_known) {
            return delta.frame.clone();
        }
        let is_patched = |it: &Patch| it.algorithm == algorithm && it.base_seq == base.seq;
        if self.patches.len() >= limits::EVENT_BASES_MAX && !self.patches.iter().any(is_patched) {
            return None;
        }
        let frame = self.encode_delta(algorithm, event_prefix, base);
        self.deltas.push(Delta { algorithm, base_seq: base.seq, event_prefix, frame: frame.clone() });
        frame
    }

    /// The savings of each encoded delta, to be recorded for the channel's delta toggle.
    pub fn into_savings(self) -> Vec<Savings> {
        self.savings
    }

    fn may_be_delta(&mut self) -> bool {
        let is_forced = self.event.delta == Some(true);
        let (seq, context) = (self.seq, self.context);
        self.event.delta != Some(false)
            && !delta::is_interval(seq, self.event.key.is_some(), context.config)
            && (is_forced || context.policy.tries(seq))
            && (is_forced || self.marked().base_text.len() >= self.context.config.min_message_bytes)
    }

    fn encode_delta(
        &mut self,
        algorithm: Algorithm,
        event_prefix: EventPrefix,
        base: &Base,
    ) -> Option<Bytes> {
        let marked = self.marked();
        let is_known = |it: &Patch| it.algorithm == algorithm && it.base_seq == base.seq;
        let known = self.patches.iter().position(is_known);
        let at = known.unwrap_or_else(|| {
            metrics().deltas_encoded.increment(1);
            let patch = algorithm.encode(&base.text, &marked.base_text);
            self.patches.push(Patch { algorithm, base_seq: base.seq, patch });
            self.patches.len() - 1
        });
        let config = self.context.config;
        let text = envelope::delta(&DeltaText {
            event_prefix,
            channel: self.delivery.channel,
            name: &self.event.name,
            patch: &self.patches[at].patch,
            seq: self.seq,
            base_seq: base.seq,
            algorithm: (!config.omit_algorithm || algorithm != config.algorithm).then(|| algorithm.name()),
            key: self.event.key.as_deref(),
        });
        let pays = text.len() as f64 <= marked.text_bytes as f64 * config.compression_ratio_max;
        if known.is_none() {
            let sent_bytes = if pays { text.len() } else { marked.text_bytes };
            metrics().delta_full_bytes.increment(marked.text_bytes as u64);
            metrics().delta_sent_bytes.increment(sent_bytes as u64);
            self.savings.push(Savings { full_bytes: marked.text_bytes, sent_bytes });
        }
        pays.then(|| frame::text(&text))
    }
}
