//! The contract of the webhook outboxes: each app has one in each partition. One node at a time
//! claims all of a partition, delivers their webhook events and removes them.

use std::sync::Arc;

use super::{Backend, BackendError};
use crate::channel::Partition;
use crate::webhook_event::{OutboxId, WebhookEvent, WebhookEventId};

/// The webhook outboxes of a partition that this node has claimed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ClaimedOutboxes {
    /// Apps to read now.
    pub apps: Vec<Arc<str>>,
    /// Webhook events dropped since the last claim because the app's outbox was full.
    pub dropped: Vec<(Arc<str>, u64)>,
}

/// One read of an outbox.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct WebhookPage {
    /// Oldest first.
    pub events: Vec<WebhookEvent>,
    /// Whether another read may find more at once.
    pub has_more: bool,
    /// The time of the read, by the clock that the ids of the events are times of.
    pub read_ms: u64,
}

impl Backend {
    /// The partitions whose webhook events this node delivers. Changes when nodes start or stop.
    pub fn own_partitions(&self) -> Vec<Partition> {
        match self {
            // The memory backend has one partition for all channels.
            Backend::Memory(_) => vec![Partition(0)],
            Backend::Redis(redis) => redis.own_partitions(),
        }
    }

    /// Claims the webhook outboxes of a partition, or renews the claim. Lists the apps with
    /// webhook events or due transitions that were not read yet; with `is_new`, those that were
    /// read too. `None` while another node has a claim.
    pub async fn claim_webhook_outboxes(
        &self,
        partition: Partition,
        is_new: bool,
    ) -> Result<Option<ClaimedOutboxes>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(Some(memory.list_webhook_outboxes(is_new))),
            Backend::Redis(redis) => redis.claim_webhook_outboxes(partition, is_new).await,
        }
    }

    /// Settles due transitions of the app, and reads up to `count_max` webhook events after
    /// `after`. If the page does not extend to the last event, the node has to read again by
    /// itself. `None` if the node has no claim.
    pub async fn read_webhook_outbox(
        &self,
        outbox: &OutboxId,
        after: Option<&WebhookEventId>,
        count_max: usize,
    ) -> Result<Option<WebhookPage>, BackendError> {
        match self {
            Backend::Memory(memory) => Ok(Some(memory.read_webhook_outbox(&outbox.app, after, count_max))),
            Backend::Redis(redis) => redis.read_webhook_outbox(outbox, after, count_max).await,
        }
    }

    /// Removes webhook events that were delivered or have expired.
    pub async fn remove_webhook_events(
        &self,
        outbox: &OutboxId,
        ids: &[WebhookEventId],
    ) -> Result<(), BackendError> {
        match self {
            Backend::Memory(memory) => {
                memory.remove_webhook_events(&outbox.app, ids);
                Ok(())
            }
            Backend::Redis(redis) => redis.remove_webhook_events(outbox, ids).await,
        }
    }

    /// Releases the webhook outboxes of a partition, so that another node can claim them at once.
    pub async fn release_webhook_outboxes(&self, partition: Partition) -> Result<(), BackendError> {
        match self {
            Backend::Memory(_) => Ok(()),
            Backend::Redis(redis) => redis.release_webhook_outboxes(partition).await,
        }
    }
}
