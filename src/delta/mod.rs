//! What a delta is here: the difference between the text of an event and the
//! text of the one before it in its chain (protocol.md 3, design.md 6).
//!
//! A node has one [`Chain`] per channel, not per socket. Each event of the chain
//! has an index, counted by this node alone, and a subscriber holds the base
//! exactly if it was sent everything from some index on: one number of state.
//! No IO, no clock.

mod algorithm;
pub mod fossil;
mod matches;
pub mod permit;
pub mod settings;
pub mod vcdiff;

use bytes::Bytes;

pub use algorithm::Algorithm;
use settings::DeltaConfig;

/// The events of one channel that deltas are made against.
#[derive(Debug, Default)]
pub struct Chain {
    base: Option<Base>,
    next_index: u64,
}

/// The newest event of a chain.
#[derive(Debug, Clone)]
pub struct Base {
    pub text: Bytes,
    pub seq: u64,
    pub index: u64,
    /// When it was announced, in ms of the backend's clock.
    pub time_ms: u64,
}

impl Chain {
    /// The index that the next event of the chain will have. A subscriber that
    /// joins now holds everything from there on.
    pub fn next_index(&self) -> u64 {
        self.next_index
    }

    /// The base for an event announced at `time_ms`, unless it is too old.
    pub fn base_at(&self, time_ms: u64, config: &DeltaConfig) -> Option<&Base> {
        let age_ms_max = config.base_age_max.as_millis() as u64;
        self.base.as_ref().filter(|base| time_ms.saturating_sub(base.time_ms) <= age_ms_max)
    }

    /// Makes an event the base of the next, and returns its index.
    pub fn advance(&mut self, text: Bytes, seq: u64, time_ms: u64) -> u64 {
        let index = self.next_index;
        self.next_index += 1;
        self.base = Some(Base { text, seq, index, time_ms });
        index
    }

    /// The next event goes out in full to everyone: nothing is known of what
    /// came before it.
    pub fn restart(&mut self) {
        self.base = None;
    }
}

/// Whether everyone gets the event with this number in full. It follows from the
/// number alone, so all nodes agree without a word.
pub fn is_interval(seq: u64, config: &DeltaConfig) -> bool {
    config.full_message_interval > 0 && seq.is_multiple_of(config.full_message_interval + 1)
}
