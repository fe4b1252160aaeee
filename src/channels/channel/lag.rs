//! The observation that a channel's head is ahead of this node. The entries between are
//! in flight, or were lost: time tells.

use super::sequencer::Sequencer;
use crate::entry::{EntryId, Position};

/// A head that this node has not reached: the newest that was observed. A node that has
/// handled it has handled all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lag {
    head: Position,
    /// Id of the last entry that this node had handled at the first observation.
    handled: EntryId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The entries have arrived, or a repair is in progress.
    Settled,
    /// Entries arrive, but not all have: the link is slow.
    Slow(Lag),
    /// Nothing has arrived since the observation: the entries were missed.
    Missed,
}

impl Lag {
    /// The observation of `head`, together with the earlier one that is still open.
    pub(super) fn observe(open: Option<Lag>, head: Position, sequencer: &Sequencer) -> Lag {
        let Some(open) = open else { return Lag { head, handled: last_handled(sequencer) } };
        let is_newer = head.epoch != open.head.epoch || head.seq > open.head.seq;
        Lag { head: if is_newer { head } else { open.head }, ..open }
    }

    /// Called [`crate::limits::LAGGING_DELAY`] after the first observation.
    pub(super) fn verdict(self, sequencer: &Sequencer) -> Verdict {
        let handled = last_handled(sequencer);
        if sequencer.has_handled(self.head.id) || sequencer.is_repairing() {
            Verdict::Settled
        } else if handled != self.handled {
            Verdict::Slow(Lag { handled, ..self })
        } else {
            Verdict::Missed
        }
    }
}

fn last_handled(sequencer: &Sequencer) -> EntryId {
    sequencer.position().unwrap_or_default().id
}
