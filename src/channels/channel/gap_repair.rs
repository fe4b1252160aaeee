//! Detection of missing entries, and their repair from the channel's history (design.md
//! 4): promise P4.

use std::collections::VecDeque;

use super::lag::{Lag, Verdict};
use super::sequencer::{Decision, Repair};
use super::state::{Channel, Fork};
use crate::backend::BackendError;
use crate::channels::context::{Context, Timer};
use crate::channels::job::{Job, JobKind};
use crate::entry::{Entry, Log, Position};
use crate::metrics::metrics;

impl Channel {
    /// Handles a received entry: delivers it, holds it back, or begins a repair.
    pub(super) fn sequence(&mut self, entry: Entry, context: &mut Context<'_>) {
        match self.sequencer.accept(entry, context.now) {
            Decision::Deliver(entry) => {
                self.deliver(&entry, context);
                self.admit(context);
            }
            Decision::Begin(entry) => {
                metrics().epochs_opened.increment(1);
                self.begin_history(entry.before(), context);
                self.deliver(&entry, context);
                self.admit(context);
            }
            Decision::Duplicate => metrics().entries_duplicate.increment(1),
            Decision::Held => {}
            Decision::Gap => {
                metrics().gaps.increment(1);
                tracing::debug!(channel_id = %self.id, "gap detected; reading the history");
                context.start(JobKind::RepairGap, None);
            }
        }
    }

    pub(super) fn sequence_held(&mut self, held: VecDeque<Entry>, context: &mut Context<'_>) {
        for entry in held {
            self.sequence(entry, context);
        }
    }

    /// The read that a repair needs; only the head if the byte budget of the node is used up, or
    /// the app's filters take too much time.
    pub(super) fn prepare_repair(&self, context: &Context<'_>) -> Option<Job> {
        if !self.sequencer.is_repairing() {
            return None;
        }
        let after = self.sequencer.position().unwrap_or_default().id;
        Some(if context.may_read_histories { Job::ReadLog { after } } else { Job::ReadHead })
    }

    pub(super) fn on_log_read(&mut self, log: Result<Log, BackendError>, context: &mut Context<'_>) {
        let log = match log {
            Ok(log) => log,
            Err(error) => return self.repair_failed(&error, context),
        };
        let known = log.head.unwrap_or_default();
        let seen = self.sequencer.position();
        let (repair, missed, held) = self.sequencer.repair(log, context.now);
        match repair {
            Repair::Complete => metrics().gaps_repaired.increment(1),
            Repair::Incomplete => metrics().gaps_unrepaired.increment(1),
            Repair::NewEpoch | Repair::Fork { .. } => metrics().epochs_opened.increment(1),
        }
        if repair != Repair::Complete {
            tracing::info!(channel_id = %self.id, ?repair, "history does not continue from this node's position");
            let now = self.sequencer.position().unwrap_or_default();
            self.begin_history(missed.first().map_or(now, Entry::before), context);
        }
        for entry in &missed {
            self.deliver(entry, context);
        }
        // The missing entries have arrived on the topic during the read: the link is
        // slow, and the entries before the pending subscriptions' positions may still
        // be in flight.
        let is_slow = repair == Repair::Complete && missed.is_empty() && !held.is_empty();
        if let (Repair::Fork { epoch }, Some(seen)) = (repair, seen) {
            self.fork = Some(Box::new(Fork { epoch, seen_seq: seen.seq }));
            self.start(JobKind::OpenEpoch, None, context);
        }
        // Before the wait ends: a held entry may precede the position of a subscription whose
        // earlier entries are lost.
        self.sequence_held(held, context);
        if is_slow {
            self.observe_awaited_lag(context);
        } else {
            self.end_waiting(known, context);
        }
    }

    /// Gives up the missing entries and continues from the head.
    pub(super) fn on_head_read(
        &mut self,
        head: Result<Option<Position>, BackendError>,
        context: &mut Context<'_>,
    ) {
        let head = match head {
            Ok(Some(head)) => head,
            // The channel has lost its head since: the next read finds a new history.
            Ok(None) => return self.abandon_repair(context),
            Err(error) => return self.repair_failed(&error, context),
        };
        metrics().gaps_unrepaired.increment(1);
        let held = self.sequencer.skip_to(head);
        self.begin_history(head, context);
        self.end_waiting(head, context);
        self.sequence_held(held, context);
    }

    fn repair_failed(&mut self, error: &BackendError, context: &mut Context<'_>) {
        tracing::debug!(channel_id = %self.id, %error, "history not read; will be retried");
        self.abandon_repair(context);
    }

    fn abandon_repair(&mut self, context: &mut Context<'_>) {
        // The dropped entries are in the history, which is read again later.
        self.sequencer.abandon_repair();
        self.set(Timer::Retry, context);
    }

    /// Handles a break in the channel's history: it continues from `position` instead
    /// of this node's own. Chains restart with full events, and the roster is read
    /// again.
    fn begin_history(&mut self, position: Position, context: &mut Context<'_>) {
        self.send_break_notices(position, context);
        self.subscribers.groups().restart();
        if let Some(initial_bases) = &mut self.initial_bases {
            initial_bases.restart();
        }
        // Every epoch begins with the delta toggle on.
        self.toggle.policy.set(true);
        if self.presence.is_some() {
            self.set(Timer::Roster, context);
        }
        if self.watch.is_some() {
            self.membership.is_stale = true;
            self.queue_membership_update(context);
        }
    }

    /// Ends the wait for entries up to `known`, which will not arrive any more, and
    /// admits the pending subscriptions.
    fn end_waiting(&mut self, known: Position, context: &mut Context<'_>) {
        if let Some(at) = self.pending.stop_waiting(known) {
            self.observe_lag(at, context);
        }
        self.admit(context);
    }

    /// Records that the channel's head is ahead: a script returned `at`, and this node has
    /// not received everything up to it.
    pub(super) fn observe_lag(&mut self, at: Position, context: &mut Context<'_>) {
        self.lag = Some(Box::new(Lag::observe(self.lag.as_deref().copied(), at, &self.sequencer)));
        self.set(Timer::Lag, context);
    }

    /// Observes the position that pending subscriptions wait for, unless a repair in progress will end
    /// their wait.
    pub(super) fn observe_awaited_lag(&mut self, context: &mut Context<'_>) {
        if self.sequencer.is_repairing() {
            return;
        }
        if let Some(at) = self.pending.awaited_position(&self.sequencer) {
            self.observe_lag(at, context);
        }
    }

    /// Begins a repair if the entries up to the observed head have still not arrived.
    pub(super) fn check_lag(&mut self, context: &mut Context<'_>) {
        if context.is_backlogged {
            // The entries may be among those that wait.
            return self.set(Timer::Lag, context);
        }
        let Some(lag) = self.lag.take() else { return };
        match lag.verdict(&self.sequencer) {
            // The observation may have replaced that of an earlier position.
            Verdict::Settled => self.observe_awaited_lag(context),
            Verdict::Slow(lag) => {
                self.lag = Some(Box::new(lag));
                self.set(Timer::Lag, context);
            }
            Verdict::Missed => {
                self.sequencer.begin_repair();
                metrics().gaps.increment(1);
                tracing::debug!(channel_id = %self.id, "behind the head; reading the history");
                context.start(JobKind::RepairGap, None);
            }
        }
    }

    /// Compares this node's position with the channel's head.
    pub(super) fn on_head_checked(&mut self, head: Position, context: &mut Context<'_>) {
        if self.sequencer.position().unwrap_or_default().id == head.id {
            self.sequencer.rename_epoch(head.epoch, head.seq);
        } else if !self.sequencer.has_passed(head) {
            self.observe_lag(head, context);
        }
    }

    /// Whether this node's position can be compared with the head.
    pub(in crate::channels) fn has_checkable_head(&self) -> bool {
        self.is_listening && self.sequencer.position().is_some()
    }
}
