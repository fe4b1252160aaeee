//! Entries delivered since a membership update was sent. A pending subscription is sent
//! the part after its position.

use std::collections::VecDeque;

use crate::entry::{Body, Entry, Position};
use crate::limits;
use crate::metrics::metrics;

#[derive(Debug, Default)]
pub(super) struct CatchUpBuffer {
    entries: VecDeque<(Entry, Option<Body>)>,
    overflowed: bool,
}

impl CatchUpBuffer {
    /// More than [`limits::CATCH_UP_BUFFER_ENTRIES_MAX`] entries were to be kept.
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    /// Keeps an entry with its decoded body, if that was readable.
    pub(super) fn push(&mut self, entry: Entry, body: Option<Body>) {
        if self.entries.len() >= limits::CATCH_UP_BUFFER_ENTRIES_MAX {
            metrics().held_entries_dropped.increment(1);
            // A sequence with a gap would be worse than a later start.
            *self = CatchUpBuffer { overflowed: true, ..CatchUpBuffer::default() };
        }
        if !self.overflowed {
            self.entries.push_back((entry, body));
        }
    }

    /// The entries after `at`.
    pub(super) fn after(&self, at: Position) -> impl Iterator<Item = &(Entry, Option<Body>)> {
        self.entries.iter().filter(move |(entry, _)| entry.is_after(at))
    }

    /// Drops the entries up to `at`.
    pub(super) fn drop_until(&mut self, at: Position) {
        let first_needed = self.entries.iter().position(|(entry, _)| entry.is_after(at));
        self.entries.drain(..first_needed.unwrap_or(self.entries.len()));
    }
}
