//! What was announced on a channel: its numbers, its log, its last event.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::announcement::{Announcement, AnnouncementId, Kind, Log, Position};
use crate::backend::Cached;
use crate::event::decode_events;
use crate::limits;

#[derive(Debug, Default)]
pub(super) struct History {
    head: Option<Position>,
    log: VecDeque<(Instant, Announcement)>,
    log_bytes: usize,
    announced: Option<Instant>,
    last: Option<(Instant, Cached)>,
}

impl History {
    pub(super) fn head(&self) -> Option<Position> {
        self.head
    }

    pub(super) fn announced(&self) -> Option<Instant> {
        self.announced
    }

    /// Numbers from `start` on if this is the first, and remembers.
    pub(super) fn announce(
        &mut self,
        id: AnnouncementId,
        kind: Kind,
        count: u32,
        body: Bytes,
        start: u64,
        time_ms: u64,
    ) -> Announcement {
        let head = self.head.unwrap_or(Position { epoch: start, seq: start, ..Position::default() });
        let announcement = Announcement {
            kind,
            epoch: head.epoch,
            first_seq: head.seq + 1,
            count,
            time_ms,
            id,
            prev: head.id,
            body,
        };
        self.head = Some(announcement.position());
        self.announced = Some(Instant::now());
        self.remember(announcement.clone());
        announcement
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

    pub(super) fn read(&self, after: AnnouncementId) -> Log {
        let from = self.log.iter().rposition(|(_, it)| it.id == after).map_or(0, |at| at + 1);
        let announcements = self.log.iter().skip(from);
        Log {
            head: self.head,
            announcements: announcements.map(|(_, announcement)| announcement.clone()).collect(),
        }
    }

    fn remember(&mut self, announcement: Announcement) {
        let now = Instant::now();
        self.log_bytes += announcement.body.len();
        self.log.push_back((now, announcement));
        while self.log.len() > 1 && self.is_over(now) {
            let (_, oldest) = self.log.pop_front().expect("the log has more than one");
            self.log_bytes -= oldest.body.len();
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.log.len() > limits::LOG_ANNOUNCEMENTS_MAX
            || self.log_bytes > limits::LOG_BYTES_MAX
            || self.log.front().is_some_and(|(at, _)| now.duration_since(*at) > limits::LOG_AGE_MAX)
    }
}
