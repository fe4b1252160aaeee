//! The contract of quotas: rate limits and connection limits of an app, over all nodes.

use std::sync::Arc;
use std::time::Duration;

use super::{Backend, BackendError};
use crate::app::Rate;

impl Backend {
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
            Backend::Memory(memory) => Ok(memory.hold_connections(held, requested, max)),
            Backend::Redis(redis) => redis.hold_connections(app, held, requested, max).await,
        }
    }
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

impl RateState {
    /// Whole seconds to the end of the window, rounded up, so that a retry never comes too early.
    pub fn reset_secs(&self) -> u64 {
        self.reset.as_secs() + u64::from(self.reset.subsec_nanos() > 0)
    }
}
