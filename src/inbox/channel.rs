//! One channel on this node: who is here and who is joining, whether its topic
//! is listened to, and what of it the cluster has been told.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::order::Order;
use crate::delta::Chain;
use crate::event::{Announcement, AnnouncementId, Position, SocketId};
use crate::hub::{Form, Hub, Subscriber};
use crate::limits;
use crate::metrics::metrics;

/// The serial state machine of one (node, channel).
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) order: Order,
    pub(super) chain: Chain,
    pub(super) hub: Hub,
    pub(super) joining: HashMap<SocketId, Joiner>,
    pub(super) listening: Listening,
    pub(super) membership: Membership,
    /// Kept while a join script is under way.
    pub(super) recent: Option<Recent>,
    pub(super) idle_since: Option<Instant>,
}

/// A subscription whose script has not answered yet.
#[derive(Debug)]
pub(super) struct Joiner {
    pub(super) subscriber: Subscriber,
    /// Frames that tell the client it has succeeded.
    pub(super) confirmation: Bytes,
    /// The script under way counts it.
    pub(super) counted: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Listening {
    #[default]
    No,
    /// Asked for, not proved.
    Asked,
    Yes,
}

/// Where the channel waits for its assertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Queued {
    #[default]
    No,
    /// Nobody waits for it.
    Last,
    /// Someone waits to be let in. It may stand among the last as well.
    First,
}

/// What the cluster has been told of this node's subscriptions here.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The number that was last acknowledged.
    pub(super) asserted: Option<u64>,
    /// The number in the script that is under way: one at a time, so that they
    /// cannot overtake each other.
    pub(super) under_way: Option<u64>,
    pub(super) queued: Queued,
    /// Must be said again, though the number is the same.
    pub(super) stale: bool,
    /// An attempt went unanswered and may yet arrive: the channel is kept, and
    /// asserted anew, until it cannot.
    pub(super) doubtful_until: Option<Instant>,
}

/// What was delivered here since a join script was sent: the joiner may be owed
/// the part after its `at`.
#[derive(Debug, Default)]
pub(super) struct Recent {
    announcements: VecDeque<Announcement>,
    overflown: bool,
}

/// Where a joiner enters the stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// Now, after these, which everyone else has had.
    Now(Vec<Announcement>),
    /// After this announcement, which the node has still to handle.
    After(AnnouncementId),
}

impl Channel {
    /// Subscriptions of this node, confirmed or not: the number to assert.
    pub(super) fn count(&self) -> u64 {
        (self.hub.len() + self.joining.len()) as u64
    }

    pub(super) fn needs_assertion(&self) -> bool {
        self.membership.under_way.is_none()
            && (self.membership.stale
                || self.membership.asserted.unwrap_or(0) != self.count()
                || self.joining.values().any(|joiner| !joiner.counted))
    }

    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.count() == 0
            && self.idle_since.is_some_and(|since| now.duration_since(since) >= limits::LINGER)
            && self.membership.under_way.is_none()
            && self.membership.asserted.unwrap_or(0) == 0
            && self.membership.doubtful_until.is_none_or(|until| now >= until)
            && self.listening != Listening::Asked
            && !self.order.is_reading()
    }

    /// Where someone enters whose script has said `at`.
    pub(super) fn entry(&self, at: Position) -> Entry {
        let Some(position) = self.order.position() else { return Entry::Now(Vec::new()) };
        if at.id == position.id {
            return Entry::Now(Vec::new());
        }
        match &self.recent {
            Some(recent) if recent.follows(at.id) => Entry::Now(recent.after(at.id)),
            _ if at.id == AnnouncementId::NONE => Entry::Now(Vec::new()),
            _ if !self.order.has_handled(at.id) => Entry::After(at.id),
            recent => Entry::Now(recent.as_ref().map(Recent::all).unwrap_or_default()),
        }
    }
}

impl Channel {
    pub(super) fn form(&self, deltas: bool) -> Form {
        match deltas {
            true => Form::Chained { holds_from: self.chain.next_index() },
            false => Form::Plain,
        }
    }

    /// What came before is not known: deltas start from a full event, and nobody
    /// waits for an announcement that will not come.
    pub(super) fn start_anew(&mut self) {
        self.chain.restart();
        self.hub.stop_skipping(self.chain.next_index());
    }

    /// Counts everyone who is here or joining; returns the number to assert.
    pub(super) fn begin_assertion(&mut self) -> u64 {
        for joiner in self.joining.values_mut() {
            joiner.counted = true;
        }
        let count = self.count();
        self.membership.under_way = Some(count);
        self.membership.stale = false;
        self.recent = self.order.position().map(|_| Recent::default());
        count
    }

    pub(super) fn assertion_failed(&mut self, now: Instant) {
        for joiner in self.joining.values_mut() {
            joiner.counted = false;
        }
        self.recent = None;
        self.membership.stale = true;
        self.membership.doubtful_until = Some(now + limits::LOG_AGE_MAX);
    }
}

impl Recent {
    pub(super) fn push(&mut self, announcement: Announcement) {
        if self.announcements.len() >= limits::JOIN_BUFFER_ANNOUNCEMENTS_MAX {
            metrics().held_dropped.increment(1);
            // A run with a hole in it would be worse than a later start.
            *self = Recent { overflown: true, ..Recent::default() };
        }
        if !self.overflown {
            self.announcements.push_back(announcement);
        }
    }

    /// Whether something here comes right after `id`, or is it.
    fn follows(&self, id: AnnouncementId) -> bool {
        self.announcements.iter().any(|a| a.id == id || a.prev == id)
    }

    fn after(&self, id: AnnouncementId) -> Vec<Announcement> {
        let from = match self.announcements.iter().rposition(|a| a.id == id) {
            Some(at) => at + 1,
            None => self.announcements.iter().rposition(|a| a.prev == id).unwrap_or(0),
        };
        self.announcements.iter().skip(from).cloned().collect()
    }

    fn all(&self) -> Vec<Announcement> {
        self.announcements.iter().cloned().collect()
    }
}
