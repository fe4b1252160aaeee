//! The task that owns the deliveries of this node. It never awaits a job: claims, calls
//! and removals run in tasks of their own and return a [`JobResult`].

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use reqwest::Client;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::call;
use super::delivery_queues::{Call, Delivery, DeliveryQueues, EndpointId};
use super::in_flight::InFlight;
use super::read_queue::ReadQueue;
use super::report::Reporter;
use super::work::{self, CallOutcome, JobResult, Read};
use crate::app::{App, Webhook};
use crate::backend::ClaimedOutboxes;
use crate::channel::Partition;
use crate::limits;
use crate::metrics::metrics;
use crate::node::Node;
use crate::webhook_event::{OutboxId, WebhookEvent, WebhookEventId};

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
    /// Partitions to be claimed, each at most once.
    claim_queue: VecDeque<Partition>,
    /// Partitions with a claim in progress.
    claiming: HashSet<Partition>,
    /// Partitions that were claimed and not released or lost since.
    claimed: HashSet<Partition>,
    read_queue: ReadQueue,
    /// Outboxes whose read failed, to be repeated at the next tick.
    failed_reads: BTreeSet<OutboxId>,
    reporter: Reporter,
    work: JoinSet<JobResult>,
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
            claimed: HashSet::new(),
            read_queue: ReadQueue::default(),
            failed_reads: BTreeSet::new(),
            reporter: Reporter::default(),
            work: JoinSet::new(),
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
        for outbox in std::mem::take(&mut self.failed_reads) {
            self.read(outbox);
        }
        self.in_flight.retry_removals();
        self.expire();
        metrics().webhook_events_pending.set(self.in_flight.len() as f64);
        metrics().webhook_circuits_open.set(self.queues.open_circuits() as f64);
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
        self.releasing.extend(self.claimed.iter().filter(|it| !self.owned.contains(it)));
        if self.releasing.is_empty() {
            return;
        }
        self.queues.cancel(&self.releasing);
        for partition in self.releasing.clone() {
            self.read_queue.cancel(partition);
            let is_busy = self.claiming.contains(&partition)
                || self.read_queue.is_reading(partition)
                || self.queues.is_in_progress(partition);
            if !is_busy && !self.in_flight.has_pending_removals(partition) {
                self.release(partition);
            }
        }
    }

    fn release(&mut self, partition: Partition) {
        self.forget(partition);
        self.claim_queue.retain(|other| *other != partition);
        self.work.spawn(work::release(self.node.clone(), partition));
    }

    /// Drops the state of a partition. Returns whether it had events in flight.
    fn forget(&mut self, partition: Partition) -> bool {
        self.releasing.remove(&partition);
        self.claimed.remove(&partition);
        self.read_queue.cancel(partition);
        self.failed_reads.retain(|outbox| outbox.partition != partition);
        self.in_flight.release(partition)
    }

    fn start_work(&mut self) {
        while self.claiming.len() < limits::WEBHOOK_CLAIMS_MAX {
            let Some(partition) = self.claim_queue.pop_front() else { break };
            self.claiming.insert(partition);
            let is_new = !self.claimed.contains(&partition);
            self.work.spawn(work::claim(self.node.clone(), partition, is_new));
        }
        while self.read_queue.reads() < limits::WEBHOOK_READS_MAX {
            let Some(outbox) = self.read_queue.next() else { break };
            let (after, capacity) = self.in_flight.next_read(&outbox);
            self.work.spawn(work::read(self.node.clone(), outbox, after, capacity));
        }
        let now = Instant::now();
        while let Some(call) = self.queues.next_call(now) {
            self.work.spawn(work::call(self.node.clone(), self.client.clone(), call));
        }
        for (outbox, ids) in self.in_flight.removals() {
            self.work.spawn(work::remove(self.node.clone(), outbox, ids));
        }
    }

    fn finish(&mut self, done: Result<JobResult, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            // The runtime is shutting down.
            Err(error) if error.is_cancelled() => return,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match done {
            JobResult::ClaimEnded(partition, claimed) => {
                self.claiming.remove(&partition);
                match claimed {
                    Some(claimed) => self.claimed(partition, claimed),
                    None => self.claim_lost(partition),
                }
            }
            JobResult::ReadEnded(outbox, read) => self.read_ended(outbox, read),
            JobResult::Called(call, outcome) => self.called(call, &outcome),
            JobResult::Removed(outbox, ids, Ok(())) => {
                if self.in_flight.removed(&outbox, &ids) {
                    self.read(outbox);
                }
            }
            JobResult::Removed(outbox, ids, Err(error)) => {
                tracing::debug!(?outbox, %error, "webhook events not removed from the outbox");
                self.in_flight.not_removed(&outbox, ids);
            }
            JobResult::Released => {}
        }
    }

    fn claimed(&mut self, partition: Partition, claimed: ClaimedOutboxes) {
        self.claimed.insert(partition);
        self.reporter.dropped(&claimed.dropped);
        for app in claimed.apps {
            self.read(OutboxId { partition, app });
        }
    }

    fn read(&mut self, outbox: OutboxId) {
        if self.is_owned(outbox.partition) && self.claimed.contains(&outbox.partition) {
            self.read_queue.push(outbox);
        }
    }

    /// A read that has found anything is followed by the next one at once, not at the next tick.
    fn read_ended(&mut self, outbox: OutboxId, read: Read) {
        self.read_queue.finish(&outbox);
        // The claim was lost during the read.
        if !self.claimed.contains(&outbox.partition) {
            return;
        }
        match read {
            Read::Page(page, app) => {
                let is_any = !page.events.is_empty() || page.has_more;
                for webhook_event in page.events {
                    let expires = expiry(webhook_event.id.time_ms, page.read_ms);
                    self.accept(&outbox, &Arc::new(webhook_event), expires, app.as_deref());
                }
                match self.in_flight.next_read(&outbox) {
                    (_, 0) => self.in_flight.has_more(&outbox),
                    _ if is_any => self.read(outbox),
                    _ => {}
                }
            }
            Read::Failed => drop(self.failed_reads.insert(outbox)),
            Read::NotClaimed => self.claim_lost(outbox.partition),
        }
    }

    fn is_owned(&self, partition: Partition) -> bool {
        self.owned.contains(&partition) && !self.releasing.contains(&partition)
    }

    fn accept(
        &mut self,
        outbox: &OutboxId,
        webhook_event: &Arc<WebhookEvent>,
        expires: Instant,
        app: Option<&App>,
    ) {
        if app.is_none() {
            metrics().webhook_events_orphaned.increment(1);
        }
        let endpoints = app.map_or(&[][..], |app| &app.webhooks[..]);
        let indices: Vec<usize> =
            (0..endpoints.len()).filter(|index| matches(&endpoints[*index], webhook_event)).collect();
        if !self.in_flight.insert(outbox, &webhook_event.id, indices.len()) {
            return;
        }
        for index in indices {
            let endpoint = EndpointId { app: webhook_event.app.clone(), index };
            self.queues.offer(endpoint, Delivery::new(outbox.partition, webhook_event.clone(), expires));
        }
    }

    /// Another node holds the claim, or the backend did not answer in time to exclude it.
    fn claim_lost(&mut self, partition: Partition) {
        if self.claimed.contains(&partition) && self.forget(partition) {
            self.queues.detach(&HashSet::from([partition]));
        }
    }

    fn called(&mut self, call: Call, outcome: &CallOutcome) {
        let (endpoint, events) = (call.endpoint.clone(), call.events.len());
        // Channels that failed together are not retried together.
        let jitter = rand::random_range(0.9..1.1);
        let finished = self.queues.finish(call, outcome.into(), Instant::now(), jitter);
        self.settle(&finished.settled);
        self.reporter.called(&endpoint, events, outcome, &finished);
    }

    fn expire(&mut self) {
        let expired = self.queues.expire(Instant::now());
        self.reporter.expired(&expired);
        self.settle(&expired);
    }

    fn settle(&mut self, settled: &[(OutboxId, WebhookEventId)]) {
        for (outbox, id) in settled {
            self.in_flight.settle(outbox, id);
        }
    }

    /// Reads the outboxes to their end, and delivers the events that can be delivered now.
    /// Events in backoff stay in the outbox for other nodes.
    async fn stop(mut self) {
        self.claim_all();
        let _ = tokio::time::timeout(limits::WEBHOOK_STOP_TIMEOUT, self.finish_all()).await;
        self.work.abort_all();
        let node = &self.node;
        let releases = stream::iter(self.claimed.iter().copied()).for_each_concurrent(
            limits::WEBHOOK_CLAIMS_MAX,
            |partition| async move {
                let _ = node.backend.release_webhook_outboxes(partition).await;
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

/// Both times are by the same clock, which is not that of this node.
fn expiry(caused_ms: u64, read_ms: u64) -> Instant {
    let age = Duration::from_millis(read_ms.saturating_sub(caused_ms));
    Instant::now() + limits::WEBHOOK_AGE_MAX.saturating_sub(age)
}
