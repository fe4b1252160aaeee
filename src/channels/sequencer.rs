//! Whether an entry is the next one of its channel: the heart of the
//! promises that nothing is lost silently (P4) and that all nodes see one order
//! (P2). No IO, no clock.
//!
//! Contiguous means that `prev` names the last entry this node handled.
//! Numbers alone would not do: after a failover that lost writes, the new
//! history can initial_status contiguous by number.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::entry::{Entry, EntryId, Log, Position};
use crate::limits;

/// What this node has handled of one channel, and what it holds back.
#[derive(Debug, Default)]
pub struct Sequencer {
    /// None until the first join script has said where the channel stands.
    position: Option<Position>,
    /// The position that was reset_position from the head without having heard what led
    /// to it: nobody here is owed what came before.
    reset_position: Position,
    /// What came before may still be on its way.
    settling: bool,
    /// Announcements handled, oldest first, for as long as the log has them.
    handled: VecDeque<(EntryId, Instant)>,
    /// What came while the position is not known or the log is being read.
    held: VecDeque<Entry>,
    repairing: bool,
}

/// What to do with what was heard.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Deliver(Entry),
    /// The first of a new epoch.
    Begin(Entry),
    /// Delivered already, or older than what was: a node never goes back.
    Duplicate,
    /// Kept until the position is known or the log has been read.
    Held,
    /// Kept, and the log must be read now.
    Gap,
}

/// What a reading of the log came to.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Repair {
    /// Everything that was missed is delivered, or there was nothing to miss.
    Complete,
    /// The log no longer reaches back: events may be lost.
    Incomplete,
    /// The channel began anew (its head was evicted, expired or flushed).
    NewEpoch,
    /// Redis lost entries that this node has delivered, and went on from
    /// an earlier one: an epoch must be opened so that no number is used twice.
    Fork { epoch: u64 },
}

impl Sequencer {
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    pub fn is_repairing(&self) -> bool {
        self.repairing
    }

    /// Whether this node has handled the entry, as far as it remembers.
    pub fn has_handled(&self, id: EntryId) -> bool {
        self.position.is_some_and(|position| position.id == id)
            || self.handled.iter().rev().any(|(handled, _)| *handled == id)
    }

    /// Whether this node has handled everything that was announced until the
    /// channel stood `at`, as a script has said.
    pub fn has_passed(&self, at: Position) -> bool {
        let Some(position) = self.position else { return false };
        let is_before =
            at.epoch == position.epoch && at.seq <= position.seq && at.time_ms <= position.time_ms;
        at.id == EntryId::NONE || is_before || self.has_handled(at.id)
    }

    pub fn accept(&mut self, entry: Entry, now: Instant) -> Decision {
        let Some(position) = self.position else { return self.hold(entry) };
        if self.repairing {
            return self.hold(entry);
        }
        if entry.prev == position.id {
            self.handle(&entry, now);
            return Decision::Deliver(entry);
        }
        if self.has_handled(entry.id)
            || entry.is_before(position)
            || (self.settling && self.is_before_reset(&entry))
        {
            return Decision::Duplicate;
        }
        if entry.prev == EntryId::NONE && entry.epoch != position.epoch {
            // There is nothing between.
            self.handle(&entry, now);
            return Decision::Begin(entry);
        }
        self.hold(entry);
        self.repairing = true;
        Decision::Gap
    }

    /// The channel stands at `at`, as a script has said after this node was
    /// proved to listen. What was held and is newer is to be heard again.
    pub fn reset_to(&mut self, at: Position) -> VecDeque<Entry> {
        self.position = Some(at);
        self.reset_position = at;
        self.settling = true;
        std::mem::take(&mut self.held)
    }

    /// Declares that the log is being read. False if that is under way.
    pub fn begin_repair(&mut self) -> bool {
        !std::mem::replace(&mut self.repairing, true)
    }

    /// Reading failed: what was held is let go and will show as a gap again.
    pub fn abandon_repair(&mut self) -> VecDeque<Entry> {
        self.repairing = false;
        std::mem::take(&mut self.held)
    }

    /// The log was read. Returns what to deliver first, in order, and what came
    /// meanwhile, to be heard again after it.
    pub fn repair(&mut self, log: Log, now: Instant) -> (Repair, Vec<Entry>, VecDeque<Entry>) {
        self.repairing = false;
        let held = std::mem::take(&mut self.held);
        let Some(position) = self.position else { return (Repair::Complete, Vec::new(), held) };
        if held.front().is_some_and(|heard| heard.prev == position.id) {
            // Nothing is missing: what was missed is here by now. A link that is
            // only slow may be further behind than the log reaches back.
            return (Repair::Complete, Vec::new(), held);
        }
        let Log { head, mut entries } = log;
        let repair = match entries.first() {
            Some(first) if first.prev == position.id => Repair::Complete,
            Some(_) => self.join_histories(position, &mut entries),
            None => self.without_log(position, head, &held),
        };
        for entry in &entries {
            self.handle(entry, now);
        }
        (repair, entries, held)
    }

    /// The log does not go on from our position. Leaves in `entries` what
    /// this node has not handled.
    fn join_histories(&self, position: Position, entries: &mut Vec<Entry>) -> Repair {
        let handled: HashSet<EntryId> = self.handled.iter().map(|(id, _)| *id).chain([position.id]).collect();
        let common = entries.iter().rposition(|a| handled.contains(&a.id));
        let started_anew = entries[0].prev == EntryId::NONE;
        entries.drain(..common.map_or(0, |at| at + 1));
        entries.retain(|it| !it.is_before(position) && !self.is_before_reset(it));
        let Some(next) = entries.first() else { return Repair::Complete };
        if next.epoch == position.epoch && next.first_seq <= position.seq {
            Repair::Fork { epoch: next.epoch }
        } else if started_anew && next.epoch != position.epoch {
            Repair::NewEpoch
        } else if common.is_some() {
            // We had handled more than the log shows before it: lost writes,
            // whose numbers were not used again.
            Repair::Fork { epoch: next.epoch }
        } else {
            Repair::Incomplete
        }
    }

    /// The log has nothing for us. Where something newer was heard, or the head
    /// has moved, what lies between is gone: goes on from there.
    fn without_log(&mut self, at: Position, head: Option<Position>, held: &VecDeque<Entry>) -> Repair {
        if let Some(heard) = held.front()
            && !self.has_handled(heard.id)
            && !heard.is_before(at)
        {
            let seq = heard.first_seq.saturating_sub(1);
            let time_ms = heard.time_ms;
            self.position = Some(Position { epoch: heard.epoch, seq, id: heard.prev, time_ms });
            return Repair::Incomplete;
        }
        match head {
            Some(head) if !self.has_handled(head.id) => {
                self.reset_to(head);
                Repair::Incomplete
            }
            // Nothing is newer; or Redis has lost everything, and the next
            // entry will begin an epoch.
            _ => Repair::Complete,
        }
    }

    /// The epoch was opened at `seq` by this node or another: numbers go on
    /// from there.
    pub fn rename_epoch(&mut self, epoch: u64, seq: u64) {
        if let Some(position) = &mut self.position {
            position.epoch = epoch;
            position.seq = position.seq.max(seq);
        }
    }

    /// Gives up on what is missing and goes on from the head.
    pub fn skip_to(&mut self, head: Position) -> VecDeque<Entry> {
        self.repairing = false;
        self.reset_to(head)
    }

    /// Forgets entries older than the log keeps them.
    pub fn forget(&mut self, now: Instant) {
        let is_old = |handled: &Instant| now.saturating_duration_since(*handled) > limits::LOG_AGE_MAX * 2;
        while self.handled.front().is_some_and(|(_, handled)| is_old(handled)) {
            self.handled.pop_front();
        }
        if self.handled.is_empty() {
            self.handled = VecDeque::new();
        }
    }

    fn handle(&mut self, entry: &Entry, now: Instant) {
        self.position = Some(entry.position());
        self.settling = false;
        if self.handled.len() >= limits::LOG_ENTRIES_MAX {
            self.handled.pop_front();
        }
        self.handled.push_back((entry.id, now));
    }

    /// BaseState an entry back; at the bound the oldest is let go, and the
    /// gap it leaves is found like any other.
    fn hold(&mut self, entry: Entry) -> Decision {
        if self.held.len() >= limits::REPAIR_BUFFER_ENTRIES_MAX {
            self.held.pop_front();
            crate::metrics::metrics().held_entries_dropped.increment(1);
        }
        self.held.push_back(entry);
        Decision::Held
    }

    /// A fork may use the reset_position number again, but later.
    fn is_before_reset(&self, entry: &Entry) -> bool {
        entry.first_seq <= self.reset_position.seq && entry.time_ms <= self.reset_position.time_ms
    }
}

#[cfg(test)]
mod tests;
