//! Decides whether an entry is the next one of its channel. Promises P4 (nothing is
//! lost silently) and P2 (one order per channel) of design.md rest on it. No IO, no
//! clock.
//!
//! An entry is next if its `prev` is the id of the last entry that this node handled.
//! Sequence numbers alone do not suffice: after a failover that lost writes, a
//! different history may continue with the same numbers.

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use crate::entry::{Entry, EntryId, Log, Position};
use crate::limits;

/// The position of one channel on this node, and the entries held back.
#[derive(Debug, Default)]
pub struct Sequencer {
    /// None until the first membership update has returned the channel's position.
    position: Option<Position>,
    /// The position of the last reset, taken from a head without receiving the entries
    /// before it. No subscriber of this node needs an earlier entry.
    reset_position: Position,
    /// No entry was handled since the last reset; entries from before it may still be in
    /// flight.
    settling: bool,
    /// Handled entries, oldest first, for as long as the history contains them.
    handled: VecDeque<(EntryId, Instant)>,
    /// Entries received while the position is unknown or a repair is in progress.
    held: VecDeque<Entry>,
    repairing: bool,
}

/// What to do with a received entry.
#[derive(Debug, PartialEq, Eq)]
pub enum Decision {
    Deliver(Entry),
    /// Deliver it as the first entry of a new epoch.
    Begin(Entry),
    /// Drop it: it was delivered, or precedes a delivered one.
    Duplicate,
    /// Held back until the position is known or the repair is complete.
    Held,
    /// Held back; a read of the history must start now.
    Gap,
}

/// The result of a gap repair.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
pub enum Repair {
    /// All missing entries are delivered, or none was missing.
    Complete,
    /// The history does not reach back to the position: events may be lost.
    Incomplete,
    /// The channel has a new history: its head expired, or was evicted or flushed.
    NewEpoch,
    /// Redis has lost entries that this node delivered, and continues from an earlier
    /// one. A new epoch must be opened, so that no sequence number is used twice.
    Fork { epoch: u64 },
}

impl Sequencer {
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    pub fn is_repairing(&self) -> bool {
        self.repairing
    }

    /// Whether this node has handled the entry, as far back as it keeps ids, or began after it.
    pub fn has_handled(&self, id: EntryId) -> bool {
        self.position.is_some_and(|position| position.id == id)
            || self.reset_position.id == id
            || self.handled.iter().rev().any(|(handled, _)| *handled == id)
    }

    /// Whether this node has handled every entry up to `at`, a position that a script
    /// returned. In a later epoch, what it has not handled of the earlier one is lost.
    pub fn has_passed(&self, at: Position) -> bool {
        let Some(position) = self.position else { return false };
        let is_before =
            at.epoch == position.epoch && at.seq <= position.seq && at.time_ms <= position.time_ms;
        at.id == EntryId::NONE || at.epoch < position.epoch || is_before || self.has_handled(at.id)
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
            // The first entry of an epoch has no predecessor, so nothing is missing.
            self.handle(&entry, now);
            return Decision::Begin(entry);
        }
        self.hold(entry);
        self.repairing = true;
        Decision::Gap
    }

    /// Sets the position to `at`, which a script returned after this node's
    /// subscription to the topic was confirmed. Returns the held entries, to be
    /// accepted again.
    pub fn reset_to(&mut self, at: Position) -> VecDeque<Entry> {
        self.position = Some(at);
        self.reset_position = at;
        self.settling = true;
        std::mem::take(&mut self.held)
    }

    /// Marks the start of a history read. False if one is in progress.
    pub fn begin_repair(&mut self) -> bool {
        !std::mem::replace(&mut self.repairing, true)
    }

    /// Ends a failed repair and drops the held entries, which appear as a gap again.
    pub fn abandon_repair(&mut self) -> VecDeque<Entry> {
        self.repairing = false;
        std::mem::take(&mut self.held)
    }

    /// Completes a repair with the history read. Returns the entries to deliver first,
    /// in order, and those received during the read, to be accepted after them.
    pub fn repair(&mut self, log: Log, now: Instant) -> (Repair, Vec<Entry>, VecDeque<Entry>) {
        self.repairing = false;
        let held = std::mem::take(&mut self.held);
        let Some(position) = self.position else { return (Repair::Complete, Vec::new(), held) };
        if held.front().is_some_and(|first_held| first_held.prev == position.id) {
            // Nothing is missing: the next entries arrived during the read. A slow link may be
            // further behind than the history reaches back.
            return (Repair::Complete, Vec::new(), held);
        }
        let Log { head, mut entries } = log;
        let repair = match entries.first() {
            Some(first) if first.prev == position.id => Repair::Complete,
            Some(_) => self.join_histories(position, &mut entries, &held),
            None if self.next_held(&held).is_none() => self.continue_from_head(head),
            None => self.join_histories(position, &mut entries, &held),
        };
        for entry in &entries {
            self.handle(entry, now);
        }
        if let Some(head) = head.filter(|head| repair == Repair::Complete && !self.has_handled(head.id)) {
            // Redis has lost the entries after its head, and this node has not.
            self.keep_handled(head.id, now);
        }
        (repair, entries, held)
    }

    /// The history does not continue from this node's position. Leaves in `entries`
    /// those that this node has not handled. If there are none, it continues with the first
    /// held entry, which Redis has lost or which has followed the read.
    fn join_histories(
        &mut self,
        position: Position,
        entries: &mut Vec<Entry>,
        held: &VecDeque<Entry>,
    ) -> Repair {
        let positions = [position.id, self.reset_position.id];
        let handled: HashSet<EntryId> = self.handled.iter().map(|(id, _)| *id).chain(positions).collect();
        let common = entries.iter().rposition(|entry| handled.contains(&entry.id));
        let is_new_history = entries.first().is_some_and(|first| first.prev == EntryId::NONE);
        entries.drain(..common.map_or(0, |at| at + 1));
        entries.retain(|it| !it.is_before(position) && !self.is_before_reset(it));
        let Some(next) = entries.first().or_else(|| self.next_held(held)) else { return Repair::Complete };
        if entries.is_empty() {
            self.position = Some(next.before());
        }
        if next.epoch == position.epoch && next.first_seq <= position.seq {
            Repair::Fork { epoch: next.epoch }
        } else if is_new_history && next.epoch != position.epoch {
            Repair::NewEpoch
        } else if common.is_some() {
            // Entries handled after `common` are not in the history: lost writes, whose
            // sequence numbers were not used again.
            Repair::Fork { epoch: next.epoch }
        } else {
            Repair::Incomplete
        }
    }

    /// The first held entry, if this node has neither handled nor passed it.
    fn next_held<'a>(&self, held: &'a VecDeque<Entry>) -> Option<&'a Entry> {
        let position = self.position?;
        held.front().filter(|first| !self.has_handled(first.id) && !first.is_before(position))
    }

    /// The history contains no entries, and none was received. If the head has moved, the entries
    /// between are lost.
    fn continue_from_head(&mut self, head: Option<Position>) -> Repair {
        match head {
            Some(head) if !self.has_handled(head.id) => {
                self.reset_to(head);
                Repair::Incomplete
            }
            // No entry is newer; or Redis has lost all data, and the next entry begins a new
            // epoch.
            _ => Repair::Complete,
        }
    }

    /// This node or another opened `epoch` at `seq`: numbers continue from there.
    pub fn rename_epoch(&mut self, epoch: u64, seq: u64) {
        if let Some(position) = &mut self.position {
            position.epoch = epoch;
            position.seq = position.seq.max(seq);
        }
    }

    /// Gives up the missing entries and continues from the head.
    pub fn skip_to(&mut self, head: Position) -> VecDeque<Entry> {
        self.repairing = false;
        self.reset_to(head)
    }

    /// Drops ids of entries that are older than the history keeps them.
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
        self.keep_handled(entry.id, now);
    }

    fn keep_handled(&mut self, id: EntryId, now: Instant) {
        if self.handled.len() >= limits::LOG_ENTRIES_MAX {
            self.handled.pop_front();
        }
        self.handled.push_back((id, now));
    }

    /// Holds an entry back. At the bound the oldest one is dropped, and the gap that it
    /// leaves is repaired like any other.
    fn hold(&mut self, entry: Entry) -> Decision {
        if self.held.len() >= limits::REPAIR_BUFFER_ENTRIES_MAX {
            self.held.pop_front();
            crate::metrics::metrics().held_entries_dropped.increment(1);
        }
        self.held.push_back(entry);
        Decision::Held
    }

    /// A fork may reuse the numbers up to the reset position, but with a later time.
    fn is_before_reset(&self, entry: &Entry) -> bool {
        entry.first_seq <= self.reset_position.seq && entry.time_ms <= self.reset_position.time_ms
    }
}

#[cfg(test)]
mod tests;
