//! The share of the actor's time that the filters of one app may take, and the entries that wait
//! for it. All entries of the app wait, so that a connection on two channels receives them in
//! their order; those of other apps do not.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::backend_events::Incoming;
use crate::capacity::Shrink;
use crate::limits;
use crate::metrics::metrics;

/// Contains only apps whose filters took time recently, or whose entries wait.
#[derive(Debug, Default)]
pub(super) struct Backlogs(HashMap<Box<str>, Backlog>);

#[derive(Debug)]
struct Backlog {
    /// The time at which the app's share is as large as the time that its filters have taken.
    balanced_at: Instant,
    entries: VecDeque<Incoming>,
    bytes: usize,
    /// Time of the last drop.
    dropped_at: Option<Instant>,
}

/// The handling of an arrived entry.
#[derive(Debug)]
pub(super) enum Arrival {
    /// It can be handled now.
    Handle(Incoming),
    /// It waits, as the first entry of its app, which continues after this time.
    Wait(Duration),
    /// It waits behind others, or was dropped.
    Queued,
}

impl Backlogs {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Charges the time that filters of an app have taken.
    pub(super) fn charge(&mut self, app: &str, time: Duration, now: Instant) {
        let cost = time * limits::FILTER_TIME_PARTS;
        match self.0.get_mut(app) {
            Some(backlog) => backlog.balanced_at = backlog.balanced_at.max(now) + cost,
            None => {
                let (entries, bytes) = (VecDeque::new(), 0);
                let backlog = Backlog { balanced_at: now + cost, entries, bytes, dropped_at: None };
                self.0.insert(app.into(), backlog);
            }
        }
    }

    pub(super) fn arrive(&mut self, incoming: Incoming, now: Instant) -> Arrival {
        let app = incoming.channel_id.app();
        let Some(backlog) = self.0.get_mut(app) else { return Arrival::Handle(incoming) };
        if backlog.entries.is_empty() && backlog.wait(now).is_zero() {
            return Arrival::Handle(incoming);
        }
        let bytes = backlog.bytes + incoming.entry.body.len();
        if backlog.entries.len() >= limits::FILTER_BACKLOG_ENTRIES_MAX
            || bytes > limits::FILTER_BACKLOG_BYTES_MAX
        {
            metrics().filter_entries_dropped.increment(1);
            if backlog.dropped_at.replace(now).is_none() {
                tracing::warn!(app, "filters take too much time: events of this app are dropped");
            }
            return Arrival::Queued;
        }
        metrics().filter_entries_delayed.increment(1);
        backlog.bytes = bytes;
        backlog.entries.push_back(incoming);
        if backlog.entries.len() == 1 { Arrival::Wait(backlog.wait(now)) } else { Arrival::Queued }
    }

    /// The next entry of the app, if its share covers one. The time until then, if not; `None`
    /// without entries.
    pub(super) fn next(&mut self, app: &str, now: Instant) -> Option<Result<Incoming, Duration>> {
        let backlog = self.0.get_mut(app).filter(|backlog| !backlog.entries.is_empty())?;
        let wait = backlog.wait(now);
        if !wait.is_zero() {
            return Some(Err(wait));
        }
        let incoming = backlog.entries.pop_front()?;
        backlog.entries.shrink_if_sparse();
        backlog.bytes -= incoming.entry.body.len();
        Some(Ok(incoming))
    }

    /// Entries of the app wait.
    pub(super) fn has_entries(&self, app: &str) -> bool {
        self.0.get(app).is_some_and(|backlog| !backlog.entries.is_empty())
    }

    /// Entries of the app were dropped in the last [`limits::FILTER_BACKLOG_RECOVERY`].
    pub(super) fn has_dropped(&self, app: &str, now: Instant) -> bool {
        self.0.get(app).is_some_and(|backlog| backlog.has_dropped(now))
    }

    /// Forgets apps with nothing to remember.
    pub(super) fn purge(&mut self, now: Instant) {
        self.0.retain(|app, backlog| {
            if backlog.dropped_at.is_some() && !backlog.has_dropped(now) {
                backlog.dropped_at = None;
                tracing::info!(app, "no events of this app are dropped any more");
            }
            !backlog.entries.is_empty() || backlog.dropped_at.is_some() || backlog.balanced_at > now
        });
        self.0.shrink_if_sparse();
    }
}

impl Backlog {
    /// The time until the share covers the next entry.
    fn wait(&self, now: Instant) -> Duration {
        self.balanced_at.saturating_duration_since(now + limits::FILTER_TIME_WINDOW)
    }

    fn has_dropped(&self, now: Instant) -> bool {
        self.dropped_at.is_some_and(|at| now.duration_since(at) < limits::FILTER_BACKLOG_RECOVERY)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::channel::ChannelId;
    use crate::entry::{Entry, EntryId, Kind};

    fn incoming(channel_id: &str, seq: u64, bytes: usize) -> Incoming {
        let entry = Entry {
            kind: Kind::Events,
            epoch: 0,
            first_seq: seq,
            count: 1,
            time_ms: 0,
            offset: 0,
            id: EntryId::random(),
            prev: EntryId::random(),
            body: Bytes::from(vec![0; bytes]),
        };
        Incoming { channel_id: ChannelId::from_wire(channel_id).expect("a channel id"), entry }
    }

    fn is_handled(arrival: &Arrival) -> bool {
        matches!(arrival, Arrival::Handle(_))
    }

    #[test]
    fn entries_wait_in_order_until_the_share_covers_the_time() {
        let (mut backlogs, start) = (Backlogs::default(), Instant::now());
        let share = limits::FILTER_TIME_WINDOW / limits::FILTER_TIME_PARTS;
        backlogs.charge("a", share, start);
        assert!(is_handled(&backlogs.arrive(incoming("a:x", 1, 0), start)), "the window is used up at once");
        backlogs.charge("a", share, start);
        let Arrival::Wait(wait) = backlogs.arrive(incoming("a:x", 2, 0), start) else { panic!("no wait") };
        assert_eq!(wait, limits::FILTER_TIME_WINDOW);
        assert!(matches!(backlogs.arrive(incoming("a:y", 3, 0), start + 2 * wait), Arrival::Queued));
        assert!(is_handled(&backlogs.arrive(incoming("b:x", 1, 0), start)), "another app");
        assert_eq!(backlogs.next("a", start).and_then(Result::err), Some(wait));
        let mut next = || backlogs.next("a", start + wait).and_then(Result::ok).map(|it| it.entry.first_seq);
        assert_eq!([next(), next(), next()], [Some(2), Some(3), None]);
        assert!(is_handled(&backlogs.arrive(incoming("a:x", 4, 0), start + wait)));
    }

    #[test]
    fn waiting_entries_are_bounded_per_app() {
        for (bytes, fit) in
            [(0, limits::FILTER_BACKLOG_ENTRIES_MAX), (limits::FILTER_BACKLOG_BYTES_MAX / 4, 4)]
        {
            let (mut backlogs, start) = (Backlogs::default(), Instant::now());
            backlogs.charge("a", limits::FILTER_TIME_WINDOW, start);
            for seq in 0..2 * fit as u64 {
                assert!(!is_handled(&backlogs.arrive(incoming("a:x", seq, bytes), start)));
                assert_eq!(backlogs.has_dropped("a", start), seq >= fit as u64);
            }
            let (later, end) = (
                start + limits::FILTER_TIME_WINDOW * limits::FILTER_TIME_PARTS,
                start + limits::FILTER_BACKLOG_RECOVERY,
            );
            for _ in 0..fit {
                assert!(backlogs.next("a", later).is_some_and(|next| next.is_ok()));
            }
            assert!(!backlogs.has_entries("a") && backlogs.has_dropped("a", later));
            backlogs.purge(later);
            assert!(!backlogs.is_empty());
            backlogs.purge(end);
            assert!(backlogs.is_empty());
        }
    }
}
