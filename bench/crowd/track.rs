//! Where one subscriber is in the events of its channel.

use crate::record::Faults;

/// Events are numbered from 0; each must come once, after the one before.
#[derive(Debug, Default)]
pub struct Track {
    /// One more than the highest number that has come.
    next: u64,
    /// Lower ones that have not.
    missing: Vec<u64>,
}

/// Gaps that are remembered, so that what fills one can be told from what comes
/// twice.
const MISSING_MAX: u64 = 10_000;

impl Track {
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Events that it has all come up to, where batches are of `len` events. What a
    /// batch lacks when the next one begins is not waited for.
    pub fn complete(&self, len: u64) -> u64 {
        let batch = self.next.saturating_sub(1) / len;
        let missing = self.missing.iter().filter(|missing| **missing / len == batch).min();
        missing.copied().unwrap_or(self.next)
    }

    /// Takes note of an event that has come; an error is what is wrong with it.
    pub fn take(&mut self, number: u64) -> Result<(), Faults> {
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
