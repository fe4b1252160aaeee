//! The queues of one webhook.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Call, Change, Delivery, Finished, HookId};
use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::WebhookEventId;

#[derive(Debug, Default)]
pub(super) struct Endpoint {
    /// By channel.
    queues: HashMap<Arc<str>, DeliveryQueue>,
    /// DeliveryQueues that have not failed and wait for a call, longest first.
    ready: VecDeque<Arc<str>>,
    /// DeliveryQueues that have failed, by when they may be called again.
    due: BTreeSet<(Instant, Arc<str>)>,
    calls: usize,
    retries: usize,
    /// A queue has failed, and since then there was always one that had.
    is_failing: bool,
    /// Deliveries offered so far: their order.
    offered: u64,
}

/// The events of one channel, in order.
#[derive(Debug)]
struct DeliveryQueue {
    partition: Partition,
    waiting: VecDeque<Delivery>,
    /// Failed calls since one succeeded.
    failures: u32,
    /// Halved by each failure, so that an event that the receiver can never take
    /// is called for alone in the end, and alone given up.
    events_max: usize,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Ready,
    BackingOff(Instant),
    Called,
    /// Called, for events that are not owned any more.
    Forsaken,
}

/// DeliveryQueues of a call, with how many of its events are theirs.
type Parts = Vec<(Arc<str>, usize)>;

impl Endpoint {
    pub(super) fn offer(&mut self, mut delivery: Delivery) {
        self.offered += 1;
        delivery.place = self.offered;
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

    /// Retries first: there is always room left for the others.
    pub(super) fn next_call(&mut self, endpoint: HookId, now: Instant, may_retry: bool) -> Option<Call> {
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
        let has_room = self.calls < limits::WEBHOOK_ENDPOINT_CALLS_MAX
            && self.retries < limits::WEBHOOK_ENDPOINT_RETRIES_MAX;
        self.due.first().filter(|_| has_room).map(|(due, _)| *due)
    }

    /// As many queues as one call holds.
    fn take_ready(&mut self) -> (Vec<Delivery>, Parts) {
        let (mut taken, mut queues) = (Vec::new(), Parts::new());
        while taken.len() < limits::WEBHOOK_BATCH_MAX {
            let Some(channel) = self.ready.pop_front() else { break };
            let Some(queue) = self.queues.get_mut(&channel) else { continue };
            let of_lane = queue.take(limits::WEBHOOK_BATCH_MAX - taken.len());
            queues.push((channel, of_lane.len()));
            taken.extend(of_lane);
        }
        taken.sort_by_key(|event: &Delivery| event.place);
        (taken, queues)
    }

    /// One queue that has failed, alone.
    fn take_failed(&mut self) -> Option<(Vec<Delivery>, Parts)> {
        let (_, channel) = self.due.pop_first()?;
        let queue = self.queues.get_mut(&channel)?;
        let taken = queue.take(limits::WEBHOOK_BATCH_MAX);
        let count = taken.len();
        Some((taken, vec![(channel, count)]))
    }

    pub(super) fn delivered(&mut self, call: Call) -> Finished {
        self.ended(&call);
        let mut finished = Finished::default();
        let owned = self.owned(&call);
        finished.settled.extend(settled(call.events.iter().filter(|event| owned.contains(event.channel()))));
        for (channel, _) in call.queues {
            if let Some(queue) = self.queues.get_mut(&channel) {
                queue.start_anew();
            }
            self.put_back(channel);
        }
        if self.is_failing && !self.queues.values().any(|queue| queue.failures > 0) {
            self.is_failing = false;
            finished.change = Some(Change::Recovered);
        }
        finished
    }

    pub(super) fn failed(&mut self, call: Call, now: Instant, jitter: f64) -> Finished {
        self.ended(&call);
        let mut finished = Finished::default();
        let owned = self.owned(&call);
        let (expired, kept): (Vec<_>, Vec<_>) = call
            .events
            .into_iter()
            .filter(|event| owned.contains(event.channel()))
            .partition(|event| event.expires <= now);
        finished.given_up = expired.len();
        finished.settled.extend(settled(&expired));
        // Last first, so that each queue has them in order again.
        for event in kept.into_iter().rev() {
            if let Some(queue) = self.queues.get_mut(event.channel()) {
                queue.waiting.push_front(event);
            }
        }
        for (channel, sent) in call.queues {
            let gave_up = expired.iter().any(|event| event.channel() == &*channel);
            if let Some(queue) = self.queues.get_mut(&channel)
                && owned.contains(&*channel)
            {
                queue.refused(sent, gave_up, now, jitter);
            }
            self.put_back(channel);
        }
        if !owned.is_empty() && !std::mem::replace(&mut self.is_failing, true) {
            finished.change = Some(Change::BeganToFail);
        }
        finished
    }

    fn ended(&mut self, call: &Call) {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
    }

    /// The channels of a call that were not forsaken meanwhile.
    fn owned(&self, call: &Call) -> HashSet<Arc<str>> {
        let is_owned =
            |channel: &Arc<str>| self.queues.get(channel).is_some_and(|it| it.stage == Stage::Called);
        call.queues.iter().map(|(channel, _)| channel.clone()).filter(is_owned).collect()
    }

    /// A queue whose call has ended waits for its next one, or is done with.
    fn put_back(&mut self, channel: Arc<str>) {
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

    pub(super) fn abandon(&mut self, partitions: &HashSet<Partition>) {
        let queues = self.queues.values_mut().filter(|queue| partitions.contains(&queue.partition));
        for queue in queues.filter(|queue| queue.is_called()) {
            queue.start_anew();
            queue.stage = Stage::Forsaken;
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
        matches!(self.stage, Stage::Called | Stage::Forsaken)
    }

    fn start_anew(&mut self) {
        self.failures = 0;
        self.events_max = limits::WEBHOOK_BATCH_MAX;
    }

    fn refused(&mut self, sent: usize, gave_up: bool, now: Instant, jitter: f64) {
        self.failures = self.failures.saturating_add(1);
        self.events_max = if gave_up { limits::WEBHOOK_BATCH_MAX } else { (sent / 2).max(1) };
        self.stage = Stage::BackingOff(now + backoff(self.failures).mul_f64(jitter));
    }
}

fn backoff(failures: u32) -> Duration {
    let doubled = 1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX);
    limits::WEBHOOK_BACKOFF_MIN.saturating_mul(doubled).min(limits::WEBHOOK_BACKOFF_MAX)
}
