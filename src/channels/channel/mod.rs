//! A channel's whole life on one node, as a state machine: commands of connections,
//! entries, results of jobs and timers go in; effects come out, in a [`Context`].
//!
//! There are five entry points. Four are events. The fifth, [`Channel::prepare`], builds
//! the backend call of a job when its turn has come, so that the call includes what
//! happened while it was queued: one membership update for a thousand subscriptions.

mod admission;
mod catch_up_buffer;
mod delivery;
mod delta_toggle;
mod gap_repair;
mod initial_bases;
mod lag;
mod membership;
mod membership_update;
mod pending;
mod position_notices;
mod recovery;
mod roster;
pub mod sequencer;
mod state;
mod welcome;

pub(super) use state::Channel;

use super::context::{Context, Timer};
use super::handle::ChannelCommand;
use super::job::{Job, JobKind, JobResult};
use super::replay::{RecoveryRequests, RecoveryResults};
use crate::app::App;
use crate::backend::{BackendError, RosterRead, StoredBase};
use crate::entry::Entry;
use crate::limits;
use crate::metrics::metrics;

/// Why all channels of a node report their memberships.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reconciliation {
    /// The interval has passed.
    Regular,
    /// Redis may have lost members. A roster is complete only when all nodes have reported
    /// theirs, so it is read again a little later.
    MembersLost,
}

impl Channel {
    pub(super) fn on_command(&mut self, command: ChannelCommand, context: &mut Context<'_>) {
        match command {
            ChannelCommand::Subscribe(subscribe) => self.subscribe(*subscribe, context),
            ChannelCommand::Unsubscribe { socket } => self.unsubscribe(socket, context),
            ChannelCommand::EnableDeltas { socket, algorithm } => {
                self.enable_deltas(socket, algorithm, context);
            }
            ChannelCommand::Resync { socket } => {
                let next = self.next_seq();
                self.subscribers.resync(socket, next);
            }
        }
    }

    pub(super) fn on_entry(&mut self, entry: Entry, context: &mut Context<'_>) {
        self.sequence(entry, context);
    }

    pub(super) fn on_job_done(&mut self, result: JobResult, context: &mut Context<'_>) {
        self.jobs_in_flight.remove(result.kind());
        match result {
            JobResult::Listened(result) => self.on_listened(result, context),
            JobResult::MembershipUpdated(update) => {
                let (update, result) = *update;
                self.on_membership_updated(update, result, context);
            }
            JobResult::RosterRead(read) => self.on_roster_read(read, context),
            JobResult::LogRead(log) => self.on_log_read(log, context),
            JobResult::HeadRead(head) => self.on_head_read(head, context),
            JobResult::Recovered(results) => self.on_recovered(results, context),
            JobResult::InitialBasesRead(bases) => self.on_initial_bases_read(bases, context),
            JobResult::DeltasToggled { on, result } => self.on_deltas_toggled(on, result),
            JobResult::EpochOpened(result) => self.on_epoch_opened(result, context),
            JobResult::HeadChecked(Ok(Some(head))) => self.on_head_checked(head, context),
            // Without a head there is nothing to compare; after an error the next round does.
            JobResult::HeadChecked(Ok(None) | Err(_)) => {}
        }
    }

    pub(super) fn on_timer(&mut self, timer: Timer, context: &mut Context<'_>) {
        if !self.timers.remove(timer) {
            return;
        }
        match timer {
            Timer::Retry => self.retry(context),
            Timer::Lag => self.check_lag(context),
            Timer::Roster => self.refresh_roster(context),
            Timer::Position => self.send_position_notices(context),
            Timer::Linger => self.linger(context),
        }
    }

    /// Builds the call of a job that was queued, or returns `None` if it is not needed any
    /// more.
    pub(super) fn prepare(&mut self, kind: JobKind, context: &mut Context<'_>) -> Option<Job> {
        if self.jobs_in_flight.contains(kind) {
            return None;
        }
        let job = match kind {
            JobKind::Listen => (!self.is_listening && self.is_awaited()).then_some(Job::Listen),
            JobKind::UpdateMembership => {
                self.prepare_membership_update().map(|update| Job::UpdateMembership(Box::new(update)))
            }
            JobKind::ReadRoster => self.presence.as_mut().map(|presence| {
                presence.begin_read();
                Job::ReadRoster
            }),
            JobKind::RepairGap => self.prepare_repair(context),
            JobKind::Recover => self.prepare_recovery(context),
            JobKind::ReadInitialBases => {
                let initial_bases = self.initial_bases.as_mut().filter(|it| !it.is_complete());
                initial_bases.map(|initial_bases| {
                    initial_bases.begin_read();
                    Job::ReadInitialBases
                })
            }
            JobKind::ToggleDeltas => self.toggle.requested.map(|on| Job::ToggleDeltas { on }),
            JobKind::OpenEpoch => {
                let fork = self.fork.take();
                fork.map(|fork| Job::OpenEpoch { epoch: fork.epoch, seen_seq: fork.seen_seq })
            }
            // One call for many channels, which the actor builds.
            JobKind::CheckHead => None,
        }?;
        self.jobs_in_flight.insert(kind);
        Some(job)
    }

    /// A connection of this node begins to watch the user of this user channel.
    pub(super) fn watch(&mut self, app: &App, context: &mut Context<'_>) {
        self.configure(app, context);
        self.idle_since = None;
        let Some(watch) = &mut self.watch else { return };
        watch.is_watched = true;
        match watch.online.take() {
            Some(online) => self.change_status(online, context),
            None => {
                self.membership.is_stale = true;
                self.join(None, context);
            }
        }
    }

    /// No connection of this node watches the user any more.
    pub(super) fn unwatch(&mut self, context: &mut Context<'_>) {
        if let Some(watch) = &mut self.watch {
            watch.is_watched = false;
        }
        self.mark_if_idle(context);
    }

    /// Reports the membership again.
    pub(super) fn on_reconciliation(&mut self, reason: Reconciliation, context: &mut Context<'_>) {
        self.reconcile(context);
        let has_roster = self.presence.as_ref().is_some_and(|presence| presence.is_known());
        if reason == Reconciliation::MembersLost && has_roster {
            self.set(Timer::Roster, context);
        }
    }

    /// Called before a head check: drops what no comparison needs any more. False if the
    /// channel has no position to compare.
    pub(super) fn begin_head_check(&mut self, context: &Context<'_>) -> bool {
        self.sequencer.forget(context.now);
        self.has_checkable_head()
    }

    fn on_listened(&mut self, result: Result<(), BackendError>, context: &mut Context<'_>) {
        match result {
            Ok(()) => {
                self.is_listening = true;
                self.queue_membership_update(context);
            }
            Err(error) => {
                tracing::debug!(channel_id = %self.id, %error, "topic not subscribed; will be retried");
                self.set(Timer::Retry, context);
            }
        }
    }

    fn on_roster_read(&mut self, read: Result<RosterRead, BackendError>, context: &mut Context<'_>) {
        let Some(presence) = &mut self.presence else { return };
        let Some(read) = read.ok().filter(|_| !presence.has_overflowed()) else {
            presence.read_failed();
            return self.set(Timer::Retry, context);
        };
        metrics().rosters_read.increment(1);
        for change in presence.replace_roster(read) {
            self.broadcast_member_change(&change, context);
        }
        self.admit(context);
        self.queue_membership_update(context);
        self.read_stale_roster(context);
    }

    fn prepare_recovery(&mut self, context: &mut Context<'_>) -> Option<Job> {
        let now_seq = self.sequencer.position().unwrap_or_default().seq;
        let Some((requests, oldest)) = self.pending.recovery_requests(now_seq) else {
            // Requests with another epoch have failed without a read.
            self.admit(context);
            return None;
        };
        let (deltas, policy) = (self.deltas.clone(), self.toggle.policy.clone());
        Some(Job::Recover(Box::new(RecoveryRequests { requests, oldest, deltas, policy })))
    }

    fn on_recovered(&mut self, results: Result<RecoveryResults, BackendError>, context: &mut Context<'_>) {
        match results {
            Ok(results) => {
                self.pending.complete_recovery(results);
                self.admit(context);
            }
            Err(error) => {
                tracing::debug!(channel_id = %self.id, %error, "history not read for recovery; will be retried");
                self.pending.request_recovery_again();
                self.set(Timer::Retry, context);
            }
        }
    }

    fn on_initial_bases_read(
        &mut self,
        bases: Result<Vec<StoredBase>, BackendError>,
        context: &mut Context<'_>,
    ) {
        let handled = self.sequencer.position().unwrap_or_default().seq;
        if let Some(initial_bases) = &mut self.initial_bases {
            match bases {
                Ok(bases) => initial_bases.complete(bases, handled, self.deltas.keys_max),
                Err(_) => {
                    initial_bases.read_failed();
                    return self.set(Timer::Retry, context);
                }
            }
        }
        self.enable_waiting_deltas(context);
        self.admit(context);
    }

    fn on_deltas_toggled(&mut self, on: bool, result: Result<(), BackendError>) {
        self.toggle.requested = None;
        match result {
            // The toggle may have had this state already, so that no entry follows.
            Ok(()) => self.toggle.policy.set(on),
            Err(error) => {
                tracing::debug!(channel_id = %self.id, %error, "delta toggle not appended; will be retried");
            }
        }
    }

    fn on_epoch_opened(&mut self, result: Result<(), BackendError>, context: &mut Context<'_>) {
        if let Err(error) = result {
            tracing::warn!(channel_id = %self.id, %error, "epoch not opened; retried at the next gap");
        }
        if self.fork.is_some() {
            context.start(JobKind::OpenEpoch, None);
        }
    }

    /// Repeats every failed step: listening, head check, gap repair, membership update, roster
    /// read, admission.
    fn retry(&mut self, context: &mut Context<'_>) {
        if !self.is_listening {
            if self.is_awaited() {
                self.start(JobKind::Listen, None, context);
            }
            return;
        }
        if self.has_checkable_head() {
            context.start(JobKind::CheckHead, None);
        }
        self.observe_awaited_lag(context);
        self.queue_membership_update(context);
        self.read_stale_roster(context);
        self.enable_waiting_deltas(context);
        self.admit(context);
    }

    fn refresh_roster(&mut self, context: &mut Context<'_>) {
        if let Some(presence) = &mut self.presence {
            presence.mark_stale();
            self.read_stale_roster(context);
        }
    }

    /// Reads the roster again if it is stale: at once, or after the read in flight.
    fn read_stale_roster(&mut self, context: &mut Context<'_>) {
        if self.presence.as_ref().is_some_and(|presence| presence.is_stale()) {
            self.start(JobKind::ReadRoster, None, context);
        }
    }

    /// Removes the channel if it was unused for [`limits::LINGER`]. A call that is in
    /// flight, or an update that is due, keeps it.
    fn linger(&mut self, context: &mut Context<'_>) {
        let Some(since) = self.idle_since.filter(|_| self.is_unused()) else { return };
        if context.now.saturating_duration_since(since) >= limits::LINGER && self.is_removable(context.now) {
            return context.remove();
        }
        self.queue_membership_update(context);
        self.set(Timer::Linger, context);
    }
}

#[cfg(test)]
mod tests;
