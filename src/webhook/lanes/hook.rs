//! The lanes of one webhook.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Call, Change, Delivery, Finished, HookId};
use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::WebhookEventId;

#[derive(Debug, Default)]
pub(super) struct Hook {
    /// By channel.
    lanes: HashMap<Arc<str>, Lane>,
    /// Lanes that have not failed and wait for a call, longest first.
    ready: VecDeque<Arc<str>>,
    /// Lanes that have failed, by when they may be called again.
    due: BTreeSet<(Instant, Arc<str>)>,
    calls: usize,
    retries: usize,
    /// A lane has failed, and since then there was always one that had.
    is_failing: bool,
    /// Deliveries offered so far: their order.
    offered: u64,
}

/// The events of one channel, in order.
#[derive(Debug)]
struct Lane {
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
    /// Called, for events that are not ours any more.
    Forsaken,
}

/// Lanes of a call, with how many of its events are theirs.
type Parts = Vec<(Arc<str>, usize)>;

impl Hook {
    pub(super) fn offer(&mut self, mut delivery: Delivery) {
        self.offered += 1;
        delivery.place = self.offered;
        if let Some(lane) = self.lanes.get_mut(delivery.channel()) {
            return lane.waiting.push_back(delivery);
        }
        let channel: Arc<str> = delivery.channel().into();
        self.ready.push_back(channel.clone());
        self.lanes.insert(channel, Lane::new(delivery));
    }

    pub(super) fn can_call(&self, now: Instant, may_retry: bool) -> bool {
        self.calls < limits::WEBHOOK_HOOK_CALLS_MAX
            && (!self.ready.is_empty() || (may_retry && self.next_due().is_some_and(|due| due <= now)))
    }

    /// Retries first: there is always room left for the others.
    pub(super) fn next_call(&mut self, hook: HookId, now: Instant, may_retry: bool) -> Option<Call> {
        if !self.can_call(now, may_retry) {
            return None;
        }
        let is_retry = may_retry && self.next_due().is_some_and(|due| due <= now);
        let (events, lanes) = match is_retry {
            true => self.take_failed()?,
            false => self.take_ready(),
        };
        self.calls += 1;
        self.retries += usize::from(is_retry);
        Some(Call { hook, events, lanes, is_retry })
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let has_room =
            self.calls < limits::WEBHOOK_HOOK_CALLS_MAX && self.retries < limits::WEBHOOK_HOOK_RETRIES_MAX;
        self.due.first().filter(|_| has_room).map(|(due, _)| *due)
    }

    /// As many lanes as one call holds.
    fn take_ready(&mut self) -> (Vec<Delivery>, Parts) {
        let (mut taken, mut lanes) = (Vec::new(), Parts::new());
        while taken.len() < limits::WEBHOOK_BATCH_MAX {
            let Some(channel) = self.ready.pop_front() else { break };
            let Some(lane) = self.lanes.get_mut(&channel) else { continue };
            let of_lane = lane.take(limits::WEBHOOK_BATCH_MAX - taken.len());
            lanes.push((channel, of_lane.len()));
            taken.extend(of_lane);
        }
        taken.sort_by_key(|event: &Delivery| event.place);
        (taken, lanes)
    }

    /// One lane that has failed, alone.
    fn take_failed(&mut self) -> Option<(Vec<Delivery>, Parts)> {
        let (_, channel) = self.due.pop_first()?;
        let lane = self.lanes.get_mut(&channel)?;
        let taken = lane.take(limits::WEBHOOK_BATCH_MAX);
        let count = taken.len();
        Some((taken, vec![(channel, count)]))
    }

    pub(super) fn delivered(&mut self, call: Call) -> Finished {
        self.ended(&call);
        let mut finished = Finished::default();
        let ours = self.ours(&call);
        finished.settled.extend(settled(call.events.iter().filter(|event| ours.contains(event.channel()))));
        for (channel, _) in call.lanes {
            if let Some(lane) = self.lanes.get_mut(&channel) {
                lane.start_anew();
            }
            self.put_back(channel);
        }
        if self.is_failing && !self.lanes.values().any(|lane| lane.failures > 0) {
            self.is_failing = false;
            finished.change = Some(Change::Recovered);
        }
        finished
    }

    pub(super) fn failed(&mut self, call: Call, now: Instant, jitter: f64) -> Finished {
        self.ended(&call);
        let mut finished = Finished::default();
        let ours = self.ours(&call);
        let (expired, kept): (Vec<_>, Vec<_>) = call
            .events
            .into_iter()
            .filter(|event| ours.contains(event.channel()))
            .partition(|event| event.expires <= now);
        finished.given_up = expired.len();
        finished.settled.extend(settled(&expired));
        // Last first, so that each lane has them in order again.
        for event in kept.into_iter().rev() {
            if let Some(lane) = self.lanes.get_mut(event.channel()) {
                lane.waiting.push_front(event);
            }
        }
        for (channel, sent) in call.lanes {
            let gave_up = expired.iter().any(|event| event.channel() == &*channel);
            if let Some(lane) = self.lanes.get_mut(&channel)
                && ours.contains(&*channel)
            {
                lane.refused(sent, gave_up, now, jitter);
            }
            self.put_back(channel);
        }
        if !ours.is_empty() && !std::mem::replace(&mut self.is_failing, true) {
            finished.change = Some(Change::BeganToFail);
        }
        finished
    }

    fn ended(&mut self, call: &Call) {
        self.calls -= 1;
        self.retries -= usize::from(call.is_retry);
    }

    /// The channels of a call that were not forsaken meanwhile.
    fn ours(&self, call: &Call) -> HashSet<Arc<str>> {
        let is_ours =
            |channel: &Arc<str>| self.lanes.get(channel).is_some_and(|it| it.stage == Stage::Called);
        call.lanes.iter().map(|(channel, _)| channel.clone()).filter(is_ours).collect()
    }

    /// A lane whose call has ended waits for its next one, or is done with.
    fn put_back(&mut self, channel: Arc<str>) {
        let Some(lane) = self.lanes.get_mut(&channel) else { return };
        if lane.waiting.is_empty() {
            self.lanes.remove(&channel);
            return;
        }
        match lane.stage {
            Stage::BackingOff(due) => drop(self.due.insert((due, channel))),
            _ => {
                lane.stage = Stage::Ready;
                self.ready.push_back(channel);
            }
        }
    }

    pub(super) fn expire(&mut self, now: Instant) -> Vec<(Partition, WebhookEventId)> {
        let overdue: Vec<_> = self.due.iter().take_while(|(due, _)| *due <= now).cloned().collect();
        let mut expired = Vec::new();
        for (due, channel) in overdue {
            let Some(lane) = self.lanes.get_mut(&channel) else { continue };
            let count = lane.waiting.iter().take_while(|event| event.expires <= now).count();
            expired.extend(settled(&lane.waiting.drain(..count).collect::<Vec<_>>()));
            if lane.waiting.is_empty() {
                self.due.remove(&(due, channel.clone()));
                self.lanes.remove(&channel);
            }
        }
        expired
    }

    pub(super) fn withdraw(&mut self, partitions: &HashSet<Partition>) {
        self.lanes.retain(|_, lane| {
            if partitions.contains(&lane.partition) {
                lane.waiting.clear();
            }
            !lane.waiting.is_empty() || lane.is_called()
        });
        let lanes = &self.lanes;
        self.ready.retain(|channel| lanes.contains_key(channel));
        self.due.retain(|(_, channel)| lanes.contains_key(channel));
    }

    pub(super) fn forsake(&mut self, partitions: &HashSet<Partition>) {
        let lanes = self.lanes.values_mut().filter(|lane| partitions.contains(&lane.partition));
        for lane in lanes.filter(|lane| lane.is_called()) {
            lane.start_anew();
            lane.stage = Stage::Forsaken;
        }
    }

    pub(super) fn is_under_way(&self, partition: Partition) -> bool {
        self.lanes.values().any(|lane| lane.partition == partition && lane.stage == Stage::Called)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

fn settled<'a>(
    events: impl IntoIterator<Item = &'a Delivery>,
) -> impl Iterator<Item = (Partition, WebhookEventId)> {
    events.into_iter().map(|event| (event.partition, event.webhook_event.id.clone()))
}

impl Lane {
    fn new(delivery: Delivery) -> Lane {
        Lane {
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
