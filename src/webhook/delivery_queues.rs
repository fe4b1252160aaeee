//! Queued deliveries, and the calls that may begin now (design.md 5). No IO and no clock:
//! the caller passes the time and makes the calls.
//!
//! Each webhook has one queue per channel. Calls for different channels are concurrent;
//! those of one queue are in order, one at a time. So a failure delays only its own queue.
//! A webhook whose calls all fail is called by single probes, see [`circuit`]. The calls of
//! a node are shared by apps, see [`AppCalls`].

mod circuit;
mod endpoint;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::{OutboxId, WebhookEvent, WebhookEventId};

use endpoint::Endpoint;

/// A webhook: its index within its app. Two webhooks with the same URL are distinct.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct EndpointId {
    pub(super) app: Arc<str>,
    pub(super) index: usize,
}

/// The delivery of one event to one webhook.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) partition: Partition,
    pub(super) webhook_event: Arc<WebhookEvent>,
    /// A call that fails after this time is not retried for this event.
    pub(super) expires: Instant,
    /// Position among all deliveries offered to the webhook.
    order: u64,
}

impl Delivery {
    pub(super) fn new(partition: Partition, webhook_event: Arc<WebhookEvent>, expires: Instant) -> Delivery {
        Delivery { partition, webhook_event, expires, order: 0 }
    }

    /// The `id` in calls: the same at every attempt, on every node. With the app, because one
    /// receiver may serve several.
    pub(super) fn id(&self) -> String {
        format!("{}-{}-{}", self.webhook_event.app, self.partition.0, self.webhook_event.id)
    }

    fn outbox(&self) -> OutboxId {
        OutboxId { partition: self.partition, app: self.webhook_event.app.clone() }
    }

    fn channel(&self) -> &str {
        &self.webhook_event.channel
    }
}

/// One call to make. Its outcome goes to [`DeliveryQueues::finish`].
#[derive(Debug)]
pub(super) struct Call {
    pub(super) endpoint: EndpointId,
    /// In the order of the outbox.
    pub(super) events: Vec<Delivery>,
    /// The queues of the events, by channel, with the number of events of each.
    queues: Vec<(Arc<str>, usize)>,
    /// Whether the call is for one queue whose last call failed, or a probe.
    pub(super) is_retry: bool,
    /// Whether the call is the only one that the open circuit of its webhook permits.
    pub(super) is_probe: bool,
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Delivered,
    Failed,
    /// Not sent, for a reason that is not the receiver's.
    NotSent,
}

/// The effect of a finished call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// Events that need no further delivery to this webhook: delivered or too old.
    pub(super) settled: Vec<(OutboxId, WebhookEventId)>,
    /// Number of settled events that were too old.
    pub(super) abandoned: usize,
    /// For the log: set once per change, not per call.
    pub(super) change: Option<Change>,
    /// The same.
    pub(super) circuit: Option<CircuitChange>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    BeganToFail,
    /// No queue of the webhook fails any more.
    Recovered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CircuitChange {
    Opened,
    Closed,
}

/// The calls in progress of one app.
#[derive(Debug, Default, Clone, Copy)]
struct AppCalls {
    calls: usize,
    retries: usize,
}

/// Whether an app with `own` of the `used` calls may begin another one: while it has fewer
/// than its share of the free calls. So the more calls are used, the fewer an app may have.
fn has_share(own: usize, used: usize, max: usize) -> bool {
    let free = max - used;
    free > 0 && (own == 0 || own * limits::WEBHOOK_APP_CALLS_DIVISOR < free)
}

/// The queues of all webhooks.
#[derive(Debug, Default)]
pub(super) struct DeliveryQueues {
    /// Webhooks with queued events or calls in progress.
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// The webhook of the last call: all others come first (round robin).
    last: Option<EndpointId>,
    calls: usize,
    retries: usize,
    /// Apps with calls in progress.
    apps: HashMap<Arc<str>, AppCalls>,
}

impl DeliveryQueues {
    /// Appends a delivery to the queue of its channel.
    pub(super) fn offer(&mut self, endpoint: EndpointId, delivery: Delivery) {
        self.endpoints.entry(endpoint).or_default().offer(delivery);
    }

    /// The next call that may begin now. Webhooks are served round robin, with at most
    /// [`limits::WEBHOOK_CALLS_MAX`] calls in progress, and the share of its app.
    pub(super) fn next_call(&mut self, now: Instant) -> Option<Call> {
        if self.calls == limits::WEBHOOK_CALLS_MAX {
            return None;
        }
        let id = self.next_endpoint(now)?;
        let may_retry = self.may_retry(&id.app);
        let call = self.endpoints.get_mut(&id)?.next_call(id.clone(), now, may_retry)?;
        let app = self.apps.entry(id.app.clone()).or_default();
        for calls in [&mut self.calls, &mut app.calls] {
            *calls += 1;
        }
        for retries in [&mut self.retries, &mut app.retries] {
            *retries += usize::from(call.is_retry);
        }
        self.last = Some(id);
        Some(call)
    }

    fn next_endpoint(&self, now: Instant) -> Option<EndpointId> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let round = self.endpoints.range((after, Bound::Unbounded)).chain(&self.endpoints);
        let mut can_call = round.filter(|(id, endpoint)| {
            self.may_call(&id.app) && endpoint.can_call(now, self.may_retry(&id.app))
        });
        can_call.next().map(|(id, _)| id.clone())
    }

    fn may_call(&self, app: &str) -> bool {
        has_share(self.calls_of(app).calls, self.calls, limits::WEBHOOK_CALLS_MAX)
    }

    fn may_retry(&self, app: &str) -> bool {
        has_share(self.calls_of(app).retries, self.retries, limits::WEBHOOK_RETRIES_MAX)
    }

    fn calls_of(&self, app: &str) -> AppCalls {
        self.apps.get(app).copied().unwrap_or_default()
    }

    /// Number of webhooks whose circuit is open.
    pub(super) fn open_circuits(&self) -> usize {
        self.endpoints.values().filter(|endpoint| endpoint.is_circuit_open()).count()
    }

    /// The time at which the next retry may begin. `None` if there is none, or if a call in
    /// progress has to end first.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.calls == limits::WEBHOOK_CALLS_MAX {
            return None;
        }
        let may_begin = |id: &EndpointId| self.may_call(&id.app) && self.may_retry(&id.app);
        let endpoints = self.endpoints.iter().filter(|(id, _)| may_begin(id));
        endpoints.filter_map(|(_, endpoint)| endpoint.next_due()).min()
    }

    /// Records the outcome of a call. `jitter`, about 1, is a factor of the backoff that
    /// spreads retries.
    pub(super) fn finish(&mut self, call: Call, outcome: Outcome, now: Instant, jitter: f64) -> Finished {
        self.end_call(&call);
        let Some(endpoint) = self.endpoints.get_mut(&call.endpoint) else { return Finished::default() };
        let id = call.endpoint.clone();
        let finished = match outcome {
            Outcome::Delivered => endpoint.delivered(call),
            Outcome::Failed | Outcome::NotSent => endpoint.failed(call, outcome, now, jitter),
        };
        if endpoint.is_empty() {
            self.endpoints.remove(&id);
        }
        finished
    }

    fn end_call(&mut self, call: &Call) {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
        let Some(app) = self.apps.get_mut(&call.endpoint.app) else { return };
        app.calls -= 1;
        app.retries -= usize::from(call.is_retry);
        if app.calls == 0 {
            self.apps.remove(&call.endpoint.app);
        }
    }

    /// Drops events that are too old from failed queues without a further call: so many
    /// queues fail that they use up the limit of retries. Where the circuit is open, from all
    /// queues.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(OutboxId, WebhookEventId)> {
        let expired = self.endpoints.values_mut().flat_map(|endpoint| endpoint.expire(now)).collect();
        self.endpoints.retain(|_, endpoint| !endpoint.is_empty());
        expired
    }

    /// Drops the queued events of these partitions. Calls in progress may end.
    pub(super) fn cancel(&mut self, partitions: &HashSet<Partition>) {
        self.endpoints.values_mut().for_each(|endpoint| endpoint.cancel(partitions));
        self.endpoints.retain(|_, endpoint| !endpoint.is_empty());
    }

    /// Drops all events of these partitions. Calls in progress settle no events, but still
    /// block further calls of their queues until they end.
    pub(super) fn detach(&mut self, partitions: &HashSet<Partition>) {
        self.cancel(partitions);
        self.endpoints.values_mut().for_each(|endpoint| endpoint.detach(partitions));
    }

    /// Whether a call with events of this partition is in progress.
    pub(super) fn is_in_progress(&self, partition: Partition) -> bool {
        self.endpoints.values().any(|endpoint| endpoint.is_in_progress(partition))
    }
}

/// The pause after the last of `failures` failed calls.
fn backoff(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    limits::WEBHOOK_BACKOFF_MIN.saturating_mul(doubled).min(limits::WEBHOOK_BACKOFF_MAX)
}
