//! The jobs of the dispatcher: calls and backend operations. Each runs in a task of its
//! own and returns a [`JobResult`].

use std::sync::Arc;

use reqwest::Client;

use super::call::{self, CallError};
use super::delivery_queues::{Call, Outcome};
use crate::app::App;
use crate::backend::{BackendError, ClaimedOutboxes, WebhookPage};
use crate::channel::Partition;
use crate::node::Node;
use crate::webhook_event::{OutboxId, WebhookEventId};

/// The outcome of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    /// The outboxes to read. `None`: another node holds the claim, or the backend did not answer.
    ClaimEnded(Partition, Option<ClaimedOutboxes>),
    ReadEnded(OutboxId, Read),
    Called(Call, CallOutcome),
    Removed(OutboxId, Vec<WebhookEventId>, Result<(), BackendError>),
    Released,
}

/// The outcome of a read.
#[derive(Debug)]
pub(super) enum Read {
    /// The events, and their app; `None` if it was removed.
    Page(WebhookPage, Option<Arc<App>>),
    /// The outbox or the app could not be read.
    Failed,
    /// This node has no claim.
    NotClaimed,
}

#[derive(Debug)]
pub(super) enum CallOutcome {
    /// With the host of the URL, as for a failure.
    Delivered(String),
    Failed(String, CallError),
    /// No call was made, because the app cannot be read.
    NotSent,
    /// The app or the webhook is no longer configured.
    Gone,
}

impl From<&CallOutcome> for Outcome {
    fn from(outcome: &CallOutcome) -> Outcome {
        match outcome {
            // The events of a removed webhook need no further delivery.
            CallOutcome::Delivered(_) | CallOutcome::Gone => Outcome::Delivered,
            CallOutcome::Failed(..) => Outcome::Failed,
            CallOutcome::NotSent => Outcome::NotSent,
        }
    }
}

/// Claims the outboxes of a partition.
pub(super) async fn claim(node: Node, partition: Partition, is_new: bool) -> JobResult {
    let claimed = match node.backend.claim_webhook_outboxes(partition, is_new).await {
        Ok(claimed) => claimed,
        Err(error) => {
            tracing::debug!(?partition, %error, "webhook outboxes not claimed");
            None
        }
    };
    JobResult::ClaimEnded(partition, claimed)
}

/// Reads up to `count_max` events after `after`.
pub(super) async fn read(
    node: Node,
    outbox: OutboxId,
    after: Option<WebhookEventId>,
    count_max: usize,
) -> JobResult {
    let read = match node.backend.read_webhook_outbox(&outbox, after.as_ref(), count_max).await {
        Ok(None) => Read::NotClaimed,
        Ok(Some(page)) if page.events.is_empty() => Read::Page(page, None),
        Ok(Some(page)) => match node.apps.by_id(&outbox.app).await {
            Ok(app) => Read::Page(page, app),
            Err(_) => Read::Failed,
        },
        Err(error) => {
            tracing::debug!(?outbox, %error, "webhook outbox not read");
            Read::Failed
        }
    };
    JobResult::ReadEnded(outbox, read)
}

/// Calls the webhook as configured now, so that a corrected URL is effective for queued
/// events too.
pub(super) async fn call(node: Node, client: Client, call: Call) -> JobResult {
    let outcome = match node.apps.by_id(&call.endpoint.app).await {
        Err(error) => {
            tracing::debug!(app = %call.endpoint.app, %error, "webhook not called");
            CallOutcome::NotSent
        }
        Ok(app) => match app.as_ref().and_then(|app| Some((app, app.webhooks.get(call.endpoint.index)?))) {
            None => CallOutcome::Gone,
            Some((app, endpoint)) => match call::post(&client, app, endpoint, &call.events).await {
                Ok(()) => CallOutcome::Delivered(endpoint.host().to_owned()),
                Err(error) => CallOutcome::Failed(endpoint.host().to_owned(), error),
            },
        },
    };
    JobResult::Called(call, outcome)
}

pub(super) async fn remove(node: Node, outbox: OutboxId, ids: Vec<WebhookEventId>) -> JobResult {
    let result = node.backend.remove_webhook_events(&outbox, &ids).await;
    JobResult::Removed(outbox, ids, result)
}

/// Releases the claim. If this fails, the claim expires.
pub(super) async fn release(node: Node, partition: Partition) -> JobResult {
    let _ = node.backend.release_webhook_outboxes(partition).await;
    JobResult::Released
}
