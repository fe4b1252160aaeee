//! A client's subscription to one channel, over all of its connections: position,
//! bases, and received events, in spans (docs/guides/resume.md, "In another
//! client").

use std::collections::VecDeque;

use super::bases::Bases;
use super::frames::{CacheSync, Delta, PositionData};
use super::oracle::Span;
use super::request::RequestState;
use super::world::{CHANNELS, World, print};
use crate::support::frame::Envelope;
use crate::support::resuming_client::is_later;

/// Events between two positions from which a client may resume again.
const CHECKPOINT_EVENTS: usize = 40;
const TRACE_MAX: usize = 12;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum State {
    #[default]
    Unsubscribed,
    Pending,
    Subscribed,
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
    /// The client's delta format, once announced.
    pub algorithm: Option<&'static str>,
    /// The last request is not answered yet.
    pub is_awaiting: bool,
    pub(super) request: RequestState,
    pub span: Option<Span>,
    /// Spans that have ended.
    pub finished_spans: Vec<Span>,
    pub(super) position: Option<Position>,
    pub(super) checkpoint: Option<(Position, usize)>,
    pub(super) token: Option<String>,
    pub(super) bases: Bases,
    /// The ids of its previous connections.
    pub(super) previous_sockets: Vec<String>,
    pub fence: u64,
    /// The last frames sent and received, for failure messages.
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

    /// Handles the end of the connection.
    pub fn suspend(&mut self) {
        if self.state == State::Unsubscribed {
            return;
        }
        self.is_awaiting = false;
        self.note("suspended");
        self.state = State::Pending;
        if !self.resumes {
            self.end();
        }
    }

    /// The next connection announces its delta formats later.
    pub fn opt_out(&mut self) {
        self.algorithm = None;
        self.bases.forget(None);
    }

    pub fn unsubscribe(&mut self) {
        self.state = State::Unsubscribed;
        self.end();
    }

    /// Ends the span; further events belong to another one.
    pub fn end(&mut self) {
        self.finished_spans.extend(self.span.take());
        self.position = None;
        self.checkpoint = None;
        self.previous_sockets.clear();
        self.bases.forget(None);
    }

    /// Begins a span: from now on, every published event must arrive.
    fn begin(&mut self, world: &World, earliest: usize) {
        let now = world.logs[self.channel].lock().0.len();
        self.finished_spans.extend(self.span.take());
        self.checkpoint = None;
        // The server has forgotten all others.
        self.previous_sockets.clone_from(&self.request.named);
        self.span = Some(Span {
            starts: earliest.min(now)..=now,
            filter: self.filter,
            sockets: self.request.named.clone(),
            seen: Vec::new(),
            encoding: Vec::new(),
        });
    }

    /// Starts a new round: the log of published events is cleared.
    pub fn start_round(&mut self) {
        self.finished_spans.clear();
        self.checkpoint = None;
        if let Some(span) = &mut self.span {
            span.starts = 0..=0;
            span.seen.clear();
            span.encoding.clear();
        }
    }

    pub fn succeeded(&mut self, world: &World, data: &str) -> Result<(), String> {
        let position_data: PositionData =
            serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        let position = position_data.epoch.zip(position_data.seq).map(|(epoch, seq)| Position { epoch, seq });
        let has_all = [position.is_some(), position_data.resumed.is_some(), position_data.token.is_some()];
        if has_all != [self.resumes; 3] {
            return Err(format!("unexpected answer: {data}"));
        }
        world.totals.add("subscriptions");
        if !std::mem::take(&mut self.is_awaiting) {
            return Err(format!("answer without a request: {data}"));
        }
        if self.request.again && self.state == State::Subscribed && self.span.is_some() {
            // The subscription continues without a gap, and the next event is a
            // full one.
            self.bases.forget(None);
            return Ok(());
        }
        self.state = State::Subscribed;
        self.token = position_data.token;
        match (self.request.from, position_data.resumed) {
            (Some((named, seen_count, wrong)), Some(true)) => {
                if wrong || position != Some(named) {
                    return Err(format!("resumed from {named:?} by {data}"));
                }
                world.totals.add("resumed");
                let span = self.span.as_mut().expect("only a span is resumed");
                span.seen.truncate(seen_count);
                span.encoding.truncate(seen_count);
                span.sockets.extend(self.request.named.iter().cloned());
                self.position = position;
                // The new token is for the events after this position.
                self.checkpoint = self.checkpoint.filter(|(checkpoint, _)| *checkpoint == named);
                if !self.request.keeps_bases {
                    self.bases.forget(self.request.opted_in.then_some(named.seq));
                }
                return Ok(());
            }
            (None, Some(true)) => return Err(format!("resumed without a requested position: {data}")),
            (Some((.., true)), _) => world.totals.add("resumed:false for a wrong position"),
            (Some(_), _) => world.totals.add("resumed:false"),
            (None, _) => {}
        }
        // On an existing connection, the node may be behind.
        let earliest = if self.request.from.is_some() { 0 } else { self.request.settled };
        self.begin(world, earliest);
        self.position = position;
        self.bases.forget(position.filter(|_| self.request.opted_in).map(|position| position.seq));
        Ok(())
    }

    pub fn position_frame(&mut self, world: &World, data: &str) -> Result<(), String> {
        let position_data: PositionData =
            serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        let (Some(epoch), Some(seq), true) = (position_data.epoch, position_data.seq, self.resumes) else {
            return Err(format!("an unexpected position {data}"));
        };
        if self.state != State::Subscribed {
            return Ok(());
        }
        let earlier = self.position.replace(Position { epoch, seq });
        if position_data.missed {
            world.totals.add("missed");
            self.bases.forget(self.request.opted_in.then_some(seq));
            self.begin(world, 0);
        } else if earlier.is_some_and(|it| it.epoch == epoch && is_later(it.seq, seq)) {
            return Err(format!("the position {data} after {earlier:?}"));
        }
        Ok(())
    }

    pub fn synced(&mut self, world: &World, data: &str) -> Result<(), String> {
        if self.state != State::Subscribed {
            return Ok(());
        }
        let sync: CacheSync = serde_json::from_str(data).map_err(|error| format!("{error} in {data}"))?;
        world.totals.add("cache syncs");
        let from = self.position.filter(|_| self.request.opted_in).map(|position| position.seq);
        world.totals.add_many("bases synced", self.bases.replace(sync, from) as u64);
        Ok(())
    }

    /// Handles a full frame of an event.
    pub fn event(&mut self, world: &World, text: &str, envelope: &Envelope<'_>) -> Result<(), String> {
        if self.state != State::Subscribed {
            return Ok(());
        }
        if envelope.marker.is_some() && self.algorithm.is_none() {
            return Err(format!("a marker for a client without deltas: {text}"));
        }
        if envelope.seq.is_some() && !self.resumes {
            return Err(format!("a number for a client that does not resume: {text}"));
        }
        let number = envelope.marker.or(envelope.seq);
        let encoding = if envelope.marker.is_some() { "full" } else { "plain" };
        self.record(world, &envelope.event, &envelope.published(), number, encoding)?;
        self.bases.keep(text, envelope, world.plain_markers)
    }

    pub fn delta(&mut self, world: &World, envelope: &Envelope<'_>) -> Result<(), String> {
        if self.state != State::Subscribed {
            return Ok(());
        }
        let delta = Delta::parse(envelope.data())?;
        if self.algorithm != Some(&delta.algorithm) {
            return Err(format!("a delta for a client with format {:?}: {delta:?}", self.algorithm));
        }
        let whole = self.bases.decode(&delta).map_err(|error| format!("{error}: {delta:?}"))?;
        let decoded = Envelope::parse(whole)?;
        if decoded.event != delta.event || decoded.channel.as_deref() != Some(CHANNELS[self.channel].0) {
            return Err(format!("{whole} from {delta:?}"));
        }
        let data = decoded.published().into_owned();
        world.totals.add("deltas decoded");
        self.record(world, &delta.event, &data, Some(delta.seq), "delta")
    }

    fn record(
        &mut self,
        world: &World,
        name: &str,
        data: &str,
        seq: Option<u32>,
        encoding: &'static str,
    ) -> Result<(), String> {
        world.totals.add("deliveries checked");
        let span = self.span.as_mut().expect("a live subscription has a span");
        if self.resumes {
            let seq = seq.ok_or_else(|| format!("no number with {name} {data}"))?;
            let position = self.position.as_mut().expect("a resumable subscription has a position");
            if !is_later(seq, position.seq) {
                return Err(format!("number {seq} after {position:?}: {name} {data}"));
            }
            position.seq = seq;
        }
        if name == "fence" {
            let number = data.rsplit(':').next().and_then(|it| it.trim_end_matches('}').parse().ok());
            self.fence = number.ok_or("a fence without a number")?;
        }
        span.seen.push(print(name, data));
        span.encoding.push((seq.unwrap_or(0), encoding));
        if span.seen.len().is_multiple_of(CHECKPOINT_EVENTS) {
            self.checkpoint = self.position.map(|position| (position, span.seen.len()));
        }
        Ok(())
    }
}
