//! Turns of apps before the publishing script. Redis executes one script at a time, so what an app
//! has in flight delays all others.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::backend::{BackendError, Publication};
use crate::limits;
use crate::metrics::metrics;

/// The permits of each app with publications in flight: [`limits::PUBLISH_COST_MAX`]. A batch that
/// costs more than all of them takes all of them.
#[derive(Debug, Default)]
pub(super) struct PublishPermits {
    apps: Mutex<HashMap<Box<str>, Weak<Semaphore>>>,
}

impl PublishPermits {
    /// Waits for the permits of a batch. The batches of an app receive theirs in the order of their
    /// requests, after at most [`limits::PUBLISH_WAIT_MAX`].
    pub(super) async fn acquire(
        &self,
        app: &str,
        publications: &[Publication],
    ) -> Result<OwnedSemaphorePermit, BackendError> {
        let (of_app, cost) = (self.of_app(app), cost(publications));
        if let Ok(permit) = of_app.clone().try_acquire_many_owned(cost) {
            return Ok(permit);
        }
        metrics().publishes_delayed.increment(1);
        match timeout(limits::PUBLISH_WAIT_MAX, of_app.acquire_many_owned(cost)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => {
                metrics().publishes_refused.increment(1);
                Err(BackendError::Busy)
            }
        }
    }

    fn of_app(&self, app: &str) -> Arc<Semaphore> {
        let mut apps = self.apps.lock();
        if let Some(of_app) = apps.get(app).and_then(Weak::upgrade) {
            return of_app;
        }
        // Not more entries than twice the most apps that have published at the same time.
        if apps.len() == apps.capacity() {
            apps.retain(|_, of_app| of_app.strong_count() > 0);
        }
        let of_app = Arc::new(Semaphore::new(limits::PUBLISH_COST_MAX as usize));
        apps.insert(app.into(), Arc::downgrade(&of_app));
        of_app
    }
}

/// 1 for each publication, or for each [`limits::PUBLISH_COST_BYTES`] of a large batch.
fn cost(publications: &[Publication]) -> u32 {
    let bytes: usize = publications.iter().map(|publication| publication.body.len()).sum();
    let cost = publications.len().max(bytes / limits::PUBLISH_COST_BYTES);
    u32::try_from(cost).unwrap_or(u32::MAX).min(limits::PUBLISH_COST_MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::channel::ChannelId;

    #[tokio::test]
    async fn permits_are_of_one_app_and_entries_are_removed() {
        let permits = PublishPermits::default();
        let publication = |bytes: usize| Publication {
            channel_id: ChannelId::from_wire("1:news").expect("a channel id"),
            count: 1,
            body: vec![0; bytes].into(),
            wants_counts: false,
            last: None,
            bases: None,
        };
        assert_eq!(cost(&[publication(1), publication(1)]), 2);
        assert_eq!(cost(&[publication(40 * limits::PUBLISH_COST_BYTES)]), 40);
        let largest = [publication(2 * limits::BATCH_BYTES_MAX)];
        assert_eq!(cost(&largest), limits::PUBLISH_COST_MAX);

        let held = permits.acquire("1", &largest).await.expect("a permit");
        let small = [publication(1)];
        let waiting = permits.acquire("1", &small);
        let other = permits.acquire("2", &small).await.expect("a permit of another app");
        assert!(waiting.now_or_never().is_none(), "the app waits for itself");
        drop((held, other));
        for app in 0..1_000 {
            drop(permits.acquire(&app.to_string(), &small).await.expect("a permit"));
        }
        assert!(permits.apps.lock().len() < 8);
    }
}
