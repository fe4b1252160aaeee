//! The jobs of the dispatcher: calls and backend operations. Each runs in a task of its
//! own and returns a [`JobResult`].

use std::sync::Arc;

use reqwest::Client;

use super::call::{self, CallError};
use super::delivery_queues::Call;
use crate::app::App;
use crate::backend::BackendError;
use crate::channel::Partition;
use crate::node::Node;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

/// The outcome of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    /// The events read. `None`: another node holds the claim, or the backend did not answer.
    ClaimEnded(Partition, Option<Vec<ClaimedEvent>>),
    Called(Call, CallOutcome),
    Removed(Partition, Vec<WebhookEventId>, Result<(), BackendError>),
    Released,
}

/// A webhook event and its app; `None` if the app was removed.
pub(super) type ClaimedEvent = (WebhookEvent, Option<Arc<App>>);

#[derive(Debug)]
pub(super) enum CallOutcome {
    Delivered,
    Failed(CallError),
    /// The app or the webhook is no longer configured.
    Gone,
}

/// Claims the partition and reads up to `count_max` events after `after`. Stops before the
/// first event whose app cannot be looked up now; the next claim starts there.
pub(super) async fn claim(
    node: Node,
    partition: Partition,
    after: Option<WebhookEventId>,
    count_max: usize,
) -> JobResult {
    JobResult::ClaimEnded(partition, find(&node, partition, after.as_ref(), count_max).await)
}

async fn find(
    node: &Node,
    partition: Partition,
    after: Option<&WebhookEventId>,
    count_max: usize,
) -> Option<Vec<ClaimedEvent>> {
    let webhook_events = match node.backend.claim_webhook_events(partition, after, count_max).await {
        Ok(webhook_events) => webhook_events?,
        Err(error) => {
            tracing::debug!(?partition, %error, "webhook outbox not claimed");
            return None;
        }
    };
    let mut found = Vec::with_capacity(webhook_events.len());
    for webhook_event in webhook_events {
        let Ok(app) = node.apps.by_id(&webhook_event.app).await else { break };
        found.push((webhook_event, app));
    }
    Some(found)
}

/// Calls the webhook as configured now, so that a corrected URL is effective for queued
/// events too.
pub(super) async fn call(node: Node, client: Client, call: Call) -> JobResult {
    let outcome = match node.apps.by_id(&call.endpoint.app).await {
        Err(error) => CallOutcome::Failed(error.into()),
        Ok(app) => match app.as_ref().and_then(|app| Some((app, app.webhooks.get(call.endpoint.index)?))) {
            None => CallOutcome::Gone,
            Some((app, endpoint)) => match call::post(&client, app, endpoint, &call.events).await {
                Ok(()) => CallOutcome::Delivered,
                Err(error) => CallOutcome::Failed(error),
            },
        },
    };
    JobResult::Called(call, outcome)
}

pub(super) async fn remove(node: Node, partition: Partition, ids: Vec<WebhookEventId>) -> JobResult {
    let result = node.backend.remove_webhook_events(partition, &ids).await;
    JobResult::Removed(partition, ids, result)
}

/// Releases the claim. If this fails, the claim expires.
pub(super) async fn release(node: Node, partition: Partition) -> JobResult {
    let _ = node.backend.release_webhook_outbox(partition).await;
    JobResult::Released
}
