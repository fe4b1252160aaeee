//! The one task that owns what this node delivers. It never waits: looks at the
//! outboxes, calls and removals are under way by themselves, and come back as
//! [`JobResult`].

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use reqwest::Client;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::call;
use super::delivery_queues::{Call, Change, Delivery, DeliveryQueues, Finished, HookId};
use super::in_flight::InFlight;
use super::work::{self, CallOutcome, Found, JobResult};
use crate::app::{App, Webhook};
use crate::channel::Partition;
use crate::limits;
use crate::metrics::metrics;
use crate::node::Node;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

#[derive(Debug)]
pub(super) struct Dispatcher {
    node: Node,
    client: Client,
    queues: DeliveryQueues,
    in_flight: InFlight,
    /// Those whose webhooks are this node's to deliver, as of the last tick.
    own: HashSet<Partition>,
    /// Those that were, and are given up as soon as their calls have ended. WebhookEventKind
    /// was waiting is forgotten, so they are read from the start if they come back.
    leaving: HashSet<Partition>,
    /// To be looked at, each once, and those being looked at.
    looks: VecDeque<Partition>,
    looking: HashSet<Partition>,
    work: JoinSet<JobResult>,
    is_stopping: bool,
}

impl Dispatcher {
    pub(super) fn new(node: Node) -> Dispatcher {
        Dispatcher {
            node,
            client: call::client(),
            queues: DeliveryQueues::default(),
            in_flight: InFlight::default(),
            own: HashSet::new(),
            leaving: HashSet::new(),
            looks: VecDeque::new(),
            looking: HashSet::new(),
            work: JoinSet::new(),
            is_stopping: false,
        }
    }

    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>) {
        let mut tick = tokio::time::interval(limits::WEBHOOK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.queues.next_due();
            tokio::select! {
                _ = &mut stop => break,
                _ = tick.tick() => self.tick(),
                Some(done) = self.work.join_next() => self.finish(done),
                () = wait_until(due) => {}
            }
            self.start_work();
        }
        self.stop().await;
    }

    fn tick(&mut self) {
        self.own = self.node.backend.own_partitions().into_iter().collect();
        self.release_lost_partitions();
        self.claim_all();
        self.in_flight.retry_removals();
        self.expire();
        metrics().webhook_events_pending.set(self.in_flight.len() as f64);
    }

    /// Also at those that are being left, to keep the claim until they are.
    fn claim_all(&mut self) {
        let partitions: Vec<Partition> = self.own.union(&self.leaving).copied().collect();
        partitions.into_iter().for_each(|partition| self.claim(partition));
    }

    /// A look that is under way, or waits for its turn, is not asked for again.
    fn claim(&mut self, partition: Partition) {
        if !self.looking.contains(&partition) && !self.looks.contains(&partition) {
            self.looks.push_back(partition);
        }
    }

    /// WebhookEventKind is under way ends first, so that the next owner does not call for the
    /// same events meanwhile.
    fn release_lost_partitions(&mut self) {
        self.leaving.extend(self.in_flight.partitions().into_iter().filter(|it| !self.own.contains(it)));
        if self.leaving.is_empty() {
            return;
        }
        self.queues.cancel(&self.leaving);
        for partition in self.leaving.clone() {
            let is_busy = self.looking.contains(&partition) || self.queues.is_in_progress(partition);
            if !is_busy && self.in_flight.is_delivered(partition) {
                self.release(partition);
            }
        }
    }

    fn release(&mut self, partition: Partition) {
        self.in_flight.release(partition);
        self.leaving.remove(&partition);
        self.looks.retain(|other| *other != partition);
        self.work.spawn(work::release(self.node.clone(), partition));
    }

    fn start_work(&mut self) {
        while self.looking.len() < limits::WEBHOOK_CLAIMS_MAX {
            let Some(partition) = self.looks.pop_front() else { break };
            self.start_claim(partition);
        }
        let now = Instant::now();
        while let Some(call) = self.queues.next_call(now) {
            self.work.spawn(work::call(self.node.clone(), self.client.clone(), call));
        }
        for (partition, ids) in self.in_flight.removals() {
            self.work.spawn(work::remove(self.node.clone(), partition, ids));
        }
    }

    fn start_claim(&mut self, partition: Partition) {
        let (after, room) = self.in_flight.reach(partition);
        // Without room the claim is renewed.
        let count_max = if self.is_owned(partition) { room } else { 0 };
        self.looking.insert(partition);
        self.work.spawn(work::claim(self.node.clone(), partition, after, count_max));
    }

    fn finish(&mut self, done: Result<JobResult, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            // The process ends at once.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            JobResult::Looked(partition, found) => {
                self.looking.remove(&partition);
                match found {
                    Some(found) => self.found(partition, found),
                    None => self.lost(partition),
                }
            }
            JobResult::Called(call, outcome) => self.called(call, &outcome),
            JobResult::Removed(partition, ids, Ok(())) => {
                if self.in_flight.removed(partition, &ids) {
                    self.claim_again(partition);
                }
            }
            JobResult::Removed(partition, ids, Err(error)) => {
                tracing::debug!(?partition, %error, "delivered webhook events are still in the outbox");
                self.in_flight.not_removed(partition, ids);
            }
            JobResult::Released => {}
        }
    }

    /// Where something was found, more may be: there is no waiting for the tick.
    fn found(&mut self, partition: Partition, found: Vec<Found>) {
        let is_any = !found.is_empty();
        for (webhook_event, app) in found {
            self.hold(partition, &Arc::new(webhook_event), app.as_deref());
        }
        let (_, room) = self.in_flight.reach(partition);
        self.in_flight.claimed(partition, room == 0);
        if is_any && room > 0 {
            self.claim_again(partition);
        }
    }

    fn claim_again(&mut self, partition: Partition) {
        if self.is_owned(partition) && !self.is_stopping {
            self.claim(partition);
        }
    }

    fn is_owned(&self, partition: Partition) -> bool {
        self.own.contains(&partition) && !self.leaving.contains(&partition)
    }

    fn hold(&mut self, partition: Partition, webhook_event: &Arc<WebhookEvent>, app: Option<&App>) {
        if app.is_none() {
            metrics().webhook_events_orphaned.increment(1);
        }
        let endpoints = app.map_or(&[][..], |app| &app.webhooks[..]);
        let indices: Vec<usize> =
            (0..endpoints.len()).filter(|index| wants(&endpoints[*index], webhook_event)).collect();
        if !self.in_flight.hold(partition, &webhook_event.id, indices.len()) {
            return;
        }
        let expires = expiry(webhook_event.id.time_ms);
        for index in indices {
            let endpoint = HookId { app: webhook_event.app.clone(), index };
            self.queues.offer(endpoint, Delivery::new(partition, webhook_event.clone(), expires));
        }
    }

    /// Another node has the partition, or it could not be asked for in time to be
    /// sure that no other has.
    fn lost(&mut self, partition: Partition) {
        self.leaving.remove(&partition);
        if self.in_flight.release(partition) {
            self.queues.abandon(&HashSet::from([partition]));
        }
    }

    fn called(&mut self, call: Call, outcome: &CallOutcome) {
        let (endpoint, events) = (call.endpoint.clone(), call.events.len());
        match outcome {
            CallOutcome::Delivered => metrics().webhook_events_delivered.increment(events as u64),
            CallOutcome::Failed(_) => metrics().webhook_calls_failed.increment(1),
            CallOutcome::Gone => metrics().webhook_events_orphaned.increment(events as u64),
        }
        // Those that failed together do not come back together.
        let jitter = rand::random_range(0.9..1.1);
        let is_failed = matches!(outcome, CallOutcome::Failed(_));
        let finished = self.queues.finish(call, !is_failed, Instant::now(), jitter);
        self.settle(&finished.settled);
        metrics().webhook_events_abandoned.increment(finished.given_up as u64);
        report(&endpoint, outcome, &finished);
    }

    fn expire(&mut self) {
        let expired = self.queues.expire(Instant::now());
        if !expired.is_empty() {
            tracing::warn!(events = expired.len(), "webhook events given up: too many channels fail");
        }
        metrics().webhook_events_abandoned.increment(expired.len() as u64);
        self.settle(&expired);
    }

    fn settle(&mut self, settled: &[(Partition, WebhookEventId)]) {
        for (partition, id) in settled {
            self.in_flight.settle(*partition, id);
        }
    }

    /// One last look, and what can be delivered now is. WebhookEventKind has failed and waits
    /// for its time is left to other nodes.
    async fn stop(mut self) {
        self.is_stopping = true;
        self.claim_all();
        let _ = tokio::time::timeout(limits::WEBHOOK_STOP_TIMEOUT, self.finish_all()).await;
        self.work.abort_all();
        let node = &self.node;
        let releases = stream::iter(self.in_flight.partitions()).for_each_concurrent(
            limits::WEBHOOK_CLAIMS_MAX,
            |partition| async move {
                let _ = node.backend.release_webhook_outbox(partition).await;
            },
        );
        let _ = tokio::time::timeout(limits::SCRIPT_ATTEMPT_TIMEOUT, releases).await;
        match self.in_flight.len() {
            0 => tracing::info!("webhooks delivered"),
            events => tracing::warn!(events, "webhook events left behind, for other nodes if there are any"),
        }
    }

    async fn finish_all(&mut self) {
        loop {
            self.start_work();
            match self.work.join_next().await {
                Some(done) => self.finish(done),
                None => return,
            }
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn wants(endpoint: &Webhook, webhook_event: &WebhookEvent) -> bool {
    let begins =
        endpoint.channel_prefix.as_ref().is_none_or(|prefix| webhook_event.channel.starts_with(prefix));
    let ends = endpoint.channel_suffix.as_ref().is_none_or(|suffix| webhook_event.channel.ends_with(suffix));
    begins && ends && endpoint.events.has(webhook_event.what.name())
}

fn expiry(decided_ms: u64) -> Instant {
    let age = Duration::from_millis(call::unix_ms().saturating_sub(decided_ms));
    Instant::now() + limits::WEBHOOK_AGE_MAX.saturating_sub(age)
}

/// One line when it begins to fail and one when it is over, not one per call. The
/// URL may hold a secret: the webhook is named by its place in the app.
fn report(endpoint: &HookId, outcome: &CallOutcome, finished: &Finished) {
    let HookId { app, index } = endpoint;
    match (outcome, finished.change) {
        (CallOutcome::Failed(error), Some(Change::BeganToFail)) => {
            tracing::warn!(%app, webhook = index, %error, "webhook fails, its events are tried again");
        }
        (CallOutcome::Delivered, Some(Change::Recovered)) => {
            tracing::warn!(%app, webhook = index, "webhook works again");
        }
        _ => {}
    }
    if finished.given_up > 0 {
        tracing::warn!(%app, webhook = index, events = finished.given_up, "webhook events given up");
    }
}
