//! WebhookEventKind is to be delivered, and what may be called now (design.md 5). Pure: the
//! caller brings the time and makes the calls.
//!
//! A webhook is called for many channels at once, but for each channel, its
//! lane, in order and one call at a time. So what fails holds up its own lane
//! only.

mod hook;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

use hook::Hook;

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

/// One call that is to be made, and then told to [`Lanes::finish`].
#[derive(Debug)]
pub(super) struct Call {
    pub(super) hook: HookId,
    /// In the order of the outbox.
    pub(super) events: Vec<Delivery>,
    /// Whose events they are, and how many of each.
    lanes: Vec<(Arc<str>, usize)>,
    /// One lane, whose last call has failed.
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
    /// No lane of the webhook is failing any more.
    Recovered,
}

/// The lanes of all webhooks.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// Those with something to deliver, or under way.
    hooks: BTreeMap<HookId, Hook>,
    /// The webhook that was called last: the others come before it again.
    last: Option<HookId>,
    calls: usize,
    retries: usize,
}

impl Lanes {
    /// Behind all that was offered for its lane before.
    pub(super) fn offer(&mut self, hook: HookId, delivery: Delivery) {
        self.hooks.entry(hook).or_default().offer(delivery);
    }

    /// A call that may begin now. Webhooks take turns; no more than
    /// [`limits::WEBHOOK_CALLS_MAX`] are under way at once.
    pub(super) fn next_call(&mut self, now: Instant) -> Option<Call> {
        if self.calls == limits::WEBHOOK_CALLS_MAX {
            return None;
        }
        let may_retry = self.may_retry();
        let id = self.next_hook(now, may_retry)?;
        let call = self.hooks.get_mut(&id)?.next_call(id.clone(), now, may_retry)?;
        self.calls += 1;
        self.retries += usize::from(call.is_retry);
        self.last = Some(id);
        Some(call)
    }

    fn next_hook(&self, now: Instant, may_retry: bool) -> Option<HookId> {
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let round = self.hooks.range((after, Bound::Unbounded)).chain(&self.hooks);
        let mut can_call = round.filter(|(_, hook)| hook.can_call(now, may_retry));
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
        self.hooks.values().filter_map(Hook::next_due).min()
    }

    /// `jitter`, about 1, spreads the retries of those that failed together.
    pub(super) fn finish(&mut self, call: Call, is_delivered: bool, now: Instant, jitter: f64) -> Finished {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
        let Some(hook) = self.hooks.get_mut(&call.hook) else { return Finished::default() };
        let id = call.hook.clone();
        let finished = match is_delivered {
            true => hook.delivered(call),
            false => hook.failed(call, now, jitter),
        };
        if hook.is_empty() {
            self.hooks.remove(&id);
        }
        finished
    }

    /// Gives up what is too old in lanes that have failed and get no further call,
    /// because so many fail that they use up their share of calls.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Partition, WebhookEventId)> {
        let expired = self.hooks.values_mut().flat_map(|hook| hook.expire(now)).collect();
        self.hooks.retain(|_, hook| !hook.is_empty());
        expired
    }

    /// Forgets what is waiting of these partitions. WebhookEventKind is under way may end.
    pub(super) fn withdraw(&mut self, partitions: &HashSet<Partition>) {
        self.hooks.values_mut().for_each(|hook| hook.withdraw(partitions));
        self.hooks.retain(|_, hook| !hook.is_empty());
    }

    /// Forgets all of these partitions: whatever comes of a call under way
    /// settles nothing. Its lane is still not called before it has ended.
    pub(super) fn forsake(&mut self, partitions: &HashSet<Partition>) {
        self.withdraw(partitions);
        self.hooks.values_mut().for_each(|hook| hook.forsake(partitions));
    }

    /// Whether a call with events of this partition is under way.
    pub(super) fn is_under_way(&self, partition: Partition) -> bool {
        self.hooks.values().any(|hook| hook.is_under_way(partition))
    }
}
