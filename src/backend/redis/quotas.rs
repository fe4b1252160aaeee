//! Rate limits and connection limits of apps, over all nodes.

use super::Redis;
use super::publish::rate_state;
use super::scripts::{number, text};
use crate::backend::{BackendError, Charge, RateState};

impl Redis {
    /// `lua/charge_app.lua`
    pub async fn charge(&self, charge: &Charge) -> Result<RateState, BackendError> {
        let names = vec![self.core.keys.rate(charge)];
        let limit = charge.rate.count;
        let arguments =
            vec![number(charge.cost), number(limit), number(charge.rate.window.as_millis() as u64)];
        let script = &self.core.scripts.charge_app;
        let answer = script.run(&self.core.clients[0], names, arguments).await?;
        let (is_charged, used, reset_ms): (i64, i64, i64) = answer.convert()?;
        match rate_state(limit, used, reset_ms) {
            state if is_charged == 0 => Err(BackendError::RateLimited(state)),
            state => Ok(state),
        }
    }

    /// `lua/hold_connections.lua`
    pub async fn hold_connections(
        &self,
        app: &str,
        held: u64,
        requested: u64,
        max: u64,
    ) -> Result<u64, BackendError> {
        let node = self.lease.incarnation().ok_or(BackendError::Unavailable)?;
        let names = vec![self.core.keys.connections(app), self.core.keys.leases()];
        let arguments = vec![text(&*node.name), number(held), number(requested), number(max)];
        let script = &self.core.scripts.hold_connections;
        let answer = script.run(&self.core.clients[0], names, arguments).await?;
        Ok(answer.convert()?)
    }
}
