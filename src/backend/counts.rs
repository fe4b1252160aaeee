//! The contract of counts: the subscriptions and users of channels in the whole cluster.

use super::{Backend, BackendError};
use crate::channel::{ChannelId, ChannelName};

impl Backend {
    /// Counts of the whole cluster, in one read, independent of the number of nodes.
    pub async fn read_counts(&self, channel_id: &ChannelId) -> Result<Counts, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_counts(channel_id)),
            Backend::Redis(redis) => redis.read_counts(channel_id).await,
        }
    }

    /// All occupied channels of an app whose names begin with `prefix`, sorted by name.
    pub async fn list_occupied(&self, app: &str, prefix: &str) -> Result<Vec<Occupied>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.list_occupied(app, prefix)),
            Backend::Redis(redis) => redis.list_occupied(app, prefix).await,
        }
    }
}

/// Counts of a channel in the whole cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub subscriptions: u64,
    /// Distinct users of a presence channel.
    pub users: u64,
}

/// A channel with at least one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupied {
    pub channel: ChannelName,
    pub counts: Counts,
}
