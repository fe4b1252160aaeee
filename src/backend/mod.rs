//! Stage 4 of the path of a batch (design.md 2), and the state that nodes share. The contract has
//! six parts, one per file: the histories of channels, memberships, the counts that result from
//! them, quotas, stored apps and the webhook outboxes. The memory backend implements it for one
//! process and the Redis backend for a cluster. One suite, `tests/it/backend/contract.rs`, runs on
//! both.

mod apps;
mod counts;
mod history;
mod membership;
pub mod memory;
mod quotas;
pub mod redis;
mod webhook_outbox;

use std::borrow::Cow;

use thiserror::Error;

pub use apps::{AppChange, AppChanges, StoredApp};
pub use counts::{Counts, Occupied};
pub use history::{Cached, ControlEntry, KeptBase, KeptBases, LastEvent, Publication, Published, StoredBase};
pub use membership::{MembershipRules, MembershipUpdate, RosterRead, UpdatedMembership, UserCount};
pub use quotas::{Account, Charge, RateState};
pub use webhook_outbox::{ClaimedOutboxes, WebhookPage};

use crate::resume_tokens::ResumeTokens;
use memory::Memory;
use redis::Redis;

/// The shared state of the nodes.
#[derive(Debug)]
pub enum Backend {
    Memory(Box<Memory>),
    Redis(Box<Redis>),
}

/// Why an operation has failed. Callers choose the text for clients.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BackendError {
    /// Not executed: there is no connection, or its queue is full.
    #[error("the backend is unavailable: the operation was not executed")]
    Unavailable,
    /// No reply in time: the operation may have been executed.
    #[error("no reply from the backend in time: the operation may have been executed")]
    OutcomeUnknown,
    /// Not executed: the memory for shared state is full.
    #[error("the backend is out of memory: the operation was not executed")]
    OutOfMemory,
    /// Not executed: earlier batches of the app take too long.
    #[error("the app has too many batches in progress: the operation was not executed")]
    Busy,
    /// Not executed: the charge exceeds the app's rate limit.
    #[error("rate limit exceeded (limit: {} per window, remaining: {})", .0.limit, .0.remaining)]
    RateLimited(RateState),
    /// Not executed, for the given reason.
    #[error("the backend refused the operation: {0}")]
    Refused(String),
    /// A reply or stored data that this version does not understand.
    #[error("cannot read {0}")]
    Unreadable(String),
}

impl Backend {
    /// The reason why this node is not ready for traffic, or `None` if it is ready.
    pub fn unready(&self) -> Option<Cow<'static, str>> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.unready(),
        }
    }

    /// The tokens of clients that resume, with the key of the cluster.
    pub fn resume_tokens(&self) -> &ResumeTokens {
        match self {
            Backend::Memory(memory) => memory.resume_tokens(),
            Backend::Redis(redis) => redis.resume_tokens(),
        }
    }

    /// A condition of a working backend that needs the attention of an operator.
    pub fn warning(&self) -> Option<String> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.warning(),
        }
    }

    /// Removes expired state that Redis would remove by itself. Returns whether more is due: the
    /// caller lets other tasks run first.
    pub fn remove_expired(&self) -> bool {
        match self {
            Backend::Memory(memory) => memory.remove_expired(),
            Backend::Redis(_) => false,
        }
    }

    /// Removes this node's memberships, at the end of a drain.
    pub async fn leave(&self) {
        if let Backend::Redis(redis) = self {
            redis.leave().await;
        }
    }
}
