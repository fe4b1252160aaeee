//! What takes time: each of these is under way by itself, and tells the desk what
//! came of it.

use std::sync::Arc;

use reqwest::Client;

use super::call::{self, CallError};
use super::lanes::Call;
use crate::app::App;
use crate::backend::BackendError;
use crate::channel::Partition;
use crate::node::Node;
use crate::notice::{Notice, NoticeId};

/// Something that took time has ended.
#[derive(Debug)]
pub(super) enum Done {
    /// None: another node has the partition, or nobody knows.
    Looked(Partition, Option<Vec<Found>>),
    Called(Call, Outcome),
    Removed(Partition, Vec<NoticeId>, Result<(), BackendError>),
    Released,
}

/// A notice, and its app if there still is one.
pub(super) type Found = (Notice, Option<Arc<App>>);

#[derive(Debug)]
pub(super) enum Outcome {
    Delivered,
    Failed(CallError),
    /// The app or the webhook is not configured any more.
    Gone,
}

/// Claims the partition and reads on. As far as the apps are known: where one is
/// not known just now, the next look begins with its notice.
pub(super) async fn look(
    node: Node,
    partition: Partition,
    after: Option<NoticeId>,
    count_max: usize,
) -> Done {
    Done::Looked(partition, find(&node, partition, after.as_ref(), count_max).await)
}

async fn find(
    node: &Node,
    partition: Partition,
    after: Option<&NoticeId>,
    count_max: usize,
) -> Option<Vec<Found>> {
    let notices = match node.backend.claim_notices(partition, after, count_max).await {
        Ok(notices) => notices?,
        Err(error) => {
            tracing::debug!(?partition, %error, "the outbox of webhooks could not be claimed");
            return None;
        }
    };
    let mut found = Vec::with_capacity(notices.len());
    for notice in notices {
        let Ok(app) = node.apps.by_id(&notice.app).await else { break };
        found.push((notice, app));
    }
    Some(found)
}

/// To the webhook as it is configured now: whoever mends a URL need not wait for
/// new events.
pub(super) async fn call(node: Node, client: Client, call: Call) -> Done {
    let outcome = match node.apps.by_id(&call.hook.app).await {
        Err(error) => Outcome::Failed(error.into()),
        Ok(app) => match app.as_ref().and_then(|app| Some((app, app.webhooks.get(call.hook.index)?))) {
            None => Outcome::Gone,
            Some((app, hook)) => match call::post(&client, app, hook, &call.events).await {
                Ok(()) => Outcome::Delivered,
                Err(error) => Outcome::Failed(error),
            },
        },
    };
    Done::Called(call, outcome)
}

pub(super) async fn remove(node: Node, partition: Partition, ids: Vec<NoticeId>) -> Done {
    let result = node.backend.remove_notices(partition, &ids).await;
    Done::Removed(partition, ids, result)
}

/// If it fails, the claim lapses by itself.
pub(super) async fn release(node: Node, partition: Partition) -> Done {
    let _ = node.backend.release_notices(partition).await;
    Done::Released
}
