//! A client's subscription to one channel, over all of its connections: position,
//! bases, and what it has seen, in spans (docs/resume.md, "What a client does").

use std::collections::VecDeque;

use super::ask::Asked;
use super::bases::Bases;
use super::frames::{CacheSync, Envelope, Standing, is_after};
use super::oracle::Span;
use super::world::{CHANNELS, World, print};

/// Between two places to which a client may go back.
const CHECKPOINT_EVENTS: usize = 40;
const TRACE_MAX: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Out,
    Asked,
    In,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    pub epoch: u64,
    pub seq: u32,
}

#[derive(Debug, Default)]
pub struct Subscription {
    pub channel: usize,
    pub state: State,
    pub filter: usize,
    pub resumes: bool,
    /// Which deltas it understands, once it has said so.
    pub algorithm: Option<&'static str>,
    /// The last question is not answered yet.
    pub is_awaiting: bool,
    pub(super) asked: Asked,
    pub span: Option<Span>,
    /// Spans that are over.
    pub done: Vec<Span>,
    pub(super) position: Option<Position>,
    pub(super) checkpoint: Option<(Position, usize)>,
    pub(super) bases: Bases,
    /// Connections that it has had.
    pub(super) former: Vec<String>,
    pub fence: u64,
    /// What was said and heard last, for people.
    pub trace: VecDeque<String>,
}

impl Subscription {
    pub fn new(channel: usize, resumes: bool) -> Subscription {
        Subscription { channel, resumes, ..Subscription::default() }
    }

    pub fn name(&self) -> &'static str {
        CHANNELS[self.channel].0
    }

    pub fn note(&mut self, text: &str) {
        if self.trace.len() == TRACE_MAX {
            self.trace.pop_front();
        }
        let (head, tail) = (text.chars().take(120), text.chars().rev().take(60).collect::<Vec<_>>());
        let tail = tail.into_iter().rev();
        self.trace.push_back(if text.len() < 180 {
            text.to_owned()
        } else {
            head.chain(['…']).chain(tail).collect()
        });
    }

    /// The connection is gone.
    pub fn suspend(&mut self) {
        if self.state == State::Out {
            return;
        }
        self.is_awaiting = false;
        self.note("suspended");
        self.state = State::Asked;
        if !self.resumes {
            self.end();
        }
    }

    /// The next connection will say later which deltas it understands.
    pub fn opt_out(&mut self) {
        self.algorithm = None;
        self.bases.forget(None);
    }

    pub fn leave(&mut self) {
        self.state = State::Out;
        self.end();
    }

    /// What comes from here on is another span.
    pub fn end(&mut self) {
        self.done.extend(self.span.take());
        self.position = None;
        self.checkpoint = None;
        self.former.clear();
        self.bases.forget(None);
    }

    /// From here on everything that is published is to come.
    fn begin(&mut self, world: &World, earliest: usize) {
        let now = world.logs[self.channel].lock().0.len();
        self.done.extend(self.span.take());
        self.checkpoint = None;
        self.span = Some(Span {
            starts: earliest.min(now)..=now,
            filter: self.filter,
            sockets: self.asked.named.clone(),
            seen: Vec::new(),
            came: Vec::new(),
        });
    }

    /// A new round: what was published before is forgotten.
    pub fn turn(&mut self) {
        self.done.clear();
        self.checkpoint = None;
        if let Some(span) = &mut self.span {
            span.starts = 0..=0;
            span.seen.clear();
            span.came.clear();
        }
    }

    pub fn succeeded(&mut self, world: &World, data: &str) -> Result<(), String> {
        let standing: Standing = serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        let position = standing.epoch.zip(standing.seq).map(|(epoch, seq)| Position { epoch, seq });
        if self.resumes != position.is_some() || self.resumes != standing.resumed.is_some() {
            return Err(format!("answered with {data}"));
        }
        world.totals.add("subscriptions");
        if !std::mem::take(&mut self.is_awaiting) {
            return Err(format!("not asked for: {data}"));
        }
        if self.asked.again && self.state == State::In && self.span.is_some() {
            // It goes on without a hole, with the next event in full.
            self.bases.forget(None);
            return Ok(());
        }
        self.state = State::In;
        match (self.asked.from, standing.resumed) {
            (Some((named, place, wrong)), Some(true)) => {
                if wrong || position != Some(named) {
                    return Err(format!("resumed from {named:?} by {data}"));
                }
                world.totals.add("resumed");
                let span = self.span.as_mut().expect("only a span is resumed");
                span.seen.truncate(place);
                span.came.truncate(place);
                span.sockets.extend(self.asked.named.iter().cloned());
                self.position = position;
                if !self.asked.keeps_bases {
                    self.bases.forget(self.asked.opted_in.then_some(named.seq));
                }
                return Ok(());
            }
            (None, Some(true)) => return Err(format!("resumed from nowhere by {data}")),
            (Some((.., true)), _) => world.totals.add("resumed:false for a wrong position"),
            (Some(_), _) => world.totals.add("resumed:false"),
            (None, _) => {}
        }
        // On a connection that was there before, the node may be behind.
        let earliest = if self.asked.from.is_some() { 0 } else { self.asked.settled };
        self.begin(world, earliest);
        self.position = position;
        self.bases.forget(position.filter(|_| self.asked.opted_in).map(|position| position.seq));
        Ok(())
    }

    pub fn moved(&mut self, world: &World, data: &str) -> Result<(), String> {
        let standing: Standing = serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        let (Some(epoch), Some(seq), true) = (standing.epoch, standing.seq, self.resumes) else {
            return Err(format!("a position {data}"));
        };
        if self.state != State::In {
            return Ok(());
        }
        let earlier = self.position.replace(Position { epoch, seq });
        if standing.missed {
            world.totals.add("missed");
            self.bases.forget(self.asked.opted_in.then_some(seq));
            self.begin(world, 0);
        } else if earlier.is_some_and(|it| it.epoch == epoch && is_after(it.seq, seq)) {
            return Err(format!("the position {data} after {earlier:?}"));
        }
        Ok(())
    }

    pub fn synced(&mut self, world: &World, data: &str) -> Result<(), String> {
        if self.state != State::In {
            return Ok(());
        }
        let sync: CacheSync = serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        world.totals.add("cache syncs");
        let from = self.position.filter(|_| self.asked.opted_in).map(|position| position.seq);
        world.totals.add_many("bases synced", self.bases.replace(sync, from) as u64);
        Ok(())
    }

    /// A full frame of an event.
    pub fn event(&mut self, world: &World, text: &str, envelope: &Envelope<'_>) -> Result<(), String> {
        if self.state != State::In {
            return Ok(());
        }
        if envelope.marker.is_some() && self.algorithm.is_none() {
            return Err(format!("a marker for who reads no deltas: {text}"));
        }
        if envelope.seq.is_some() && !self.resumes {
            return Err(format!("a number for who does not resume: {text}"));
        }
        let number = envelope.marker.or(envelope.seq);
        let came = if envelope.marker.is_some() { "full" } else { "plain" };
        self.saw(world, &envelope.event, &envelope.published()?, number, came)?;
        self.bases.keep(text, envelope, world.plain_markers)
    }

    pub fn delta(&mut self, world: &World, envelope: &Envelope<'_>) -> Result<(), String> {
        if self.state != State::In {
            return Ok(());
        }
        let delta = envelope.delta()?;
        if self.algorithm != Some(&delta.algorithm) {
            return Err(format!("a delta for who reads {:?}: {delta:?}", self.algorithm));
        }
        let whole = self.bases.decode(&delta).map_err(|error| format!("{error}: {delta:?}"))?;
        let decoded = Envelope::read(whole)?;
        if decoded.event != delta.event || decoded.channel.as_deref() != Some(CHANNELS[self.channel].0) {
            return Err(format!("{whole} from {delta:?}"));
        }
        let data = decoded.published()?.into_owned();
        world.totals.add("deltas decoded");
        self.saw(world, &delta.event, &data, Some(delta.seq), "delta")
    }

    fn saw(
        &mut self,
        world: &World,
        name: &str,
        data: &str,
        seq: Option<u32>,
        came: &'static str,
    ) -> Result<(), String> {
        world.totals.add("deliveries checked");
        let span = self.span.as_mut().expect("who is in has a span");
        if self.resumes {
            let seq = seq.ok_or_else(|| format!("no number with {name} {data}"))?;
            let position = self.position.as_mut().expect("who resumes has a position");
            if !is_after(seq, position.seq) {
                return Err(format!("number {seq} after {position:?}: {name} {data}"));
            }
            position.seq = seq;
        }
        if name == "fence" {
            let number = data.rsplit(':').next().and_then(|it| it.trim_end_matches('}').parse().ok());
            self.fence = number.ok_or("a fence without a number")?;
        }
        span.seen.push(print(name, data));
        span.came.push((seq.unwrap_or(0), came));
        if span.seen.len().is_multiple_of(CHECKPOINT_EVENTS) {
            self.checkpoint = self.position.map(|position| (position, span.seen.len()));
        }
        Ok(())
    }
}
