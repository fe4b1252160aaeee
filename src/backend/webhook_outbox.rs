//! The contract of the webhook outbox: each partition has one, and one node at a time claims it,
//! delivers its webhook events and removes them.

use super::{Backend, BackendError};
use crate::channel::Partition;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

impl Backend {
    /// The partitions whose webhook events this node delivers. Changes when nodes start or stop.
    pub fn own_partitions(&self) -> Vec<Partition> {
        match self {
            // The memory backend has one outbox for all channels.
            Backend::Memory(_) => vec![Partition(0)],
            Backend::Redis(redis) => redis.own_partitions(),
        }
    }

    /// Claims a partition's webhook outbox, or renews the claim, and reads up to `count_max`
    /// webhook events after `after`, oldest first. `None` while another node has a claim.
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

    /// Removes webhook events that were delivered or have expired.
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

    /// Releases a partition's webhook outbox, so that another node can claim it at once.
    pub async fn release_webhook_outbox(&self, partition: Partition) -> Result<(), BackendError> {
        match self {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.release_webhook_outbox(partition).await,
        }
    }
}
