//! The contract of histories: publications and control entries append to a channel's history, nodes
//! listen to its topic and read the entries that they have missed.

use std::time::Duration;

use bytes::Bytes;

use super::{Backend, BackendError, Charge, Counts, RateState};
use crate::channel::ChannelId;
use crate::entry::{EntryId, Kind, Log, Position};
use crate::event::Event;

impl Backend {
    /// Appends each publication to its channel's history, all of them in one step (P1), in the
    /// given order. With a charge, only if the app's rate limit permits it.
    pub async fn publish(
        &self,
        id: EntryId,
        publications: Vec<Publication>,
        charge: Option<Charge>,
    ) -> Result<Published, BackendError> {
        match self {
            Backend::Memory(memory) => memory.publish(id, publications, charge).await,
            Backend::Redis(redis) => redis.publish_batch(id, publications, charge).await,
        }
    }

    /// Appends a control entry.
    pub async fn append(&self, control: ControlEntry) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => memory.append(control).await,
            Backend::Redis(redis) => redis.append(control).await,
        }
    }

    /// Listens to the channel's topic. Once this returns, this node receives every new entry of the
    /// channel.
    pub async fn listen(&self, channel_id: &ChannelId) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => {
                memory.listen(channel_id);
                Ok(())
            }
            Backend::Redis(redis) => redis.listen(channel_id).await,
        }
    }

    /// Stops listening to the channel's topic.
    pub fn unlisten(&self, channel_id: &ChannelId) {
        match self {
            Backend::Memory(memory) => memory.unlisten(channel_id),
            Backend::Redis(redis) => redis.unlisten(channel_id),
        }
    }

    /// The entries after `after`, as far as the history reaches back.
    pub async fn read_log(&self, channel_id: &ChannelId, after: EntryId) -> Result<Log, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_log(channel_id, after)),
            Backend::Redis(redis) => redis.read_log(channel_id, after).await,
        }
    }

    /// The entries after a sequence number that a client has received (its low 31 bits), and up to
    /// [`limits::RESUME_BASES_MAX`] entries before it. The first of them may still begin after the
    /// number, if the history does not reach back to it.
    ///
    /// [`limits::RESUME_BASES_MAX`]: crate::limits::RESUME_BASES_MAX
    pub async fn read_log_since(&self, channel_id: &ChannelId, seq: u32) -> Result<Log, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_log_since(channel_id, seq)),
            Backend::Redis(redis) => redis.read_log_since(channel_id, seq).await,
        }
    }

    /// The position of each channel. `None` for a channel without a head.
    pub async fn read_heads(&self, channel_ids: &[ChannelId]) -> Result<Vec<Option<Position>>, BackendError> {
        match self {
            Backend::Memory(memory) => {
                Ok(channel_ids.iter().map(|channel_id| memory.read_head(channel_id)).collect())
            }
            Backend::Redis(redis) => redis.read_heads(channel_ids).await,
        }
    }

    /// Opens a new epoch above `seen_seq`, unless the channel has left `epoch` already. Called
    /// after a fork, so that no sequence number is used twice.
    pub async fn open_epoch(
        &self,
        channel_id: &ChannelId,
        epoch: u64,
        seen_seq: u64,
    ) -> Result<(), BackendError> {
        match self {
            // The history of a single process has no forks.
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.open_epoch(channel_id, epoch, seen_seq).await,
        }
    }

    /// The last event of a cache channel, unless it has expired.
    pub async fn read_cached(&self, channel_id: &ChannelId) -> Result<Option<Cached>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_cached(channel_id)),
            Backend::Redis(redis) => redis.read_cached(channel_id).await,
        }
    }

    /// The stored newest event of each of the channel's chains, oldest first. A chain may have
    /// newer events that were published without being stored.
    pub async fn read_bases(&self, channel_id: &ChannelId) -> Result<Vec<StoredBase>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_bases(channel_id)),
            Backend::Redis(redis) => redis.read_bases(channel_id).await,
        }
    }

    /// Enables or disables deltas on a channel, and appends an entry if that changes the state.
    /// Does nothing on a channel without entries.
    pub async fn switch_deltas(&self, channel_id: &ChannelId, on: bool) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => memory.switch_deltas(channel_id, on).await,
            Backend::Redis(redis) => redis.switch_deltas(channel_id, on).await,
        }
    }
}

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

/// The last event of a cache channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub seq: u64,
    pub time_ms: u64,
    /// Time until the event expires.
    pub ttl: Duration,
    pub event: Event,
}
