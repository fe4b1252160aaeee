//! The queues of one webhook.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Call, Change, Delivery, EndpointId, Finished};
use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::WebhookEventId;

#[derive(Debug, Default)]
pub(super) struct Endpoint {
    /// Queues by channel.
    queues: HashMap<Arc<str>, DeliveryQueue>,
    /// Queues that have not failed and wait for a call, the oldest first.
    ready: VecDeque<Arc<str>>,
    /// Queues that have failed, by the time of their next call.
    due: BTreeSet<(Instant, Arc<str>)>,
    calls: usize,
    retries: usize,
    /// Whether at least one queue has failed since the last time that none was failing.
    is_failing: bool,
    /// Number of deliveries offered so far: the order of the next one.
    offered: u64,
}

/// The events of one channel, in order.
#[derive(Debug)]
struct DeliveryQueue {
    partition: Partition,
    waiting: VecDeque<Delivery>,
    /// Failed calls since the last success.
    failures: u32,
    /// Events per call. Each failure halves it, so that an event which the receiver always
    /// rejects is finally alone in its call, and dropped alone.
    events_max: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    BackingOff(Instant),
    Called,
    /// A call is in progress for events that were dropped; its outcome is ignored.
    Detached,
}

/// The queues of a call, by channel, with the number of events of each.
type QueueCounts = Vec<(Arc<str>, usize)>;

impl Endpoint {
    pub(super) fn offer(&mut self, mut delivery: Delivery) {
        self.offered += 1;
        delivery.order = self.offered;
        if let Some(queue) = self.queues.get_mut(delivery.channel()) {
            return queue.waiting.push_back(delivery);
        }
        let channel: Arc<str> = delivery.channel().into();
        self.ready.push_back(channel.clone());
        self.queues.insert(channel, DeliveryQueue::new(delivery));
    }

    pub(super) fn can_call(&self, now: Instant, may_retry: bool) -> bool {
        self.calls < limits::WEBHOOK_ENDPOINT_CALLS_MAX
            && (!self.ready.is_empty() || (may_retry && self.next_due().is_some_and(|due| due <= now)))
    }

    /// Retries come first: their limit always leaves capacity for other calls.
    pub(super) fn next_call(&mut self, endpoint: EndpointId, now: Instant, may_retry: bool) -> Option<Call> {
        if !self.can_call(now, may_retry) {
            return None;
        }
        let is_retry = may_retry && self.next_due().is_some_and(|due| due <= now);
        let (events, queues) = match is_retry {
            true => self.take_failed()?,
            false => self.take_ready(),
        };
        self.calls += 1;
        self.retries += usize::from(is_retry);
        Some(Call { endpoint, events, queues, is_retry })
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let has_capacity = self.calls < limits::WEBHOOK_ENDPOINT_CALLS_MAX
            && self.retries < limits::WEBHOOK_ENDPOINT_RETRIES_MAX;
        self.due.first().filter(|_| has_capacity).map(|(due, _)| *due)
    }

    /// Takes the events of as many queues as fit in one call.
    fn take_ready(&mut self) -> (Vec<Delivery>, QueueCounts) {
        let (mut taken, mut queues) = (Vec::new(), QueueCounts::new());
        while taken.len() < limits::WEBHOOK_BATCH_MAX {
            let Some(channel) = self.ready.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&channel) else { continue };
            let from_queue = queue.take(limits::WEBHOOK_BATCH_MAX - taken.len());
            queues.push((channel, from_queue.len()));
            taken.extend(from_queue);
        }
        taken.sort_by_key(|event: &Delivery| event.order);
        (taken, queues)
    }

    /// Takes events of one queue that has failed, without any other queue.
    fn take_failed(&mut self) -> Option<(Vec<Delivery>, QueueCounts)> {
        let (_, channel) = self.due.pop_first()?;
        let queue = self.queues.get_mut(&channel)?;
        let taken = queue.take(limits::WEBHOOK_BATCH_MAX);
        let count = taken.len();
        Some((taken, vec![(channel, count)]))
    }

    pub(super) fn delivered(&mut self, call: Call) -> Finished {
        self.end_call(&call);
        let mut finished = Finished::default();
        let owned = self.owned(&call);
        finished.settled.extend(settled(call.events.iter().filter(|event| owned.contains(event.channel()))));
        for (channel, _) in call.queues {
            if let Some(queue) = self.queues.get_mut(&channel) {
                queue.reset();
            }
            self.requeue(channel);
        }
        if self.is_failing && !self.queues.values().any(|queue| queue.failures > 0) {
            self.is_failing = false;
            finished.change = Some(Change::Recovered);
        }
        finished
    }

    pub(super) fn failed(&mut self, call: Call, now: Instant, jitter: f64) -> Finished {
        self.end_call(&call);
        let mut finished = Finished::default();
        let owned = self.owned(&call);
        let (expired, kept): (Vec<_>, Vec<_>) = call
            .events
            .into_iter()
            .filter(|event| owned.contains(event.channel()))
            .partition(|event| event.expires <= now);
        finished.abandoned = expired.len();
        finished.settled.extend(settled(&expired));
        // In reverse, so that each queue has its events in order again.
        for event in kept.into_iter().rev() {
            if let Some(queue) = self.queues.get_mut(event.channel()) {
                queue.waiting.push_front(event);
            }
        }
        for (channel, sent) in call.queues {
            let has_abandoned = expired.iter().any(|event| event.channel() == &*channel);
            if let Some(queue) = self.queues.get_mut(&channel)
                && owned.contains(&*channel)
            {
                queue.back_off(sent, has_abandoned, now, jitter);
            }
            self.requeue(channel);
        }
        if !owned.is_empty() && !std::mem::replace(&mut self.is_failing, true) {
            finished.change = Some(Change::BeganToFail);
        }
        finished
    }

    fn end_call(&mut self, call: &Call) {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
    }

    /// The channels of a call that were not detached during it.
    fn owned(&self, call: &Call) -> HashSet<Arc<str>> {
        let is_owned =
            |channel: &Arc<str>| self.queues.get(channel).is_some_and(|it| it.stage == Stage::Called);
        call.queues.iter().map(|(channel, _)| channel.clone()).filter(is_owned).collect()
    }

    /// After the end of a call: removes the queue if it is empty, otherwise schedules its
    /// next call.
    fn requeue(&mut self, channel: Arc<str>) {
        let Some(queue) = self.queues.get_mut(&channel) else { return };
        if queue.waiting.is_empty() {
            self.queues.remove(&channel);
            return;
        }
        match queue.stage {
            Stage::BackingOff(due) => drop(self.due.insert((due, channel))),
            _ => {
                queue.stage = Stage::Ready;
                self.ready.push_back(channel);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Partition, WebhookEventId)> {
        let overdue: Vec<_> = self.due.iter().take_while(|(due, _)| *due <= now).cloned().collect();
        let mut expired = Vec::new();
        for (due, channel) in overdue {
            let Some(queue) = self.queues.get_mut(&channel) else { continue };
            let count = queue.waiting.iter().take_while(|event| event.expires <= now).count();
            expired.extend(settled(&queue.waiting.drain(..count).collect::<Vec<_>>()));
            if queue.waiting.is_empty() {
                self.due.remove(&(due, channel.clone()));
                self.queues.remove(&channel);
            }
        }
        expired
    }

    pub(super) fn cancel(&mut self, partitions: &HashSet<Partition>) {
        self.queues.retain(|_, queue| {
            if partitions.contains(&queue.partition) {
                queue.waiting.clear();
            }
            !queue.waiting.is_empty() || queue.is_called()
        });
        let queues = &self.queues;
        self.ready.retain(|channel| queues.contains_key(channel));
        self.due.retain(|(_, channel)| queues.contains_key(channel));
    }

    pub(super) fn detach(&mut self, partitions: &HashSet<Partition>) {
        let queues = self.queues.values_mut().filter(|queue| partitions.contains(&queue.partition));
        for queue in queues.filter(|queue| queue.is_called()) {
            queue.reset();
            queue.stage = Stage::Detached;
        }
    }

    pub(super) fn is_in_progress(&self, partition: Partition) -> bool {
        self.queues.values().any(|queue| queue.partition == partition && queue.stage == Stage::Called)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }
}

fn settled<'a>(
    events: impl IntoIterator<Item = &'a Delivery>,
) -> impl Iterator<Item = (Partition, WebhookEventId)> {
    events.into_iter().map(|event| (event.partition, event.webhook_event.id.clone()))
}

impl DeliveryQueue {
    fn new(delivery: Delivery) -> DeliveryQueue {
        DeliveryQueue {
            partition: delivery.partition,
            waiting: VecDeque::from([delivery]),
            failures: 0,
            events_max: limits::WEBHOOK_BATCH_MAX,
            stage: Stage::Ready,
        }
    }

    fn take(&mut self, count_max: usize) -> Vec<Delivery> {
        self.stage = Stage::Called;
        let count = self.waiting.len().min(self.events_max).min(count_max);
        self.waiting.drain(..count).collect()
    }

    fn is_called(&self) -> bool {
        matches!(self.stage, Stage::Called | Stage::Detached)
    }

    fn reset(&mut self) {
        self.failures = 0;
        self.events_max = limits::WEBHOOK_BATCH_MAX;
    }

    fn back_off(&mut self, sent: usize, has_abandoned: bool, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.events_max = if has_abandoned { limits::WEBHOOK_BATCH_MAX } else { (sent / 2).max(1) };
        self.stage = Stage::BackingOff(now + backoff(self.failures).mul_f64(jitter));
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    limits::WEBHOOK_BACKOFF_MIN.saturating_mul(doubled).min(limits::WEBHOOK_BACKOFF_MAX)
}
