//! Room 4, and the state that nodes share: the contract that the memory backend
//! keeps for one process and the Redis backend for all of them. One suite,
//! `tests/it/contract.rs`, runs on both.

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

/// Who is in a presence channel.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RosterRead {
    pub roster: Roster,
    /// Users that are there because of this node.
    pub own: Vec<Arc<str>>,
}

/// Of the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub subscriptions: u64,
    /// Distinct users of a presence channel.
    pub users: u64,
}

/// WebhookEventKind an app is charged for.
#[derive(Debug, Clone)]
pub struct Charge {
    pub app: Arc<str>,
    pub account: Account,
    /// 0 only asks where the app stands.
    pub cost: u64,
    pub rate: Rate,
}

/// Each is counted by itself: a window of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Account {
    BackendEvents,
    ReadRequests,
}

impl Account {
    /// Part of a key's name.
    pub fn name(self) -> &'static str {
        match self {
            Account::BackendEvents => "events",
            Account::ReadRequests => "reads",
        }
    }
}

/// Where an app stands in its window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateState {
    pub limit: u64,
    pub remaining: u64,
    /// Until the window ends.
    pub reset: Duration,
}

/// The last event of a cache channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    pub seq: u64,
    pub time_ms: u64,
    /// Until it is forgotten.
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
    /// Nothing was done: there is no connection, or its queue is full.
    #[error("Redis is not available, nothing was done")]
    Unavailable,
    /// No answer came in time: it may have been done.
    #[error("Redis did not answer in time, the batch may have been published")]
    OutcomeUnknown,
    /// Nothing was done: Redis is at its `maxmemory`.
    #[error("Redis has no memory left, nothing was done")]
    OutOfMemory,
    /// Nothing was done: the app has used up its window.
    #[error("Rate limit exceeded: {} per window are allowed, {} are left", .0.limit, .0.remaining)]
    RateLimited(RateState),
    #[error("Redis refused: {0}")]
    Refused(String),
}

/// WebhookEventKind the backend keeps under an app's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredApp {
    /// As the TOML below `[[apps]]`. With its secrets.
    Settings(String),
    /// There was an app, and somebody has removed it.
    Removed,
    Nothing,
}

/// Apps that may be others than they were.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppChange {
    /// The one with this id.
    One(String),
    /// Any: something may not have been heard.
    Any,
}

/// Where the nodes agree.
#[derive(Debug)]
pub enum Backend {
    Memory(Box<Memory>),
    Redis(Box<Redis>),
}

impl Backend {
    /// Numbers, remembers and announces each publication, all of them as one
    /// step, in the order given; with a charge, only if the app can pay.
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

    /// Numbers, remembers and announces a signal.
    pub async fn append(&self, control: ControlEntry) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => memory.append(control).await,
            Backend::Redis(redis) => redis.append(control).await,
        }
    }

    /// From the answer on, everything announced on the channel is heard.
    pub async fn listen(&self, channel_id: &ChannelId) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => {
                memory.listen(channel_id);
                Ok(())
            }
            Backend::Redis(redis) => redis.listen(channel_id).await,
        }
    }

    /// WebhookEventKind is announced on the channel need not be heard any longer.
    pub fn unlisten(&self, channel_id: &ChannelId) {
        match self {
            Backend::Memory(memory) => memory.unlisten(channel_id),
            Backend::Redis(redis) => redis.unlisten(channel_id),
        }
    }

    /// Writes this node's membership, and announces what has changed by it for
    /// the cluster: who came and who left, how many there are, whether a user is
    /// online.
    pub async fn update_membership(
        &self,
        update: &MembershipUpdate,
    ) -> Result<UpdatedMembership, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.update_membership(update)),
            Backend::Redis(redis) => redis.update_membership(update).await,
        }
    }

    /// Of the whole cluster: one read, however many nodes.
    pub async fn read_counts(&self, channel_id: &ChannelId) -> Result<Counts, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_counts(channel_id)),
            Backend::Redis(redis) => redis.read_counts(channel_id).await,
        }
    }

    /// Who is in a presence channel, in the whole cluster.
    pub async fn read_roster(&self, channel_id: &ChannelId) -> Result<RosterRead, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_roster(channel_id)),
            Backend::Redis(redis) => redis.read_roster(channel_id).await,
        }
    }

    /// The last event of a cache channel, if it is still kept.
    pub async fn read_cached(&self, channel_id: &ChannelId) -> Result<Option<Cached>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_cached(channel_id)),
            Backend::Redis(redis) => redis.read_cached(channel_id).await,
        }
    }

    /// All occupied channels of an app whose names begin with `prefix`, sorted.
    pub async fn list_occupied(&self, app: &str, prefix: &str) -> Result<Vec<Occupied>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.list_occupied(app, prefix)),
            Backend::Redis(redis) => redis.list_occupied(app, prefix).await,
        }
    }

    /// Charges an app for something that has no script of its own.
    pub async fn charge(&self, charge: &Charge) -> Result<RateState, BackendError> {
        match self {
            Backend::Memory(memory) => memory.charge(charge),
            Backend::Redis(redis) => redis.charge(charge).await,
        }
    }

    /// This node holds `held` connections of the app and wants `wanted` in all,
    /// where the cluster may have `max`. Returns how many it may hold: at least
    /// `held`, at most `wanted`.
    pub async fn hold_connections(
        &self,
        app: &str,
        held: u64,
        wanted: u64,
        max: u64,
    ) -> Result<u64, BackendError> {
        match self {
            Backend::Memory(_) => Ok(wanted.min(max).max(held)),
            Backend::Redis(redis) => redis.hold_connections(app, held, wanted, max).await,
        }
    }

    /// The app that is kept under this id.
    pub async fn find_app(&self, id: &str) -> Result<StoredApp, BackendError> {
        match self {
            Backend::Memory(_) => Ok(StoredApp::Nothing),
            Backend::Redis(redis) => redis.apps().find(id).await,
        }
    }

    /// The id of the app that is kept with this key.
    pub async fn find_app_id(&self, key: &str) -> Result<Option<String>, BackendError> {
        match self {
            Backend::Memory(_) => Ok(None),
            Backend::Redis(redis) => redis.apps().find_id(key).await,
        }
    }

    /// WebhookEventKind is heard of changed apps; None where no apps are kept.
    pub fn app_changes(&self) -> Option<AppChanges> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.app_changes()),
        }
    }

    /// WebhookEventKind was announced after `after`, as far as the log reaches.
    pub async fn read_log(&self, channel_id: &ChannelId, after: EntryId) -> Result<Log, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_log(channel_id, after)),
            Backend::Redis(redis) => redis.read_log(channel_id, after).await,
        }
    }

    /// WebhookEventKind was announced after a number that a client has seen (its low 31 bits),
    /// and up to [`limits::RESUME_BASES_MAX`] entries before it: the first of
    /// them may still begin after the number, where the log does not reach back.
    pub async fn read_log_since(&self, channel_id: &ChannelId, seq: u32) -> Result<Log, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_log_since(channel_id, seq)),
            Backend::Redis(redis) => redis.read_log_since(channel_id, seq).await,
        }
    }

    /// The newest event of each of the channel's chains, as far as they are kept,
    /// oldest first. A chain may have gone on since, without being kept.
    pub async fn read_bases(&self, channel_id: &ChannelId) -> Result<Vec<StoredBase>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_bases(channel_id)),
            Backend::Redis(redis) => redis.read_bases(channel_id).await,
        }
    }

    /// Switches deltas on or off on a channel, and announces it if that changes
    /// anything. Nothing on a channel that has never said anything.
    pub async fn switch_deltas(&self, channel_id: &ChannelId, on: bool) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => memory.switch_deltas(channel_id, on).await,
            Backend::Redis(redis) => redis.switch_deltas(channel_id, on).await,
        }
    }

    /// Where each channel stands; None where nothing is known of it.
    pub async fn read_heads(&self, channel_ids: &[ChannelId]) -> Result<Vec<Option<Position>>, BackendError> {
        match self {
            Backend::Memory(memory) => {
                Ok(channel_ids.iter().map(|channel_id| memory.read_head(channel_id)).collect())
            }
            Backend::Redis(redis) => redis.read_heads(channel_ids).await,
        }
    }

    /// Opens a new epoch above `seen_seq`, unless the channel has left `epoch`
    /// already. After a fork, so that no number is used twice.
    pub async fn open_epoch(
        &self,
        channel_id: &ChannelId,
        epoch: u64,
        seen_seq: u64,
    ) -> Result<(), BackendError> {
        match self {
            // One process cannot disagree with itself.
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.open_epoch(channel_id, epoch, seen_seq).await,
        }
    }

    /// The partitions whose webhooks are this node's to deliver. Changes as
    /// nodes come and go.
    pub fn own_partitions(&self) -> Vec<Partition> {
        match self {
            Backend::Memory(_) => vec![Partition(0)],
            Backend::Redis(redis) => redis.own_partitions(),
        }
    }

    /// Claims a partition's outbox, or renews the claim, and reads up to
    /// `count_max` webhook_events after `after`, oldest first. None while another node
    /// has it.
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

    /// These have been delivered, or given up.
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

    /// Gives a partition's outbox up, for another node to claim at once.
    pub async fn release_webhook_outbox(&self, partition: Partition) -> Result<(), BackendError> {
        match self {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.release_webhook_outbox(partition).await,
        }
    }

    /// Why this node should get no traffic, if so.
    pub fn unready(&self) -> Option<&'static str> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.unready(),
        }
    }

    /// Takes this node's memberships away, at the end of an orderly stop.
    pub async fn leave(&self) {
        if let Backend::Redis(redis) = self {
            redis.leave().await;
        }
    }
}
