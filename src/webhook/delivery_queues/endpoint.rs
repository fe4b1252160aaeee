//! The queues of one webhook.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use super::circuit::Circuit;
use super::{Call, Change, CircuitChange, Delivery, EndpointId, Finished, Outcome, backoff};
use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::{OutboxId, WebhookEventId};

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
    circuit: Circuit,
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
        let can_retry = may_retry && self.next_due().is_some_and(|due| due <= now);
        let can_begin = self.calls < limits::WEBHOOK_ENDPOINT_CALLS_MAX
            && !self.ready.is_empty()
            && !self.is_circuit_open();
        can_begin || can_retry
    }

    /// Retries come first: their limit always leaves capacity for other calls.
    pub(super) fn next_call(&mut self, endpoint: EndpointId, now: Instant, may_retry: bool) -> Option<Call> {
        if !self.can_call(now, may_retry) {
            return None;
        }
        let is_retry = may_retry && self.next_due().is_some_and(|due| due <= now);
        let is_probe = self.circuit.is_open();
        let (events, queues) = match (is_probe, is_retry) {
            (true, _) => self.take_probe(now)?,
            (false, true) => self.take_failed()?,
            (false, false) => self.take_ready(),
        };
        self.calls += 1;
        self.retries += usize::from(is_retry);
        Some(Call { endpoint, events, queues, is_retry, is_probe })
    }

    /// The time of the next retry or, if the circuit is open, of the next probe.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let has_capacity = self.calls < limits::WEBHOOK_ENDPOINT_CALLS_MAX
            && self.retries < limits::WEBHOOK_ENDPOINT_RETRIES_MAX;
        if self.circuit.is_open() {
            let probe_at = self.circuit.probe_at()?;
            return match self.ready.is_empty() {
                true => self.first_due().map(|due| due.max(probe_at)),
                false => Some(probe_at),
            };
        }
        self.first_due().filter(|_| has_capacity)
    }

    fn first_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    pub(super) fn is_circuit_open(&self) -> bool {
        self.circuit.is_open()
    }

    /// Takes events of one queue to find out whether the receiver works.
    fn take_probe(&mut self, now: Instant) -> Option<(Vec<Delivery>, QueueCounts)> {
        let has_failed = self.first_due().is_some_and(|due| due <= now);
        let takes_failed = has_failed && (self.ready.is_empty() || self.circuit.prefers_failed());
        self.circuit.begin_probe();
        if takes_failed {
            return self.take_failed();
        }
        let channel = self.ready.pop_front()?;
        self.take_one(channel)
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
        self.take_one(channel)
    }

    fn take_one(&mut self, channel: Arc<str>) -> Option<(Vec<Delivery>, QueueCounts)> {
        let queue = self.queues.get_mut(&channel)?;
        let taken = queue.take(limits::WEBHOOK_BATCH_MAX);
        let count = taken.len();
        Some((taken, vec![(channel, count)]))
    }

    pub(super) fn delivered(&mut self, call: Call) -> Finished {
        self.end_call(&call);
        let circuit = self.circuit.succeeded().then_some(CircuitChange::Closed);
        let mut finished = Finished { circuit, ..Finished::default() };
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

    /// A call that was not sent is repeated like one that has failed, but the receiver does not
    /// count as failing.
    pub(super) fn failed(&mut self, call: Call, outcome: Outcome, now: Instant, jitter: f64) -> Finished {
        self.end_call(&call);
        let mut finished = Finished::default();
        let owned = self.owned(&call);
        let is_sent = outcome != Outcome::NotSent;
        if !is_sent {
            self.circuit.not_sent(call.is_probe, now);
        } else if self.circuit.failed(call.is_probe, self.is_news(&call), now, jitter) {
            finished.circuit = Some(CircuitChange::Opened);
        }
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
        if is_sent && !owned.is_empty() && !std::mem::replace(&mut self.is_failing, true) {
            finished.change = Some(Change::BeganToFail);
        }
        finished
    }

    /// Whether the failure of this call may be the receiver's: not if it is at least the second
    /// retry of one channel.
    fn is_news(&self, call: &Call) -> bool {
        call.queues.iter().any(|(channel, _)| self.queues.get(channel).is_none_or(|it| it.failures < 2))
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

    pub(super) fn expire(&mut self, now: Instant) -> Vec<(OutboxId, WebhookEventId)> {
        let is_open = self.circuit.is_open();
        let overdue = self.due.iter().take_while(|(due, _)| is_open || *due <= now);
        let ready = self.ready.iter().filter(|_| is_open);
        let queues: Vec<_> = overdue.map(|(_, channel)| channel).chain(ready).cloned().collect();
        let mut expired = Vec::new();
        for channel in queues {
            let Some(queue) = self.queues.get_mut(&channel) else { continue };
            let count = queue.waiting.iter().take_while(|event| event.expires <= now).count();
            expired.extend(settled(&queue.waiting.drain(..count).collect::<Vec<_>>()));
        }
        if !expired.is_empty() {
            self.remove_empty();
        }
        expired
    }

    pub(super) fn cancel(&mut self, partitions: &HashSet<Partition>) {
        for queue in self.queues.values_mut().filter(|queue| partitions.contains(&queue.partition)) {
            queue.waiting.clear();
        }
        self.remove_empty();
    }

    fn remove_empty(&mut self) {
        self.queues.retain(|_, queue| !queue.waiting.is_empty() || queue.is_called());
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
) -> impl Iterator<Item = (OutboxId, WebhookEventId)> {
    events.into_iter().map(|event| (event.outbox(), event.webhook_event.id.clone()))
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
