//! What a delta is here: the difference between the text of an event and the
//! text of the one before it in its chain (protocol.md 3, design.md 6).
//!
//! Chains belong to those who are sent the same of a channel, not to sockets. A
//! subscriber holds a base exactly if it was sent everything from some number on:
//! one number of state. No IO, no clock.

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

/// The names of an event's number and key in the style that clients strip again to
/// get the base, wherever these texts stand (protocol.md 3.3, 3.5).
pub const MARKERS: [&str; 2] = ["__delta_seq", "__conflation_key"];

/// `max_messages_per_key`, where nothing is said (protocol.md 3.8).
pub const MESSAGES_PER_KEY_MAX: usize = 10;

/// Whether everyone gets the event with this number in full. It follows from the
/// number alone, so all nodes agree without a word.
///
/// With keys the numbers are shuffled: where chains take turns, plain counting
/// could pass some of them over for ever.
pub fn is_interval(seq: u64, keyed: bool, config: &DeltaConfig) -> bool {
    let number = if keyed { shuffle(seq) } else { seq };
    config.full_message_interval > 0 && number.is_multiple_of(config.full_message_interval + 1)
}

/// SplitMix64's finaliser.
fn shuffle(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
