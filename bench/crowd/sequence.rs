//! Sequence check of one subscriber over the events of its channel.

use crate::record::Faults;

/// Events are numbered from 0. Each must arrive once, directly after the previous one.
#[derive(Debug, Default)]
pub struct Sequence {
    /// One more than the highest number that has arrived.
    next: u64,
    /// Lower numbers that have not arrived.
    missing: Vec<u64>,
}

/// Bound on `missing`, which distinguishes reordered events from duplicates.
const MISSING_MAX: u64 = 10_000;

impl Sequence {
    /// The next number in order.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of consecutive events from 0, in batches of `len` events. Events that a batch
    /// lacks when the next batch begins are skipped.
    pub fn complete(&self, len: u64) -> u64 {
        let batch = self.next.saturating_sub(1) / len;
        let missing = self.missing.iter().filter(|missing| **missing / len == batch).min();
        missing.copied().unwrap_or(self.next)
    }

    /// Records an event. Fails if it is a duplicate or out of order.
    pub fn accept(&mut self, number: u64) -> Result<(), Faults> {
        if number >= self.next {
            self.missing.extend(self.next..number.min(self.next + MISSING_MAX));
            self.next = number + 1;
            return Ok(());
        }
        match self.missing.iter().position(|missing| *missing == number) {
            Some(at) => {
                self.missing.swap_remove(at);
                Err(Faults { reordered: 1, ..Faults::default() })
            }
            None => Err(Faults { duplicated: 1, ..Faults::default() }),
        }
    }
}
