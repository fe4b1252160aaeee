//! WebhookEventKind takes time: each of these is under way by itself, and tells the desk what
//! came of it.

use std::sync::Arc;

use reqwest::Client;

use super::call::{self, CallError};
use super::delivery_queues::Call;
use crate::app::App;
use crate::backend::BackendError;
use crate::channel::Partition;
use crate::node::Node;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

/// Something that took time has ended.
#[derive(Debug)]
pub(super) enum JobResult {
    /// None: another node has the partition, or nobody knows.
    Looked(Partition, Option<Vec<Found>>),
    Called(Call, CallOutcome),
    Removed(Partition, Vec<WebhookEventId>, Result<(), BackendError>),
    Released,
}

/// A webhook_event, and its app if there still is one.
pub(super) type Found = (WebhookEvent, Option<Arc<App>>);

#[derive(Debug)]
pub(super) enum CallOutcome {
    Delivered,
    Failed(CallError),
    /// The app or the webhook is not configured any more.
    Gone,
}

/// Claims the partition and reads on. As far as the apps are known: where one is
/// not known just now, the next look begins with its webhook_event.
pub(super) async fn claim(
    node: Node,
    partition: Partition,
    after: Option<WebhookEventId>,
    count_max: usize,
) -> JobResult {
    JobResult::Looked(partition, find(&node, partition, after.as_ref(), count_max).await)
}

async fn find(
    node: &Node,
    partition: Partition,
    after: Option<&WebhookEventId>,
    count_max: usize,
) -> Option<Vec<Found>> {
    let webhook_events = match node.backend.claim_webhook_events(partition, after, count_max).await {
        Ok(webhook_events) => webhook_events?,
        Err(error) => {
            tracing::debug!(?partition, %error, "the outbox of webhooks could not be claimed");
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

/// To the webhook as it is configured now: whoever mends a URL need not wait for
/// new events.
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

/// If it fails, the claim lapses by itself.
pub(super) async fn release(node: Node, partition: Partition) -> JobResult {
    let _ = node.backend.release_webhook_outbox(partition).await;
    JobResult::Released
}
