//! The shared state of a single node, in memory: the default. The same contract as the Redis
//! backend, behind one lock.

mod bases;
mod history;
mod membership;
mod quotas;
mod webhook_outbox;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{BackendError, Cached, Charge, ControlEntry, Counts, Publication, Published, StoredBase};
use crate::backend_events::{BackendEvents, Incoming};
use crate::capacity::Shrink;
use crate::channel::ChannelId;
use crate::entry::{EntryId, Kind, Log, Position};
use crate::event::decode_events;
use crate::limits;
use crate::resume_tokens::ResumeTokens;
use crate::webhook_event::WebhookEventKind;

use history::{History, NewEntry};
use membership::Membership;
use quotas::Rates;
use webhook_outbox::WebhookOutboxes;

#[derive(Debug)]
pub struct Memory {
    events: BackendEvents,
    /// A blocking lock, not an async one: no code awaits while it holds the lock.
    state: Mutex<State>,
    resume_tokens: ResumeTokens,
}

#[derive(Debug)]
struct State {
    /// Age at which the entries of a history expire.
    history_age: Duration,
    /// Boxed: up to half of the map is empty.
    channels: HashMap<ChannelId, Box<Channel>>,
    /// Channels with subscriptions, except user channels.
    occupied: BTreeSet<ChannelId>,
    /// Their number, by app.
    occupied_counts: HashMap<Box<str>, u64>,
    /// Channels with a history, by the time at which a part of it expires, or later.
    expiries: BinaryHeap<Reverse<(Instant, ChannelId)>>,
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
    /// Its time in `expiries`. Elements with another one are outdated.
    expires: Option<Instant>,
}

impl Memory {
    pub fn new(events: BackendEvents, history_age: Duration) -> Memory {
        Memory { events, state: Mutex::new(State::new(history_age)), resume_tokens: ResumeTokens::new() }
    }

    pub fn resume_tokens(&self) -> &ResumeTokens {
        &self.resume_tokens
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

    /// Removes what has expired, of at most [`limits::EXPIRED_CHANNELS_MAX`] channels, so that the
    /// lock is not held for long. Returns whether more is due.
    pub fn remove_expired(&self) -> bool {
        self.state.lock().remove_expired(Instant::now(), limits::EXPIRED_CHANNELS_MAX)
    }

    pub fn read_head(&self, channel_id: &ChannelId) -> Option<Position> {
        self.state.lock().channels.get(channel_id)?.history.head()
    }
}

impl State {
    fn new(history_age: Duration) -> State {
        State {
            history_age,
            channels: HashMap::new(),
            occupied: BTreeSet::new(),
            occupied_counts: HashMap::new(),
            expiries: BinaryHeap::new(),
            highest_seq: 0,
            webhook_events: WebhookOutboxes::default(),
            rates: Rates::default(),
        }
    }

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
        let until = Instant::now() + self.history_age;
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = self.highest_seq.max(unix.as_micros() as u64);
        let channel = self.channels.entry(channel_id.clone()).or_default();
        let new = NewEntry { id, kind, count, body, start, time_ms: unix.as_millis() as u64 };
        let entry = channel.history.append(new, until);
        let listened = channel.listened;
        self.highest_seq = self.highest_seq.max(entry.position().seq);
        if channel.expires.is_none() {
            channel.expires = Some(until);
            self.expiries.push(Reverse((until, channel_id.clone())));
        }
        listened.then(|| Incoming { channel_id: channel_id.clone(), entry })
    }

    /// Returns whether more than `channels_max` channels were due.
    fn remove_expired(&mut self, now: Instant, channels_max: usize) -> bool {
        for _ in 0..channels_max {
            match self.expiries.peek() {
                Some(Reverse((due, _))) if *due <= now => {}
                _ => {
                    self.rates.remove_expired(now);
                    self.shrink();
                    return false;
                }
            }
            let Some(Reverse((due, channel_id))) = self.expiries.pop() else { return false };
            let channel = self.channels.get_mut(&channel_id).filter(|channel| channel.expires == Some(due));
            let Some(channel) = channel else { continue };
            match channel.history.expire(now) {
                // A busy channel would be due all the time.
                Some(next) => {
                    let next = next.max(now + self.history_age / limits::EXPIRY_SEARCHES);
                    channel.expires = Some(next);
                    self.expiries.push(Reverse((next, channel_id)));
                }
                None if channel.listened || !channel.membership.is_empty() => channel.expires = None,
                None => drop(self.channels.remove(&channel_id)),
            }
        }
        true
    }

    fn shrink(&mut self) {
        self.channels.shrink_if_sparse();
        self.expiries.shrink_if_sparse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend_events::backend_events;

    fn id(number: usize) -> ChannelId {
        ChannelId::from_wire(&format!("1:c{number}")).expect("a channel id")
    }

    /// Channels with entries and nothing else are removed by time alone.
    #[test]
    fn channels_are_removed_when_their_history_has_expired() {
        let memory = Memory::new(backend_events().0, limits::LOG_AGE_MAX);
        let mut state = memory.state.lock();
        let (start, channels) = (Instant::now(), 40 * limits::EXPIRED_CHANNELS_MAX);
        for number in 0..channels {
            let body = Bytes::from(vec![0; 100]);
            state.append(EntryId::random(), &id(number), Kind::ClientEvents, 1, body);
        }
        state.channel(&id(7)).listened = true;
        let entries = |state: &State| -> usize {
            state.channels.values().map(|channel| channel.history.read(EntryId::NONE).entries.len()).sum()
        };
        let end = |state: &mut State, now: Instant| {
            let mut calls = 1;
            while state.remove_expired(now, limits::EXPIRED_CHANNELS_MAX) {
                calls += 1;
            }
            calls
        };
        assert_eq!((end(&mut state, start), entries(&state)), (1, channels));
        let aged = start + limits::LOG_AGE_MAX + Duration::from_secs(1);
        assert_eq!((end(&mut state, aged), entries(&state)), (41, 0));
        assert_eq!((state.channels.len(), state.expiries.len()), (channels, channels));
        let idle = start + limits::HEAD_IDLE_MAX + Duration::from_secs(1);
        end(&mut state, idle);
        assert_eq!((state.channels.len(), state.expiries.len()), (1, 0));
        assert!(state.channels.capacity() < channels / 4 && state.expiries.capacity() < channels / 4);
        // A new history begins with a higher number.
        let before = state.highest_seq;
        let entry = state.append(EntryId::random(), &id(7), Kind::ClientEvents, 1, Bytes::new());
        assert!(entry.is_some_and(|incoming| incoming.entry.first_seq > before));
        assert_eq!(state.expiries.len(), 1);
    }
}
