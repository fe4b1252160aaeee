//! The task that owns the deliveries of this node. It never awaits a job: claims, calls
//! and removals run in tasks of their own and return a [`JobResult`].

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use reqwest::Client;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::call;
use super::delivery_queues::{Call, Change, Delivery, DeliveryQueues, EndpointId, Finished};
use super::in_flight::InFlight;
use super::work::{self, CallOutcome, ClaimedEvent, JobResult};
use crate::app::{App, Webhook};
use crate::channel::Partition;
use crate::limits;
use crate::metrics::{apps, metrics};
use crate::node::Node;
use crate::webhook_event::{WebhookEvent, WebhookEventId};

#[derive(Debug)]
pub(super) struct Dispatcher {
    node: Node,
    client: Client,
    queues: DeliveryQueues,
    in_flight: InFlight,
    /// Partitions that this node delivers, as of the last tick.
    owned: HashSet<Partition>,
    /// Partitions owned before, to be released when their calls have ended. Their queued
    /// events are dropped, so that they are read from the start if the node owns them again.
    releasing: HashSet<Partition>,
    /// Partitions whose outbox is to be claimed and read, each at most once.
    claim_queue: VecDeque<Partition>,
    /// Partitions with a claim in progress.
    claiming: HashSet<Partition>,
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
            owned: HashSet::new(),
            releasing: HashSet::new(),
            claim_queue: VecDeque::new(),
            claiming: HashSet::new(),
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
        self.owned = self.node.backend.own_partitions().into_iter().collect();
        self.release_lost_partitions();
        self.claim_all();
        self.in_flight.retry_removals();
        self.expire();
        metrics().webhook_events_pending.set(self.in_flight.len() as f64);
    }

    /// Includes partitions that are being released, whose claims are renewed until then.
    fn claim_all(&mut self) {
        let partitions: Vec<Partition> = self.owned.union(&self.releasing).copied().collect();
        partitions.into_iter().for_each(|partition| self.claim(partition));
    }

    /// Queues a claim unless one is queued or in progress.
    fn claim(&mut self, partition: Partition) {
        if !self.claiming.contains(&partition) && !self.claim_queue.contains(&partition) {
            self.claim_queue.push_back(partition);
        }
    }

    /// Releases partitions that other nodes own now. Calls in progress end first, so that
    /// the next owner does not deliver the same events concurrently.
    fn release_lost_partitions(&mut self) {
        self.releasing.extend(self.in_flight.partitions().into_iter().filter(|it| !self.owned.contains(it)));
        if self.releasing.is_empty() {
            return;
        }
        self.queues.cancel(&self.releasing);
        for partition in self.releasing.clone() {
            let is_busy = self.claiming.contains(&partition) || self.queues.is_in_progress(partition);
            if !is_busy && !self.in_flight.has_pending_removals(partition) {
                self.release(partition);
            }
        }
    }

    fn release(&mut self, partition: Partition) {
        self.in_flight.release(partition);
        self.releasing.remove(&partition);
        self.claim_queue.retain(|other| *other != partition);
        self.work.spawn(work::release(self.node.clone(), partition));
    }

    fn start_work(&mut self) {
        while self.claiming.len() < limits::WEBHOOK_CLAIMS_MAX {
            let Some(partition) = self.claim_queue.pop_front() else { break };
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
        let (after, capacity) = self.in_flight.next_read(partition);
        // A read of no events renews the claim.
        let count_max = if self.is_owned(partition) { capacity } else { 0 };
        self.claiming.insert(partition);
        self.work.spawn(work::claim(self.node.clone(), partition, after, count_max));
    }

    fn finish(&mut self, done: Result<JobResult, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            // The runtime is shutting down.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            JobResult::ClaimEnded(partition, found) => {
                self.claiming.remove(&partition);
                match found {
                    Some(found) => self.claimed(partition, found),
                    None => self.claim_lost(partition),
                }
            }
            JobResult::Called(call, outcome) => self.called(call, &outcome),
            JobResult::Removed(partition, ids, Ok(())) => {
                if self.in_flight.removed(partition, &ids) {
                    self.claim_again(partition);
                }
            }
            JobResult::Removed(partition, ids, Err(error)) => {
                tracing::debug!(?partition, %error, "webhook events not removed from the outbox");
                self.in_flight.not_removed(partition, ids);
            }
            JobResult::Released => {}
        }
    }

    /// A non-empty read is followed by the next one at once, not at the next tick.
    fn claimed(&mut self, partition: Partition, found: Vec<ClaimedEvent>) {
        let is_any = !found.is_empty();
        for (webhook_event, app) in found {
            self.accept(partition, &Arc::new(webhook_event), app.as_deref());
        }
        let (_, capacity) = self.in_flight.next_read(partition);
        self.in_flight.claimed(partition, capacity == 0);
        if is_any && capacity > 0 {
            self.claim_again(partition);
        }
    }

    fn claim_again(&mut self, partition: Partition) {
        if self.is_owned(partition) && !self.is_stopping {
            self.claim(partition);
        }
    }

    fn is_owned(&self, partition: Partition) -> bool {
        self.owned.contains(&partition) && !self.releasing.contains(&partition)
    }

    fn accept(&mut self, partition: Partition, webhook_event: &Arc<WebhookEvent>, app: Option<&App>) {
        if app.is_none() {
            metrics().webhook_events_orphaned.increment(1);
        }
        let endpoints = app.map_or(&[][..], |app| &app.webhooks[..]);
        let indices: Vec<usize> =
            (0..endpoints.len()).filter(|index| matches(&endpoints[*index], webhook_event)).collect();
        if !self.in_flight.insert(partition, &webhook_event.id, indices.len()) {
            return;
        }
        let expires = expiry(webhook_event.id.time_ms);
        for index in indices {
            let endpoint = EndpointId { app: webhook_event.app.clone(), index };
            self.queues.offer(endpoint, Delivery::new(partition, webhook_event.clone(), expires));
        }
    }

    /// Another node holds the claim, or the backend did not answer in time to exclude it.
    fn claim_lost(&mut self, partition: Partition) {
        self.releasing.remove(&partition);
        if self.in_flight.release(partition) {
            self.queues.detach(&HashSet::from([partition]));
        }
    }

    fn called(&mut self, call: Call, outcome: &CallOutcome) {
        let (endpoint, events) = (call.endpoint.clone(), call.events.len());
        let of_app = apps::of_app(&endpoint.app);
        match outcome {
            CallOutcome::Delivered => {
                metrics().webhook_events_delivered.increment(events as u64);
                of_app.webhook_events_delivered.increment(events as u64);
            }
            CallOutcome::Failed(_) => {
                metrics().webhook_calls_failed.increment(1);
                of_app.webhook_calls_failed.increment(1);
            }
            CallOutcome::Gone => metrics().webhook_events_orphaned.increment(events as u64),
        }
        // Channels that failed together are not retried together.
        let jitter = rand::random_range(0.9..1.1);
        let is_failed = matches!(outcome, CallOutcome::Failed(_));
        let finished = self.queues.finish(call, !is_failed, Instant::now(), jitter);
        self.settle(&finished.settled);
        metrics().webhook_events_abandoned.increment(finished.abandoned as u64);
        report(&endpoint, outcome, &finished);
    }

    fn expire(&mut self) {
        let expired = self.queues.expire(Instant::now());
        if !expired.is_empty() {
            tracing::warn!(events = expired.len(), "webhook events dropped: too many channels fail");
        }
        metrics().webhook_events_abandoned.increment(expired.len() as u64);
        self.settle(&expired);
    }

    fn settle(&mut self, settled: &[(Partition, WebhookEventId)]) {
        for (partition, id) in settled {
            self.in_flight.settle(*partition, id);
        }
    }

    /// Reads the outboxes once more and delivers the events that can be delivered now.
    /// Events in backoff stay in the outbox for other nodes.
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
            0 => tracing::info!("webhook events delivered"),
            events => tracing::warn!(events, "webhook events left in the outbox for other nodes"),
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

fn matches(endpoint: &Webhook, webhook_event: &WebhookEvent) -> bool {
    let prefix_matches =
        endpoint.channel_prefix.as_ref().is_none_or(|prefix| webhook_event.channel.starts_with(prefix));
    let suffix_matches =
        endpoint.channel_suffix.as_ref().is_none_or(|suffix| webhook_event.channel.ends_with(suffix));
    prefix_matches && suffix_matches && endpoint.events.has(webhook_event.what.name())
}

fn expiry(caused_ms: u64) -> Instant {
    let age = Duration::from_millis(call::unix_ms().saturating_sub(caused_ms));
    Instant::now() + limits::WEBHOOK_AGE_MAX.saturating_sub(age)
}

/// Logs the first failure and the recovery of a webhook, not every call. The URL may
/// contain a secret, so the log names the index of the webhook within its app.
fn report(endpoint: &EndpointId, outcome: &CallOutcome, finished: &Finished) {
    let EndpointId { app, index } = endpoint;
    match (outcome, finished.change) {
        (CallOutcome::Failed(error), Some(Change::BeganToFail)) => {
            tracing::warn!(%app, webhook = index, %error, "webhook fails, its events are retried");
        }
        (CallOutcome::Delivered, Some(Change::Recovered)) => {
            tracing::warn!(%app, webhook = index, "webhook has recovered");
        }
        _ => {}
    }
    if finished.abandoned > 0 {
        tracing::warn!(%app, webhook = index, events = finished.abandoned, "webhook events dropped: too old");
    }
}
