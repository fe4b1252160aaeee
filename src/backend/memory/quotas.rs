//! Rate limits and connection limits of apps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use super::Memory;
use crate::backend::{Account, BackendError, Charge, RateState};
use crate::capacity::Shrink;

impl Memory {
    pub fn charge(&self, charge: &Charge) -> Result<RateState, BackendError> {
        self.state.lock().rates.charge(charge)
    }

    /// All connections are those of this node. A lowered limit closes none of them.
    pub fn hold_connections(&self, held: u64, requested: u64, max: u64) -> u64 {
        requested.min(max).max(held)
    }
}

/// One window for each account of an app.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<(Arc<str>, Account), Window>);

#[derive(Debug)]
struct Window {
    ends: Instant,
    used: u64,
}

impl Rates {
    pub(super) fn remove_expired(&mut self, now: Instant) {
        self.0.retain(|_, window| window.ends > now);
        self.0.shrink_if_sparse();
    }

    /// Charges a window, which begins with the first charge and expires by itself.
    pub(super) fn charge(&mut self, charge: &Charge) -> Result<RateState, BackendError> {
        let now = Instant::now();
        let Charge { app, account, cost, rate } = charge;
        let fresh = || Window { ends: now + rate.window, used: 0 };
        let window = self.0.entry((app.clone(), *account)).or_insert_with(fresh);
        if window.ends <= now {
            *window = fresh();
        }
        let fits = window.used + cost <= rate.count;
        window.used += if fits { *cost } else { 0 };
        let remaining = rate.count.saturating_sub(window.used);
        let state = RateState { limit: rate.count, remaining, reset: window.ends - now };
        if fits { Ok(state) } else { Err(BackendError::RateLimited(state)) }
    }
}
