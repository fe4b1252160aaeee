//! Deltas: the differences between the text of an event and that of its predecessor in
//! the chain (protocol.md 3, design.md 6).
//!
//! Chains belong to groups of subscribers with equal delivery options, not to sockets. The
//! base state of a subscriber is mainly one number: it has all bases from this sequence
//! number on. No IO, no clock.

mod algorithm;
pub mod chain;
pub mod channels;
pub mod conflation;
pub mod fossil;
mod matches;
pub mod policy;
pub mod settings;
pub mod vcdiff;

pub use algorithm::Algorithm;
use settings::DeltaConfig;

/// Member names of the sequence number and the conflation key in the underscore style.
/// Clients remove both from the whole text to get the base (protocol.md 3.3, 3.5).
pub const MARKERS: [&str; 2] = ["__delta_seq", "__conflation_key"];

/// Default of `max_messages_per_key` (protocol.md 3.8).
pub const MESSAGES_PER_KEY_MAX: usize = 10;

/// Whether the event with this sequence number is sent in full to all subscribers
/// (protocol.md 3.11). The number alone decides, so nodes agree without coordination.
///
/// With conflation keys the numbers are hashed: if chains alternate regularly, counting
/// could skip some of them forever.
pub fn is_interval(seq: u64, keyed: bool, config: &DeltaConfig) -> bool {
    let number = if keyed { shuffle(seq) } else { seq };
    config.full_message_interval > 0 && number.is_multiple_of(config.full_message_interval + 1)
}

/// The finaliser of SplitMix64.
fn shuffle(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
