//! Metrics and log lines of deliveries. A line is about a change of state, not about a call.
//! The URL may contain a secret, so output has its host only.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::call::CallError;
use super::delivery_queues::{Change, CircuitChange, EndpointId, Finished};
use super::work::CallOutcome;
use crate::limits;
use crate::log_limit::LogLimit;
use crate::metrics::{apps, metrics, webhook_call_failed};
use crate::webhook_event::{OutboxId, WebhookEventId};

#[derive(Debug, Default)]
pub(super) struct Reporter {
    /// Hosts with a label of their own.
    hosts: HashSet<String>,
    full_outboxes: LogLimit,
    abandoned: LogLimit,
}

impl Reporter {
    /// Counts events that were dropped because the outboxes of these apps were full.
    pub(super) fn dropped(&self, dropped: &[(Arc<str>, u64)]) {
        for (app, events) in dropped {
            metrics().webhook_events_dropped.increment(*events);
            apps::of_app(app).webhook_events_dropped.increment(*events);
            if self.full_outboxes.admits(app) {
                tracing::warn!(%app, events, "webhook events dropped: the outbox of the app is full");
            }
        }
    }

    /// Counts events that were dropped without a call.
    pub(super) fn expired(&self, expired: &[(OutboxId, WebhookEventId)]) {
        let mut events: BTreeMap<&str, usize> = BTreeMap::new();
        for (outbox, _) in expired {
            *events.entry(&*outbox.app).or_default() += 1;
        }
        events.into_iter().for_each(|(app, events)| self.abandoned(app, events));
    }

    fn abandoned(&self, app: &str, events: usize) {
        metrics().webhook_events_abandoned.increment(events as u64);
        apps::of_app(app).webhook_events_dropped.increment(events as u64);
        if self.abandoned.admits(app) {
            tracing::warn!(app, events, "webhook events dropped: too old");
        }
    }

    /// Counts a call of `events` events, and logs what has changed by it.
    pub(super) fn called(
        &mut self,
        endpoint: &EndpointId,
        events: usize,
        outcome: &CallOutcome,
        finished: &Finished,
    ) {
        let EndpointId { app, index } = endpoint;
        match outcome {
            CallOutcome::Delivered(host) => {
                metrics().webhook_events_delivered.increment(events as u64);
                apps::of_app(app).webhook_events_delivered.increment(events as u64);
                if finished.circuit == Some(CircuitChange::Closed) {
                    tracing::info!(%app, webhook = index, host, "webhook circuit closed: a probe was successful");
                }
                if finished.change == Some(Change::Recovered) {
                    tracing::info!(%app, webhook = index, host, "webhook has recovered");
                }
            }
            CallOutcome::Failed(host, error) => self.failed(endpoint, host, error, finished),
            CallOutcome::NotSent => {}
            CallOutcome::Gone => metrics().webhook_events_orphaned.increment(events as u64),
        }
        if finished.abandoned > 0 {
            self.abandoned(app, finished.abandoned);
        }
    }

    fn failed(&mut self, endpoint: &EndpointId, host: &str, error: &CallError, finished: &Finished) {
        let EndpointId { app, index } = endpoint;
        let has_label = self.hosts.contains(host)
            || self.hosts.len() < limits::WEBHOOK_HOST_LABELS_MAX && self.hosts.insert(host.to_owned());
        let cause = error.cause();
        apps::of_app(app).webhook_calls_failed.increment(1);
        webhook_call_failed(if has_label { host } else { "other" }, cause);
        if finished.change == Some(Change::BeganToFail) {
            tracing::warn!(%app, webhook = index, host, cause, %error, "webhook fails, its events are retried");
        }
        if finished.circuit == Some(CircuitChange::Opened) {
            tracing::warn!(%app, webhook = index, host, cause, %error, "webhook circuit opened: only probes are sent");
        }
    }
}
