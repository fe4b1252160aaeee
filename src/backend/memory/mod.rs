//! The shared state of a single node, in memory: the default. The same contract as the Redis
//! backend, behind one lock.

mod bases;
mod history;
mod membership;
mod quotas;
mod webhook_outbox;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{BackendError, Cached, Charge, ControlEntry, Counts, Publication, Published, StoredBase};
use crate::backend_events::{BackendEvents, Incoming};
use crate::channel::ChannelId;
use crate::entry::{EntryId, Kind, Log, Position};
use crate::event::decode_events;
use crate::limits;
use crate::webhook_event::WebhookEventKind;

use history::History;
use membership::Membership;
use quotas::Rates;
use webhook_outbox::WebhookOutboxes;

#[derive(Debug)]
pub struct Memory {
    events: BackendEvents,
    /// A blocking lock, not an async one: no code awaits while it holds the lock.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    channels: HashMap<ChannelId, Channel>,
    /// Channels with subscriptions, except user channels.
    occupied: BTreeSet<ChannelId>,
    /// Their number, by app.
    occupied_counts: HashMap<Box<str>, u64>,
    /// Channels by the time of their last entry, for the removal of idle ones. Elements may be
    /// outdated.
    idle: VecDeque<(Instant, ChannelId)>,
    /// The highest sequence number of all channels: a new epoch starts above it.
    highest_seq: u64,
    webhook_events: WebhookOutboxes,
    rates: Rates,
}

#[derive(Debug, Default)]
struct Channel {
    history: History,
    membership: Membership,
    listened: bool,
}

impl Memory {
    pub fn new(events: BackendEvents) -> Memory {
        Memory { events, state: Mutex::default() }
    }

    /// Waits for capacity in the backend events queue, then publishes in one step: a caller that
    /// cancels while it waits has published nothing.
    pub async fn publish(
        &self,
        id: EntryId,
        publications: Vec<Publication>,
        charge: Option<Charge>,
    ) -> Result<Published, BackendError> {
        let mut permits = self.events.reserve(publications.len()).await.ok_or(BackendError::Unavailable)?;
        let mut state = self.state.lock();
        state.remove_idle();
        let rate = charge.map(|charge| state.rates.charge(&charge)).transpose()?;
        let mut counts = Vec::with_capacity(publications.len());
        for publication in publications {
            let Publication { channel_id, count, body, wants_counts, last, bases } = publication;
            counts.push(wants_counts.then(|| state.counts(&channel_id)));
            let incoming = state.append(id, &channel_id, Kind::Events, count, body.clone());
            if let Some(last) = last {
                let event = body.slice(body.len() - last.bytes..);
                state.channel(&channel_id).history.cache(&event, last.ttl);
            }
            if let Some(bases) = bases {
                state.channel(&channel_id).history.keep(&bases, count, &body);
            }
            if let Some(incoming) = incoming {
                self.events.push_reserved(&mut permits, incoming);
            }
        }
        Ok(Published { counts, rate })
    }

    pub async fn append(&self, control: ControlEntry) -> Result<(), BackendError> {
        let mut permits = self.events.reserve(1).await.ok_or(BackendError::Unavailable)?;
        let mut state = self.state.lock();
        let ControlEntry { channel_id, kind, body, hooked } = control;
        if hooked && let Ok(mut events) = decode_events(body.clone(), 1) {
            let event = events.pop().expect("one was decoded");
            state.webhook_events.append(&channel_id, WebhookEventKind::ClientEvent(event));
        }
        if let Some(incoming) = state.append(EntryId::random(), &channel_id, kind, 1, body) {
            self.events.push_reserved(&mut permits, incoming);
        }
        Ok(())
    }

    pub fn listen(&self, channel_id: &ChannelId) {
        self.state.lock().channel(channel_id).listened = true;
    }

    pub fn unlisten(&self, channel_id: &ChannelId) {
        let mut state = self.state.lock();
        let Some(channel) = state.channels.get_mut(channel_id) else { return };
        channel.listened = false;
        if channel.history.head().is_none() && channel.membership.is_empty() {
            state.channels.remove(channel_id);
        }
    }

    pub fn read_cached(&self, channel_id: &ChannelId) -> Option<Cached> {
        self.state.lock().channels.get(channel_id)?.history.cached()
    }

    pub fn read_log(&self, channel_id: &ChannelId, after: EntryId) -> Log {
        let state = self.state.lock();
        state.channels.get(channel_id).map(|channel| channel.history.read(after)).unwrap_or_default()
    }

    pub fn read_log_since(&self, channel_id: &ChannelId, seq: u32) -> Log {
        let state = self.state.lock();
        state.channels.get(channel_id).map(|channel| channel.history.read_since(seq)).unwrap_or_default()
    }

    pub fn read_bases(&self, channel_id: &ChannelId) -> Vec<StoredBase> {
        let state = self.state.lock();
        state.channels.get(channel_id).map(|channel| channel.history.bases()).unwrap_or_default()
    }

    pub async fn switch_deltas(&self, channel_id: &ChannelId, on: bool) -> Result<(), BackendError> {
        let mut permits = self.events.reserve(1).await.ok_or(BackendError::Unavailable)?;
        let mut state = self.state.lock();
        let Some(channel) = state.channels.get_mut(channel_id) else { return Ok(()) };
        if channel.history.switch_deltas(on) {
            let body = Bytes::copy_from_slice(&[u8::from(on)]);
            if let Some(incoming) = state.append(EntryId::random(), channel_id, Kind::Deltas, 1, body) {
                self.events.push_reserved(&mut permits, incoming);
            }
        }
        Ok(())
    }

    pub fn read_head(&self, channel_id: &ChannelId) -> Option<Position> {
        self.state.lock().channels.get(channel_id)?.history.head()
    }
}

impl State {
    fn channel(&mut self, channel_id: &ChannelId) -> &mut Channel {
        self.channels.entry(channel_id.clone()).or_default()
    }

    fn counts(&self, channel_id: &ChannelId) -> Counts {
        self.channels.get(channel_id).map(|channel| channel.membership.counts()).unwrap_or_default()
    }

    /// Numbers and stores an entry. Returns it if the channels actor listens to the channel.
    fn append(
        &mut self,
        id: EntryId,
        channel_id: &ChannelId,
        kind: Kind,
        count: u32,
        body: Bytes,
    ) -> Option<Incoming> {
        let now = Instant::now();
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = self.highest_seq.max(unix.as_micros() as u64);
        let channel = self.channels.entry(channel_id.clone()).or_default();
        let is_first = channel.history.appended().is_none();
        let entry = channel.history.append(id, kind, count, body, start, unix.as_millis() as u64);
        let listened = channel.listened;
        self.highest_seq = self.highest_seq.max(entry.position().seq);
        if is_first {
            self.idle.push_back((now, channel_id.clone()));
        }
        listened.then(|| Incoming { channel_id: channel_id.clone(), entry })
    }

    /// Removes the history of channels without an entry for [`limits::HEAD_IDLE_MAX`]. Each call
    /// examines at most two channels.
    fn remove_idle(&mut self) {
        for _ in 0..2 {
            let now = Instant::now();
            match self.idle.front() {
                Some((since, _)) if now.duration_since(*since) > limits::HEAD_IDLE_MAX => {}
                _ => return,
            }
            let Some((_, channel_id)) = self.idle.pop_front() else { return };
            let Some(channel) = self.channels.get_mut(&channel_id) else { continue };
            match channel.history.appended() {
                Some(appended)
                    if now.duration_since(appended) <= limits::HEAD_IDLE_MAX
                        || channel.history.cached().is_some() =>
                {
                    self.idle.push_back((appended.max(now - limits::HEAD_IDLE_MAX), channel_id));
                }
                _ if channel.listened || !channel.membership.is_empty() => {
                    channel.history = History::default();
                }
                _ => drop(self.channels.remove(&channel_id)),
            }
        }
    }
}
