//! Input of the backend: the publications of a batch, and control entries.

use std::time::Duration;

use bytes::Bytes;

use super::{Counts, RateState};
use crate::channel::ChannelId;
use crate::entry::Kind;
use crate::event::Event;

/// The events of a batch on one channel, encoded.
#[derive(Debug, Clone)]
pub struct Publication {
    pub channel_id: ChannelId,
    /// Number of events.
    pub count: u32,
    /// [`crate::event::encode_events`]
    pub body: Bytes,
    /// The caller requests the channel's counts.
    pub wants_counts: bool,
    /// On a cache channel: the last event, at the end of `body`, and its time to live.
    pub last: Option<LastEvent>,
    /// The events to store as initial bases for new subscribers (protocol.md 3.9), with
    /// `cache_sync`.
    pub bases: Option<KeptBases>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEvent {
    pub bytes: usize,
    pub ttl: Duration,
}

/// The events of a publication to store as bases, each until the next event of its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBases {
    /// Limit of chains of the channel; above it, the chain with the oldest event is removed.
    pub keys_max: usize,
    /// The last event of each chain, in the order of the publication.
    pub newest: Vec<KeptBase>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBase {
    /// Of its chain; empty on a channel with one.
    pub key: Bytes,
    /// Index of the event in the publication, from 0.
    pub index: u32,
    /// Offset of the event in the body, in bytes.
    pub start: usize,
    pub bytes: usize,
}

/// The stored newest event of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBase {
    /// Of its chain; empty on a channel with one.
    pub key: Bytes,
    pub seq: u64,
    pub time_ms: u64,
    pub event: Event,
}

/// Result of a publish.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// The requested counts, in the order of the publications.
    pub counts: Vec<Option<Counts>>,
    /// State of the rate-limit window, for a batch with a charge.
    pub rate: Option<RateState>,
}

/// An entry without a batch, in no chain: a client event, or the termination of a user's
/// connections.
#[derive(Debug, Clone)]
pub struct ControlEntry {
    pub channel_id: ChannelId,
    pub kind: Kind,
    /// One encoded event, or empty.
    pub body: Bytes,
    /// A webhook subscribes to this entry.
    pub hooked: bool,
}
