//! Recovery of missed events for clients that resume (docs/resume.md). A channel's
//! history is read once for all of its pending subscriptions that wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::channel::{Channel, PendingSubscription, State};
use super::replay::{RecoveredEvents, RecoveryRequest, RecoveryResults, Replay, full_seq};
use super::{Channels, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::resume::{Resume, Standing};

/// The state of a pending subscription's recovery.
#[derive(Debug)]
pub(super) enum Recovery {
    /// The client does not resume.
    NotRequested,
    /// The client resumes. `in_read` is set while a history read includes this request.
    Requested {
        resume: Box<Resume>,
        in_read: bool,
    },
    /// The recovery failed: the epoch is another one, or the history does not cover
    /// all missed events.
    Lost,
    Recovered {
        resume: Box<Resume>,
        missed: Arc<RecoveredEvents>,
    },
}

/// The position that a subscription begins with: the client's own if it resumes,
/// otherwise that of its membership update.
pub(super) fn start_of(recovery: &Recovery, at: Position) -> Standing {
    let Position { epoch, seq, .. } = at;
    match recovery {
        Recovery::Recovered { resume, .. } => {
            metrics().resumes.increment(1);
            return Standing { epoch, seq: full_seq(resume.seq, seq), resumed: true };
        }
        Recovery::Lost => metrics().resumes_failed.increment(1),
        Recovery::NotRequested | Recovery::Requested { .. } => {}
    }
    Standing { epoch, seq, resumed: false }
}

/// History reads for clients that resume, up to [`limits::CATCH_UP_READS_MAX`] at once.
#[derive(Debug, Default)]
pub(super) struct Recoveries {
    queue: VecDeque<ChannelId>,
    in_flight: usize,
}

impl Recovery {
    pub(super) fn of(resume: Option<Box<Resume>>) -> Recovery {
        resume.map_or(Recovery::NotRequested, |resume| Recovery::Requested { resume, in_read: false })
    }

    /// The client keeps the bases of its previous connection.
    pub(super) fn keeps_bases(&self) -> bool {
        matches!(self, Recovery::Recovered { resume, .. } if resume.from.is_some())
    }

    /// No history read is needed (any more).
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Recovery::Requested { .. })
    }

    /// Fails the recovery: entries after the history read are lost.
    pub(super) fn lose(&mut self) {
        if !matches!(self, Recovery::NotRequested) {
            *self = Recovery::Lost;
        }
    }
}

impl Channels {
    /// Queues a read of the history, unless one is queued or in flight.
    pub(super) fn request_recovery(&mut self, channel_id: &ChannelId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        if !std::mem::replace(&mut channel.recovering, true) {
            self.recoveries.queue.push_back(channel_id.clone());
        }
    }

    pub(super) fn start_recoveries(&mut self) {
        while self.recoveries.in_flight < limits::CATCH_UP_READS_MAX {
            let Some(channel_id) = self.recoveries.queue.pop_front() else { return };
            let Some(channel) = self.channels.get_mut(&channel_id) else { continue };
            let recovery_requests = channel.recovery_requests();
            let Some(oldest) = channel.oldest(&recovery_requests) else {
                channel.recovering = false;
                self.admit(&channel_id);
                continue;
            };
            self.recoveries.in_flight += 1;
            let (backend, config) = (self.backend.clone(), self.delta.clone());
            let (deltas, policy) = (channel.deltas.clone(), channel.policy.clone());
            self.jobs.spawn(async move {
                let results = match backend.read_log_since(&channel_id, oldest).await {
                    // Encoded here, outside the actor: many clients may have missed many
                    // events.
                    Ok(log) => Ok(Replay::new(&channel_id, &log, &config, &deltas, &policy)
                        .encode_all(recovery_requests)
                        .await),
                    Err(error) => Err(error),
                };
                JobResult::Recovered(channel_id, results)
            });
        }
    }

    pub(super) fn on_recovered(
        &mut self,
        channel_id: &ChannelId,
        results: Result<RecoveryResults, BackendError>,
    ) {
        self.recoveries.in_flight -= 1;
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.recovering = false;
        match results {
            Ok(results) => channel.apply_results(results),
            Err(error) => {
                tracing::debug!(%channel_id, %error, "history not read for recovery; will be retried");
                channel.request_again();
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id.clone()));
                return;
            }
        }
        self.admit(channel_id);
    }
}

impl Channel {
    /// The requests that the next read serves. A request with another epoch fails
    /// without a read.
    fn recovery_requests(&mut self) -> Vec<RecoveryRequest> {
        let mut recovery_requests = Vec::new();
        for (socket, PendingSubscription { subscriber, recovery, state, .. }) in &mut self.pending {
            let State::Registered { at, .. } = *state else { continue };
            let Recovery::Requested { resume, in_read } = recovery else { continue };
            if resume.epoch != at.epoch {
                *recovery = Recovery::Lost;
                continue;
            }
            *in_read = true;
            let (resume, options) = (Resume::clone(resume), subscriber.options.clone());
            recovery_requests.push(RecoveryRequest { socket: *socket, options, resume, at });
        }
        recovery_requests
    }

    /// The oldest sequence number among the requests.
    fn oldest(&self, recovery_requests: &[RecoveryRequest]) -> Option<u32> {
        let now = self.sequencer.position().unwrap_or_default().seq;
        recovery_requests.iter().map(|request| request.resume.seq).min_by_key(|seq| full_seq(*seq, now))
    }

    fn request_again(&mut self) {
        for pending in self.pending.values_mut() {
            if let Recovery::Requested { in_read, .. } = &mut pending.recovery {
                *in_read = false;
            }
        }
    }

    fn apply_results(&mut self, results: RecoveryResults) {
        for (socket, missed) in results {
            let Some(pending) = self.pending.get_mut(&socket) else { continue };
            // The client may have left and subscribed again with another request.
            if !matches!(pending.recovery, Recovery::Requested { in_read: true, .. }) {
                continue;
            }
            let recovery = std::mem::replace(&mut pending.recovery, Recovery::Lost);
            if let (Recovery::Requested { resume, .. }, Some(missed)) = (recovery, missed) {
                pending.recovery = Recovery::Recovered { resume, missed };
            }
        }
    }
}
