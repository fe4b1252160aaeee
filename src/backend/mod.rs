//! Stage 4 of the path of a batch (design.md 2), and the state that nodes share: one contract,
//! which the memory backend implements for one process and the Redis backend for a cluster. One
//! suite, `tests/it/contract.rs`, runs on both.

mod membership;
pub mod memory;
mod publication;
pub mod redis;

use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::app::Rate;
use crate::channel::{ChannelId, ChannelName, Partition};
use crate::entry::{EntryId, Log, Position};
use crate::event::Event;
use crate::presence::Roster;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

pub use membership::{MembershipRules, MembershipUpdate, UpdatedMembership, UserCount};
pub use publication::{ControlEntry, KeptBase, KeptBases, LastEvent, Publication, Published, StoredBase};

use memory::Memory;
use redis::Redis;
use redis::apps::AppChanges;

/// The roster of a presence channel, as a node reads it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RosterRead {
    pub roster: Roster,
    /// Users with connections on this node.
    pub own: Vec<Arc<str>>,
}

/// Counts of a channel in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub subscriptions: u64,
    /// Distinct users of a presence channel.
    pub users: u64,
}

/// A charge against an app's rate limit.
#[derive(Debug, Clone)]
pub struct Charge {
    pub app: Arc<str>,
    pub account: Account,
    /// 0 only reads the state of the window.
    pub cost: u64,
    pub rate: Rate,
}

/// The subject of a charge. Each account has a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    BackendEvents,
    ReadRequests,
}

impl Account {
    /// The account's part of a key in Redis.
    pub fn name(self) -> &'static str {
        match self {
            Account::BackendEvents => "events",
            Account::ReadRequests => "reads",
        }
    }
}

/// State of an app's rate-limit window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    pub limit: u64,
    pub remaining: u64,
    /// Time until the window ends.
    pub reset: Duration,
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

/// A channel with at least one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    pub channel: ChannelName,
    pub counts: Counts,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Not executed: there is no connection, or its queue is full.
    #[error("Redis is unavailable: the operation was not executed")]
    Unavailable,
    /// No reply in time: the operation may have been executed.
    #[error("No reply from Redis in time: the batch may have been published")]
    OutcomeUnknown,
    /// Not executed: Redis has reached its `maxmemory`.
    #[error("Redis is out of memory: the operation was not executed")]
    OutOfMemory,
    /// Not executed: the charge exceeds the app's rate limit.
    #[error("Rate limit exceeded (limit: {} per window, remaining: {})", .0.limit, .0.remaining)]
    RateLimited(RateState),
    #[error("Redis refused: {0}")]
    Refused(String),
}

/// The stored value for an app id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredApp {
    /// TOML, as below `[[apps]]`, including secrets.
    Settings(String),
    /// The app existed and was removed.
    Removed,
    Nothing,
}

/// A notification that stored apps may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppChange {
    /// The app with this id.
    One(String),
    /// Any app: notifications may have been lost.
    Any,
}

/// The shared state of the nodes.
#[derive(Debug)]
pub enum Backend {
    Memory(Box<Memory>),
    Redis(Box<Redis>),
}

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

    /// Writes this node's membership and appends the resulting entry, if the numbers of the cluster
    /// change: added and removed members, a subscription count, a user's online status.
    pub async fn update_membership(
        &self,
        update: &MembershipUpdate,
    ) -> Result<UpdatedMembership, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.update_membership(update)),
            Backend::Redis(redis) => redis.update_membership(update).await,
        }
    }

    /// Counts of the whole cluster, in one read, independent of the number of nodes.
    pub async fn read_counts(&self, channel_id: &ChannelId) -> Result<Counts, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_counts(channel_id)),
            Backend::Redis(redis) => redis.read_counts(channel_id).await,
        }
    }

    /// The roster of a presence channel in the whole cluster.
    pub async fn read_roster(&self, channel_id: &ChannelId) -> Result<RosterRead, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_roster(channel_id)),
            Backend::Redis(redis) => redis.read_roster(channel_id).await,
        }
    }

    /// The last event of a cache channel, unless it has expired.
    pub async fn read_cached(&self, channel_id: &ChannelId) -> Result<Option<Cached>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_cached(channel_id)),
            Backend::Redis(redis) => redis.read_cached(channel_id).await,
        }
    }

    /// All occupied channels of an app whose names begin with `prefix`, sorted by name.
    pub async fn list_occupied(&self, app: &str, prefix: &str) -> Result<Vec<Occupied>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.list_occupied(app, prefix)),
            Backend::Redis(redis) => redis.list_occupied(app, prefix).await,
        }
    }

    /// Charges an app's rate limit for an operation that has no script of its own.
    pub async fn charge(&self, charge: &Charge) -> Result<RateState, BackendError> {
        match self {
            Backend::Memory(memory) => memory.charge(charge),
            Backend::Redis(redis) => redis.charge(charge).await,
        }
    }

    /// Reports this node's current (`held`) and requested (`requested`) connections of the app,
    /// with the limit of the cluster (`max`). Returns how many the node may hold: at least `held`,
    /// at most `requested`.
    pub async fn hold_connections(
        &self,
        app: &str,
        held: u64,
        requested: u64,
        max: u64,
    ) -> Result<u64, BackendError> {
        match self {
            Backend::Memory(_) => Ok(requested.min(max).max(held)),
            Backend::Redis(redis) => redis.hold_connections(app, held, requested, max).await,
        }
    }

    /// The stored app with this id.
    pub async fn find_app(&self, id: &str) -> Result<StoredApp, BackendError> {
        match self {
            Backend::Memory(_) => Ok(StoredApp::Nothing),
            Backend::Redis(redis) => redis.apps().find(id).await,
        }
    }

    /// The id of the stored app with this key.
    pub async fn find_app_id(&self, key: &str) -> Result<Option<String>, BackendError> {
        match self {
            Backend::Memory(_) => Ok(None),
            Backend::Redis(redis) => redis.apps().find_id(key).await,
        }
    }

    /// Subscribes to changes of stored apps. `None` if the backend stores no apps.
    pub fn app_changes(&self) -> Option<AppChanges> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.app_changes()),
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

    /// The partitions whose webhook events this node delivers. Changes when nodes start or stop.
    pub fn own_partitions(&self) -> Vec<Partition> {
        match self {
            Backend::Memory(_) => vec![Partition(0)],
            Backend::Redis(redis) => redis.own_partitions(),
        }
    }

    /// Claims a partition's webhook outbox, or renews the claim, and reads up to `count_max`
    /// webhook events after `after`, oldest first. `None` while another node has a claim.
    pub async fn claim_webhook_events(
        &self,
        partition: Partition,
        after: Option<&WebhookEventId>,
        count_max: usize,
    ) -> Result<Option<Vec<WebhookEvent>>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(Some(memory.read_webhook_events(after, count_max))),
            Backend::Redis(redis) => redis.claim_webhook_events(partition, after, count_max).await,
        }
    }

    /// Removes webhook events that were delivered or have expired.
    pub async fn remove_webhook_events(
        &self,
        partition: Partition,
        ids: &[WebhookEventId],
    ) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => {
                memory.remove_webhook_events(ids);
                Ok(())
            }
            Backend::Redis(redis) => redis.remove_webhook_events(partition, ids).await,
        }
    }

    /// Releases a partition's webhook outbox, so that another node can claim it at once.
    pub async fn release_webhook_outbox(&self, partition: Partition) -> Result<(), BackendError> {
        match self {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.release_webhook_outbox(partition).await,
        }
    }

    /// The reason why this node is not ready for traffic, or `None` if it is ready.
    pub fn unready(&self) -> Option<&'static str> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.unready(),
        }
    }

    /// Removes this node's memberships, at the end of a drain.
    pub async fn leave(&self) {
        if let Backend::Redis(redis) = self {
            redis.leave().await;
        }
    }
}
