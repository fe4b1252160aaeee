//! Permits for pending subscriptions, and what a subscription costs its connection.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The permits that a connection shares with all connections of its app on this node:
/// [`crate::limits::APP_PENDING_MAX`].
#[derive(Debug)]
pub struct SubscriptionPermits {
    of_app: Arc<Semaphore>,
    charged_bytes: Arc<AtomicU64>,
}

/// Held from a subscribe command to its confirmation.
#[derive(Debug)]
pub struct SubscriptionPermit {
    _of_app: OwnedSemaphorePermit,
    charged_bytes: Arc<AtomicU64>,
}

impl SubscriptionPermits {
    pub fn new(of_app: Arc<Semaphore>) -> SubscriptionPermits {
        SubscriptionPermits { of_app, charged_bytes: Arc::default() }
    }

    pub fn try_acquire(&self) -> Option<SubscriptionPermit> {
        let permit = self.of_app.clone().try_acquire_owned().ok()?;
        Some(SubscriptionPermit { _of_app: permit, charged_bytes: self.charged_bytes.clone() })
    }

    /// Waits for a permit. The connections of an app receive them in the order of their requests.
    pub fn acquire(&self) -> impl Future<Output = SubscriptionPermit> + Send + Sync + use<> {
        let (of_app, charged_bytes) = (self.of_app.clone(), self.charged_bytes.clone());
        async move {
            let permit = of_app.acquire_owned().await.expect("the semaphore is never closed");
            SubscriptionPermit { _of_app: permit, charged_bytes }
        }
    }

    /// The bytes that were charged to the connection since the last call.
    pub fn take_charge(&self) -> u64 {
        self.charged_bytes.swap(0, Ordering::Relaxed)
    }
}

impl SubscriptionPermit {
    /// Charges bytes to the connection of the subscription.
    pub fn charge(&self, bytes: usize) {
        self.charged_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
