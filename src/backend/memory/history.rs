//! A channel's history: sequence numbers, entries, last event, bases.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backend::{Cached, KeptBases, StoredBase};
use crate::capacity::Shrink;
use crate::entry::{Entry, EntryId, Kind, Log, Position};
use crate::event::decode_events;
use crate::limits;

use super::bases::Bases;

#[derive(Debug, Default)]
pub(super) struct History {
    head: Option<Position>,
    /// Entries and the times at which they expire.
    log: VecDeque<(Instant, Entry)>,
    /// Bytes of all bodies since the first entry.
    offset: u64,
    appended: Option<Instant>,
    /// The cached event, until it expires.
    last: Option<(Instant, Cached)>,
    /// Sequence number of the last event of a cache channel.
    last_seq: Option<u64>,
    bases: Bases,
    deltas_off: bool,
    /// There was an entry that is not a subscription count.
    has_events: bool,
}

/// An entry without its number.
#[derive(Debug)]
pub(super) struct NewEntry {
    pub(super) id: EntryId,
    pub(super) kind: Kind,
    pub(super) count: u32,
    pub(super) body: Bytes,
    /// The sequence numbers of a new epoch begin after it.
    pub(super) start: u64,
    pub(super) time_ms: u64,
}

impl History {
    pub(super) fn head(&self) -> Option<Position> {
        self.head
    }

    /// Numbers an entry and stores it until `until`.
    pub(super) fn append(&mut self, new: NewEntry, until: Instant) -> Entry {
        let NewEntry { id, kind, count, body, start, time_ms } = new;
        let head = self.head.unwrap_or(Position { epoch: start, seq: start, ..Position::default() });
        let entry = Entry {
            kind,
            epoch: head.epoch,
            first_seq: head.seq + 1,
            count,
            time_ms,
            offset: self.offset,
            id,
            prev: head.id,
            body,
        };
        self.has_events |= kind != Kind::SubscriptionCount;
        self.head = Some(entry.position());
        self.appended = Some(Instant::now());
        self.store(entry.clone(), until);
        entry
    }

    /// Stores the newest event as the channel's cached event.
    pub(super) fn cache(&mut self, event: &Bytes, ttl: Duration) {
        let head = self.head.unwrap_or_default();
        let Ok(Some(event)) = decode_events(event.clone(), 1).map(|mut events| events.pop()) else { return };
        let cached = Cached { seq: head.seq, time_ms: head.time_ms, ttl, event };
        self.last_seq = Some(cached.seq);
        self.last = Some((Instant::now() + ttl, cached));
    }

    pub(super) fn cached(&self) -> Option<Cached> {
        let (until, cached) = self.last.as_ref()?;
        let ttl = until.checked_duration_since(Instant::now())?;
        Some(Cached { ttl, ..cached.clone() })
    }

    /// Sequence number of the last event of a cache channel, expired or not.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.last_seq
    }

    /// Stores the bases of the newest publication, which has `count` events.
    pub(super) fn keep(&mut self, bases: &KeptBases, count: u32, body: &Bytes) {
        self.bases.keep(bases, count, body, self.head.unwrap_or_default());
    }

    pub(super) fn bases(&self) -> Vec<StoredBase> {
        self.bases.read()
    }

    /// Forgets a history of subscription counts only, when nobody is subscribed any more.
    pub(super) fn forget_counts(&mut self) {
        if !self.has_events {
            *self = History::default();
        }
    }

    pub(super) fn deltas_off(&self) -> bool {
        self.deltas_off
    }

    /// Returns whether the state changes, so that the caller appends an entry.
    pub(super) fn switch_deltas(&mut self, on: bool) -> bool {
        let changes = self.head.is_some() && self.deltas_off == on;
        self.deltas_off ^= changes;
        changes
    }

    pub(super) fn read(&self, after: EntryId) -> Log {
        self.read_from(self.log.iter().rposition(|(_, it)| it.id == after).map_or(0, |at| at + 1))
    }

    /// The counterpart of `lua/read_log_since.lua`.
    pub(super) fn read_since(&self, seen: u32) -> Log {
        let Some(head) = self.head else { return Log::default() };
        let back = head.seq.wrapping_sub(seen.into()) % (1 << 31);
        let seq = head.seq.saturating_sub(back);
        let after = self.log.partition_point(|(_, it)| it.first_seq <= seq);
        self.read_from(after.saturating_sub(1 + limits::RESUME_BASES_MAX))
    }

    fn read_from(&self, at: usize) -> Log {
        let entries = self.log.iter().skip(at);
        Log { head: self.head, entries: entries.map(|(_, entry)| entry.clone()).collect() }
    }

    fn store(&mut self, entry: Entry, until: Instant) {
        let now = Instant::now();
        self.offset += entry.body.len() as u64;
        self.log.push_back((until, entry));
        while self.log.len() > 1 && self.is_over(now) {
            self.log.pop_front();
        }
    }

    /// Removes what has expired at `now`. Returns when the next part expires; `None` if nothing is
    /// left.
    pub(super) fn expire(&mut self, now: Instant) -> Option<Instant> {
        while self.log.front().is_some_and(|(until, _)| *until <= now) {
            self.log.pop_front();
        }
        self.log.shrink_if_sparse();
        if self.last.as_ref().is_some_and(|(until, _)| *until <= now) {
            self.last = None;
        }
        let cached_until = self.last.as_ref().map(|(until, _)| *until);
        let head_until = self.appended.map(|appended| appended + limits::HEAD_IDLE_MAX).max(cached_until);
        if head_until.is_none_or(|until| until <= now) {
            *self = History::default();
            return None;
        }
        let oldest_until = self.log.front().map(|(until, _)| *until);
        [oldest_until, cached_until, head_until].into_iter().flatten().min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.log.len() > limits::LOG_ENTRIES_MAX
            || self.log.front().is_some_and(|(until, oldest)| {
                self.offset - oldest.offset > limits::LOG_BYTES_MAX as u64 || *until <= now
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, encode_events};

    /// Appends an entry that expires after [`limits::LOG_AGE_MAX`].
    fn append(history: &mut History, kind: Kind, count: u32, body: Bytes, start: u64) -> Entry {
        let new = NewEntry { id: EntryId::random(), kind, count, body, start, time_ms: 0 };
        history.append(new, Instant::now() + limits::LOG_AGE_MAX)
    }

    /// Entries of one to three events, numbered after `start`.
    fn history(start: u64) -> History {
        let mut history = History::default();
        for number in 0..100 {
            append(&mut history, Kind::ClientEvents, number % 3 + 1, Bytes::new(), start);
        }
        history
    }

    #[test]
    fn entries_cached_event_and_head_expire_by_time() {
        let mut history = History::default();
        let body = encode_events(&[Event::new("e", "data".to_owned())]);
        let start = Instant::now();
        append(&mut history, Kind::Events, 1, body.clone(), 5);
        history.cache(&body, 2 * limits::LOG_AGE_MAX);
        let head = history.head();
        let slack = Duration::from_secs(1);
        assert!(history.expire(start).is_some_and(|next| next >= start + limits::LOG_AGE_MAX));
        assert_eq!(history.read(EntryId::NONE).entries.len(), 1);

        let next = history.expire(start + limits::LOG_AGE_MAX + slack).expect("the cached event is left");
        assert!(history.read(EntryId::NONE).entries.is_empty() && history.cached().is_some());
        assert!(next >= start + 2 * limits::LOG_AGE_MAX);
        let log = history.read_since(6);
        assert_eq!((log.head, log.entries.len()), (head, 0));

        let next = history.expire(next + slack).expect("the head is left");
        assert!(history.last.is_none() && history.last_seq() == Some(6) && history.head() == head);
        assert!(next >= start + limits::HEAD_IDLE_MAX);
        let entry = append(&mut history, Kind::Events, 1, body, 5);
        assert_eq!((entry.first_seq, Some(entry.prev)), (7, head.map(|head| head.id)));

        assert_eq!(history.expire(next + slack + limits::HEAD_IDLE_MAX), None);
        assert!(history.head().is_none() && history.log.is_empty());
    }

    #[test]
    fn read_since_finds_sequence_number_by_low_bits() {
        for start in [1_000, 1 << 31, (9 << 31) - 1, (9 << 31) - 77] {
            let history = history(start);
            for (at, (_, entry)) in history.log.iter().enumerate() {
                for seq in entry.first_seq..=entry.position().seq {
                    let log = history.read_since((seq & 0x7fff_ffff) as u32);
                    assert_eq!(log.head, history.head);
                    let expected = &history.log[at.saturating_sub(limits::RESUME_BASES_MAX)];
                    assert_eq!(log.entries[0], expected.1, "{seq} from {start} on");
                    assert_eq!(log.entries.last(), history.log.back().map(|(_, last)| last));
                }
            }
        }
    }

    #[test]
    fn read_since_returns_whole_history_when_number_is_outside() {
        let history = history(1 << 40);
        let last = history.head.map_or(0, |head| head.seq);
        for seq in [(1 << 40), last + 1, last + 1_000_000] {
            assert_eq!(history.read_since((seq & 0x7fff_ffff) as u32).entries.len(), 100);
        }
        // The head of a new history is below this number.
        let young = self::history(5);
        assert_eq!(young.read_since(0x7fff_ffff).entries.len(), 100);
        assert!(History::default().read_since(7).entries.is_empty());
    }
}
