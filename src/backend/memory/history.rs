//! WebhookEventKind was announced on a channel: its numbers, its log, its last event.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::backend::{Cached, KeptBases, StoredBase};
use crate::entry::{Entry, EntryId, Kind, Log, Position};
use crate::event::decode_events;
use crate::limits;

use super::bases::Bases;

#[derive(Debug, Default)]
pub(super) struct History {
    head: Option<Position>,
    log: VecDeque<(Instant, Entry)>,
    /// Bytes of all bodies.
    offset: u64,
    appended: Option<Instant>,
    last: Option<(Instant, Cached)>,
    bases: Bases,
    deltas_off: bool,
}

impl History {
    pub(super) fn head(&self) -> Option<Position> {
        self.head
    }

    pub(super) fn appended(&self) -> Option<Instant> {
        self.appended
    }

    /// Numbers from `start` on if this is the first, and remembers.
    pub(super) fn append(
        &mut self,
        id: EntryId,
        kind: Kind,
        count: u32,
        body: Bytes,
        start: u64,
        time_ms: u64,
    ) -> Entry {
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
        self.head = Some(entry.position());
        self.appended = Some(Instant::now());
        self.remember(entry.clone());
        entry
    }

    /// Keeps the event that was announced last.
    pub(super) fn cache(&mut self, event: &Bytes, ttl: Duration) {
        let head = self.head.unwrap_or_default();
        let Ok(Some(event)) = decode_events(event.clone(), 1).map(|mut events| events.pop()) else { return };
        let cached = Cached { seq: head.seq, time_ms: head.time_ms, ttl, event };
        self.last = Some((Instant::now() + ttl, cached));
    }

    pub(super) fn cached(&self) -> Option<Cached> {
        let (until, cached) = self.last.as_ref()?;
        let ttl = until.checked_duration_since(Instant::now())?;
        Some(Cached { ttl, ..cached.clone() })
    }

    /// Of the last event of a cache channel, kept or not.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.last.as_ref().map(|(_, cached)| cached.seq)
    }

    /// Keeps the newest events of the run of `count` that was announced last.
    pub(super) fn keep(&mut self, bases: &KeptBases, count: u32, body: &Bytes) {
        self.bases.keep(bases, count, body, self.head.unwrap_or_default());
    }

    pub(super) fn bases(&self) -> Vec<StoredBase> {
        self.bases.read()
    }

    pub(super) fn deltas_off(&self) -> bool {
        self.deltas_off
    }

    /// True if that is to be announced.
    pub(super) fn switch_deltas(&mut self, on: bool) -> bool {
        let changes = self.head.is_some() && self.deltas_off == on;
        self.deltas_off ^= changes;
        changes
    }

    pub(super) fn read(&self, after: EntryId) -> Log {
        self.read_from(self.log.iter().rposition(|(_, it)| it.id == after).map_or(0, |at| at + 1))
    }

    /// As `lua/read_log_since.lua`.
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

    fn remember(&mut self, entry: Entry) {
        let now = Instant::now();
        self.offset += entry.body.len() as u64;
        self.log.push_back((now, entry));
        while self.log.len() > 1 && self.is_over(now) {
            self.log.pop_front();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.log.len() > limits::LOG_ENTRIES_MAX
            || self.log.front().is_some_and(|(at, oldest)| {
                self.offset - oldest.offset > limits::LOG_BYTES_MAX as u64
                    || now.duration_since(*at) > limits::LOG_AGE_MAX
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of one to three events, numbered from `start` on.
    fn history(start: u64) -> History {
        let mut history = History::default();
        for run in 0..100 {
            let id = EntryId::random();
            history.append(id, Kind::ClientEvents, run % 3 + 1, Bytes::new(), start, 0);
        }
        history
    }

    #[test]
    fn every_number_is_found_by_what_clients_see_of_it() {
        for start in [1_000, 1 << 31, (9 << 31) - 1, (9 << 31) - 77] {
            let history = history(start);
            for (at, (_, run)) in history.log.iter().enumerate() {
                for seq in run.first_seq..=run.position().seq {
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
    fn a_number_that_the_log_does_not_reach_gets_all_of_it() {
        let history = history(1 << 40);
        let last = history.head.map_or(0, |head| head.seq);
        for seq in [(1 << 40), last + 1, last + 1_000_000] {
            assert_eq!(history.read_since((seq & 0x7fff_ffff) as u32).entries.len(), 100);
        }
        // No number is that low.
        let young = self::history(5);
        assert_eq!(young.read_since(0x7fff_ffff).entries.len(), 100);
        assert!(History::default().read_since(7).entries.is_empty());
    }
}
