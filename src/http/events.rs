//! `POST …/events` and `POST …/batch_events` (protocol.md 1.3, 1.4).

use axum::extract::State;
use serde_json::{Map, Value, json};

use super::ApiError;
use super::rates::{self, Rated};
use super::reply::Reply;
use super::signed::SignedRequest;
use crate::batch::{self, Batch, BatchError, BatchEvent};
use crate::channel::{ChannelKind, ChannelName};
use crate::node::Node;
use crate::publish::{Published, publish_batch};

/// Publishes one event. Returns `{}`, or `{"channels":{name:attributes}}` if the event has `info`.
pub(super) async fn post_event(State(node): State<Node>, signed: SignedRequest) -> Rated {
    let batch = Batch::parse_event(&signed.body, &signed.app.limits);
    publish(&node, &signed, batch, event_reply).await
}

/// Publishes a batch. Returns `{}`, or, if any event has `info`, `{"batch":[attributes]}` with
/// one object per event, at the event's index.
pub(super) async fn post_batch(State(node): State<Node>, signed: SignedRequest) -> Rated {
    let batch = Batch::parse_batch(&signed.body, &signed.app.limits);
    publish(&node, &signed, batch, batch_reply).await
}

/// The publishing script charges the rate limit.
async fn publish(
    node: &Node,
    signed: &SignedRequest,
    batch: Result<Batch, BatchError>,
    reply: fn(&Batch, &Published) -> Reply,
) -> Rated {
    let batch = match check(signed, batch) {
        Ok(batch) => batch,
        Err(error) => return error.into(),
    };
    match publish_batch(&node.backend, &signed.app, &batch, &node.delta).await {
        Ok(published) => Rated { result: Ok(reply(&batch, &published)), rate: published.rate },
        Err(error) => error.into(),
    }
}

fn check(signed: &SignedRequest, batch: Result<Batch, BatchError>) -> Result<Batch, ApiError> {
    check_idempotency_header(signed)?;
    let batch = batch?;
    rates::check_affordable(&signed.app, &batch)?;
    Ok(batch)
}

fn event_reply(batch: &Batch, published: &Published) -> Reply {
    let event = &batch.events[0];
    if !event.info.asked {
        return Reply::empty();
    }
    let channels: Map<String, Value> =
        event.channels.iter().map(|name| (name.to_string(), attributes(event, name, published))).collect();
    Reply::json(&json!({ "channels": channels }))
}

fn batch_reply(batch: &Batch, published: &Published) -> Reply {
    if !batch.events.iter().any(|event| event.info.asked) {
        return Reply::empty();
    }
    let attributes: Vec<Value> =
        batch.events.iter().map(|event| attributes(event, &event.channels[0], published)).collect();
    Reply::json(&json!({ "batch": attributes }))
}

/// The attributes in the event's `info` that the channel has. Others are left out
/// (protocol.md 1.6).
fn attributes(event: &BatchEvent, channel: &ChannelName, published: &Published) -> Value {
    let mut attributes = json!({});
    if let Some(counts) = published.counts.get(channel) {
        if event.info.subscription_count {
            attributes["subscription_count"] = counts.subscriptions.into();
        }
        if event.info.user_count && channel.kind() == ChannelKind::Presence {
            attributes["user_count"] = counts.users.into();
        }
    }
    attributes
}

fn check_idempotency_header(signed: &SignedRequest) -> Result<(), ApiError> {
    let Some(key) = signed.headers.get("x-idempotency-key") else { return Ok(()) };
    let key = key.to_str().unwrap_or_default();
    batch::check_idempotency_key(key).map_err(ApiError::from)
}
