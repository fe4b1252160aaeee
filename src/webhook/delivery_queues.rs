//! WebhookEventKind is to be delivered, and what may be called now (design.md 5). Pure: the
//! caller brings the time and makes the calls.
//!
//! A webhook is called for many channels at once, but for each channel, its
//! queue, in order and one call at a time. So what fails holds up its own queue
//! only.

mod endpoint;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

use endpoint::Endpoint;

/// A webhook: its place among those of its app. Two with the same URL are two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HookId {
    pub(super) app: Arc<str>,
    pub(super) index: usize,
}

/// One event on its way to one webhook.
#[derive(Debug, Clone)]
pub(super) struct Delivery {
    pub(super) partition: Partition,
    pub(super) webhook_event: Arc<WebhookEvent>,
    /// A call that fails after this time was the last one for it.
    pub(super) expires: Instant,
    /// In the order of all that was offered to the webhook.
    place: u64,
}

impl Delivery {
    pub(super) fn new(partition: Partition, webhook_event: Arc<WebhookEvent>, expires: Instant) -> Delivery {
        Delivery { partition, webhook_event, expires, place: 0 }
    }

    /// The same at every delivery, on every node.
    pub(super) fn id(&self) -> String {
        format!("{}-{}", self.partition.0, self.webhook_event.id)
    }

    fn channel(&self) -> &str {
        &self.webhook_event.channel
    }
}

/// One call that is to be made, and then told to [`DeliveryQueues::finish`].
#[derive(Debug)]
pub(super) struct Call {
    pub(super) endpoint: HookId,
    /// In the order of the outbox.
    pub(super) events: Vec<Delivery>,
    /// Whose events they are, and how many of each.
    queues: Vec<(Arc<str>, usize)>,
    /// One queue, whose last call has failed.
    pub(super) is_retry: bool,
}

/// WebhookEventKind came of a call.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Finished {
    /// These need not be delivered to this webhook any more.
    pub(super) settled: Vec<(Partition, WebhookEventId)>,
    /// How many of them were given up.
    pub(super) given_up: usize,
    /// For whoever reads the log: once per change, not per call.
    pub(super) change: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    BeganToFail,
    /// No queue of the webhook is failing any more.
    Recovered,
}

/// The queues of all webhooks.
#[derive(Debug, Default)]
pub(super) struct DeliveryQueues {
    /// Those with something to deliver, or under way.
    endpoints: BTreeMap<HookId, Endpoint>,
    /// The webhook that was called last: the others come before it again.
    last: Option<HookId>,
    calls: usize,
    retries: usize,
}

impl DeliveryQueues {
    /// Behind all that was offered for its queue before.
    pub(super) fn offer(&mut self, endpoint: HookId, delivery: Delivery) {
        self.endpoints.entry(endpoint).or_default().offer(delivery);
    }

    /// A call that may begin now. Webhooks take turns; no more than
    /// [`limits::WEBHOOK_CALLS_MAX`] are under way at once.
    pub(super) fn next_call(&mut self, now: Instant) -> Option<Call> {
        if self.calls == limits::WEBHOOK_CALLS_MAX {
            return None;
        }
        let may_retry = self.may_retry();
        let id = self.next_hook(now, may_retry)?;
        let call = self.endpoints.get_mut(&id)?.next_call(id.clone(), now, may_retry)?;
        self.calls += 1;
        self.retries += usize::from(call.is_retry);
        self.last = Some(id);
        Some(call)
    }

    fn next_hook(&self, now: Instant, may_retry: bool) -> Option<HookId> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let round = self.endpoints.range((after, Bound::Unbounded)).chain(&self.endpoints);
        let mut can_call = round.filter(|(_, endpoint)| endpoint.can_call(now, may_retry));
        can_call.next().map(|(id, _)| id.clone())
    }

    fn may_retry(&self) -> bool {
        self.retries < limits::WEBHOOK_RETRIES_MAX
    }

    /// When time alone makes a call possible. None if nothing waits for that, or
    /// if a call under way has to end first.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.calls == limits::WEBHOOK_CALLS_MAX || !self.may_retry() {
            return None;
        }
        self.endpoints.values().filter_map(Endpoint::next_due).min()
    }

    /// `jitter`, about 1, spreads the retries of those that failed together.
    pub(super) fn finish(&mut self, call: Call, is_delivered: bool, now: Instant, jitter: f64) -> Finished {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
        let Some(endpoint) = self.endpoints.get_mut(&call.endpoint) else { return Finished::default() };
        let id = call.endpoint.clone();
        let finished = match is_delivered {
            true => endpoint.delivered(call),
            false => endpoint.failed(call, now, jitter),
        };
        if endpoint.is_empty() {
            self.endpoints.remove(&id);
        }
        finished
    }

    /// Gives up what is too old in queues that have failed and get no further call,
    /// because so many fail that they use up their share of calls.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Partition, WebhookEventId)> {
        let expired = self.endpoints.values_mut().flat_map(|endpoint| endpoint.expire(now)).collect();
        self.endpoints.retain(|_, endpoint| !endpoint.is_empty());
        expired
    }

    /// Forgets what is waiting of these partitions. WebhookEventKind is under way may end.
    pub(super) fn cancel(&mut self, partitions: &HashSet<Partition>) {
        self.endpoints.values_mut().for_each(|endpoint| endpoint.cancel(partitions));
        self.endpoints.retain(|_, endpoint| !endpoint.is_empty());
    }

    /// Forgets all of these partitions: whatever comes of a call under way
    /// settles nothing. Its queue is still not called before it has ended.
    pub(super) fn abandon(&mut self, partitions: &HashSet<Partition>) {
        self.cancel(partitions);
        self.endpoints.values_mut().for_each(|endpoint| endpoint.abandon(partitions));
    }

    /// Whether a call with events of this partition is under way.
    pub(super) fn is_in_progress(&self, partition: Partition) -> bool {
        self.endpoints.values().any(|endpoint| endpoint.is_in_progress(partition))
    }
}
