//! Log lines of lost and regained connections to Redis.

use std::collections::BTreeSet;
use std::sync::Arc;

use fred::interfaces::EventInterface;
use fred::prelude::{Client, Error};
use parking_lot::Mutex;
use tokio::sync::broadcast::error::RecvError;

use super::scripts::is_connected;
use crate::limits;
use crate::task::Task;

/// One line for each reason of an outage, and one for its end, however many connections the node
/// has and however often they are retried.
#[derive(Debug)]
pub(super) struct ConnectionLog {
    clients: Vec<Client>,
    /// The reasons of the present outage.
    reasons: Mutex<BTreeSet<String>>,
}

impl ConnectionLog {
    pub(super) fn start(clients: Vec<Client>) {
        let log = Arc::new(ConnectionLog { clients, reasons: Mutex::default() });
        for client in &log.clients {
            Task::RedisReconnects.spawn(log.clone().watch(client.clone()));
        }
    }

    async fn watch(self: Arc<ConnectionLog>, client: Client) {
        let (mut errors, mut reconnects) = (client.error_rx(), client.reconnect_rx());
        loop {
            tokio::select! {
                error = errors.recv() => match error {
                    Ok((error, _)) => self.on_error(&error),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                },
                reconnect = reconnects.recv() => match reconnect {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.on_reconnect(),
                    Err(RecvError::Closed) => return,
                },
            }
        }
    }

    fn on_error(&self, error: &Error) {
        // The event of an outage that is over may arrive late.
        if self.clients.iter().all(is_connected) {
            return;
        }
        let mut reasons = self.reasons.lock();
        let reason = error.to_string();
        if reasons.len() < limits::REDIS_OUTAGE_REASONS_MAX && reasons.insert(reason.clone()) {
            tracing::warn!(reason, "connection to Redis lost");
        }
    }

    fn on_reconnect(&self) {
        if self.clients.iter().all(is_connected) && !std::mem::take(&mut *self.reasons.lock()).is_empty() {
            tracing::info!("all connections to Redis are open again");
        }
    }
}
