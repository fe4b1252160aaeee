//! WebhookEventKind is announced: the runs of a batch, and signals outside every chain.

use std::time::Duration;

use bytes::Bytes;

use super::{Counts, RateState};
use crate::channel::ChannelId;
use crate::entry::Kind;
use crate::event::Event;

/// The run of a batch's events on one channel, serialised.
#[derive(Debug, Clone)]
pub struct Publication {
    pub channel_id: ChannelId,
    /// Number of events.
    pub count: u32,
    /// [`crate::event::encode_events`]
    pub body: Bytes,
    /// The caller wants to know how many are there.
    pub wants_counts: bool,
    /// On a cache channel: how much of the end of `body` is the last event, and
    /// how long it is kept.
    pub last: Option<LastEvent>,
    /// Where the channel's newest events are kept for who joins later
    /// (protocol.md 3.9).
    pub bases: Option<KeptBases>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastEvent {
    pub bytes: usize,
    pub ttl: Duration,
}

/// Which events of a publication are to be kept, each until the next of its chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBases {
    /// Chains of the channel; beyond, the one that was silent longest goes.
    pub keys_max: usize,
    /// The last of each chain, in the order of the run.
    pub newest: Vec<KeptBase>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptBase {
    /// Of its chain; empty on a channel with one.
    pub key: Bytes,
    /// Its place in the run, from 0.
    pub index: u32,
    /// Where it stands in the body.
    pub start: usize,
    pub bytes: usize,
}

/// The newest event of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBase {
    /// Of its chain; empty on a channel with one.
    pub key: Bytes,
    pub seq: u64,
    pub time_ms: u64,
    pub event: Event,
}

/// WebhookEventKind was announced, and what the caller wanted to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Published {
    /// In the order of the publications.
    pub counts: Vec<Option<Counts>>,
    /// Where the batch was charged.
    pub rate: Option<RateState>,
}

/// One entry outside every chain: a client event, or the end of a user's
/// connections.
#[derive(Debug, Clone)]
pub struct ControlEntry {
    pub channel_id: ChannelId,
    pub kind: Kind,
    /// One event, encoded, or nothing.
    pub body: Bytes,
    /// A webhook wants to hear of it.
    pub hooked: bool,
}
