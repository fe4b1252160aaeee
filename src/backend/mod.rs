//! Room 4, and the state that nodes share: the contract that the memory backend
//! keeps for one process and the Redis backend for all of them. One suite,
//! `tests/it/contract.rs`, runs on both.

pub mod memory;
pub mod redis;

use bytes::Bytes;
use thiserror::Error;

use crate::channel::Address;
use crate::event::{AnnouncementId, Log, Position};

use memory::Memory;
use redis::Redis;

/// The run of a batch's events on one channel, serialised.
#[derive(Debug, Clone)]
pub struct Publication {
    pub address: Address,
    /// Number of events.
    pub count: u32,
    /// [`crate::event::encode_events`]
    pub body: Bytes,
    /// The caller wants to know how many subscriptions the channel has.
    pub wants_count: bool,
}

/// A node's membership was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asserted {
    /// Where the channel stood at that moment: what comes after is for everyone
    /// who was counted.
    pub at: Position,
    /// Subscriptions of the whole cluster.
    pub total: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Nothing was done: there is no connection, or its queue is full.
    #[error("Redis is not available, nothing was published")]
    Unavailable,
    /// No answer came in time: it may have been done.
    #[error("Redis did not answer in time, the batch may have been published")]
    OutcomeUnknown,
    /// Nothing was done: Redis is at its `maxmemory`.
    #[error("Redis has no memory left, nothing was published")]
    OutOfMemory,
    #[error("Redis refused: {0}")]
    Refused(String),
}

/// Where the nodes agree.
#[derive(Debug)]
pub enum Backend {
    Memory(Memory),
    Redis(Redis),
}

impl Backend {
    /// Numbers, remembers and announces each publication, all of them as one
    /// step, in the order given. Returns the counts that were asked for.
    pub async fn publish(
        &self,
        id: AnnouncementId,
        publications: Vec<Publication>,
    ) -> Result<Vec<Option<u64>>, BackendError> {
        match self {
            Backend::Memory(memory) => memory.publish(id, publications).await,
            Backend::Redis(redis) => redis.publish_batch(id, publications).await,
        }
    }

    /// From the answer on, everything announced on the channel is heard.
    pub async fn listen(&self, address: &Address) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => {
                memory.listen(address);
                Ok(())
            }
            Backend::Redis(redis) => redis.listen(address).await,
        }
    }

    /// What is announced on the channel need not be heard any longer.
    pub fn unlisten(&self, address: &Address) {
        match self {
            Backend::Memory(memory) => memory.unlisten(address),
            Backend::Redis(redis) => redis.unlisten(address),
        }
    }

    /// This node has `count` subscriptions to the channel: the number itself,
    /// not a difference, so that saying it again changes nothing.
    pub async fn assert_subscriptions(
        &self,
        address: &Address,
        count: u64,
    ) -> Result<Asserted, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.assert_subscriptions(address, count)),
            Backend::Redis(redis) => redis.assert_subscriptions(address, count).await,
        }
    }

    /// Subscriptions of the whole cluster: one read, however many nodes.
    pub async fn count_subscriptions(&self, address: &Address) -> Result<u64, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.count_subscriptions(address)),
            Backend::Redis(redis) => redis.count_subscriptions(address).await,
        }
    }

    /// What was announced after `after`, as far as the log reaches.
    pub async fn read_log(&self, address: &Address, after: AnnouncementId) -> Result<Log, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(memory.read_log(address, after)),
            Backend::Redis(redis) => redis.read_log(address, after).await,
        }
    }

    /// Where each channel stands; None where nothing is known of it.
    pub async fn read_heads(&self, addresses: &[Address]) -> Result<Vec<Option<Position>>, BackendError> {
        match self {
            Backend::Memory(memory) => {
                Ok(addresses.iter().map(|address| memory.read_head(address)).collect())
            }
            Backend::Redis(redis) => redis.read_heads(addresses).await,
        }
    }

    /// Opens a new epoch above `seen_seq`, unless the channel has left `epoch`
    /// already. After a fork, so that no number is used twice.
    pub async fn open_epoch(&self, address: &Address, epoch: u64, seen_seq: u64) -> Result<(), BackendError> {
        match self {
            // One process cannot disagree with itself.
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.open_epoch(address, epoch, seen_seq).await,
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
