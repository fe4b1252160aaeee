//! Encodes one event into frames, for stage 6 of a batch's path. A leaf without state: the
//! caller passes the delivery, the options of a group and its base.
//!
//! There are three kinds of frames: *plain*, exactly as in the Pusher protocol; *full*,
//! marked with the sequence number, for connections with deltas; *delta*, for those of
//! them that have the base.

pub mod delivery_options;
mod event_frames;

pub use delivery_options::DeliveryOptions;
pub use event_frames::EventFrames;

use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::event::Event;

/// Consecutive events of one channel, ready to be encoded and sent.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub channel: &'a str,
    pub first_seq: u64,
    pub time_ms: u64,
    pub events: &'a [Event],
    /// Published by a backend. Client events are in no chain and never a base.
    pub is_chained: bool,
}

/// Settings and the delta toggle of the channel.
#[derive(Debug, Clone, Copy)]
pub struct EncodingContext<'a> {
    pub config: &'a DeltaConfig,
    pub channel: &'a ChannelDelta,
    pub policy: &'a Policy,
}

/// Bytes of an event as a full frame, and as it was sent to subscribers with its base.
#[derive(Debug, Clone, Copy)]
pub struct Savings {
    pub full_bytes: usize,
    pub sent_bytes: usize,
}
