//! Detection of missing entries, and their repair from the channel's history (design.md
//! 4): promise P4.

use std::collections::VecDeque;
use std::time::Instant;

use super::channel::Listening;
use super::sequencer::Repair;
use super::{Channels, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::entry::{EntryId, Log, Position};
use crate::limits;
use crate::metrics::metrics;

/// Gap repairs: queued history reads, within a budget of calls and bytes.
#[derive(Debug, Default)]
pub(super) struct GapRepairs {
    pub(super) queue: VecDeque<ChannelId>,
    pub(super) in_flight: usize,
    bytes: usize,
}

/// Head checks: comparisons of this node's positions with the heads in Redis.
#[derive(Debug)]
pub(super) struct HeadChecks {
    pub(super) queue: VecDeque<ChannelId>,
    in_flight: usize,
    round_started: Instant,
    round_failed: bool,
    /// Channels whose head was ahead of this node, oldest observation first.
    lagging: VecDeque<LaggingChannel>,
}

#[derive(Debug)]
struct LaggingChannel {
    since: Instant,
    channel_id: ChannelId,
    /// Id of the last entry, from the head.
    head: EntryId,
    /// Id of the last entry that this node had handled then.
    handled: EntryId,
}

impl HeadChecks {
    pub(super) fn new() -> HeadChecks {
        HeadChecks {
            queue: VecDeque::new(),
            in_flight: 0,
            round_started: Instant::now(),
            round_failed: false,
            lagging: VecDeque::new(),
        }
    }
}

impl Channels {
    pub(super) fn on_log_read(&mut self, channel_id: &ChannelId, log: Result<Log, BackendError>) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                tracing::debug!(%channel_id, %error, "history not read; will be retried");
                // The dropped entries are in the history, which is read again later.
                channel.sequencer.abandon_repair();
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id.clone()));
                return;
            }
        };
        let known = log.head.unwrap_or_default();
        self.gap_repairs.bytes += log.entries.iter().map(|entry| entry.body.len()).sum::<usize>();
        let seen = channel.sequencer.position();
        let (repair, missed, held) = channel.sequencer.repair(log, Instant::now());
        match repair {
            Repair::Complete => metrics().gaps_repaired.increment(1),
            Repair::Incomplete => metrics().gaps_unrepaired.increment(1),
            Repair::NewEpoch | Repair::Fork { .. } => metrics().epochs_opened.increment(1),
        }
        if repair != Repair::Complete {
            tracing::info!(%channel_id, ?repair, "history does not continue from this node's position");
            let position = missed.first().map_or(channel.sequencer.position().unwrap_or_default(), |next| {
                Position { epoch: next.epoch, seq: next.first_seq - 1, ..Position::default() }
            });
            self.begin_history(channel_id, position);
        }
        for entry in &missed {
            self.deliver_entry(channel_id, entry);
        }
        // The missing entries have arrived on the topic during the read: the link is
        // slow, and the entries before the pending subscriptions' positions may still
        // be in flight.
        let is_slow = repair == Repair::Complete && missed.is_empty() && !held.is_empty();
        if !is_slow {
            self.end_waiting(channel_id, known);
        }
        if let (Repair::Fork { epoch }, Some(seen)) = (repair, seen) {
            self.open_epoch(channel_id.clone(), epoch, seen.seq);
        }
        self.sequence_held(channel_id, held);
        let waiting =
            self.channels.get(channel_id).filter(|_| is_slow).map(|channel| channel.awaited_positions());
        for at in waiting.unwrap_or_default() {
            self.observe_lag(channel_id, at);
        }
    }

    pub(super) fn on_head_read(
        &mut self,
        channel_id: &ChannelId,
        heads: Result<Vec<Option<Position>>, BackendError>,
    ) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let Ok(Some(Some(head))) = heads.map(|heads| heads.first().copied()) else {
            channel.sequencer.abandon_repair();
            self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id.clone()));
            return;
        };
        metrics().gaps_unrepaired.increment(1);
        let held = channel.sequencer.skip_to(head);
        self.begin_history(channel_id, head);
        self.end_waiting(channel_id, head);
        self.sequence_held(channel_id, held);
    }

    /// Records that the head is ahead: a script returned `at`, and this node has not
    /// received everything up to it.
    pub(super) fn observe_lag(&mut self, channel_id: &ChannelId, at: Position) {
        let Some(channel) = self.channels.get(channel_id) else { return };
        let handled = channel.sequencer.position().unwrap_or_default().id;
        let (since, channel_id) = (Instant::now(), channel_id.clone());
        self.head_checks.lagging.push_back(LaggingChannel { since, channel_id, head: at.id, handled });
    }

    fn open_epoch(&mut self, channel_id: ChannelId, epoch: u64, seen_seq: u64) {
        let backend = self.backend.clone();
        self.jobs.spawn(async move {
            if let Err(error) = backend.open_epoch(&channel_id, epoch, seen_seq).await {
                tracing::warn!(%channel_id, %error, "epoch not opened; retried at the next gap");
            }
            JobResult::EpochOpened
        });
    }

    /// Reads the histories of channels that were behind for [`limits::LAGGING_DELAY`],
    /// and starts a new round of head checks when it is due.
    pub(super) fn run_due_head_checks(&mut self, now: Instant) {
        let is_due = |lagging: &LaggingChannel| now.duration_since(lagging.since) >= limits::LAGGING_DELAY;
        while self.head_checks.lagging.front().is_some_and(is_due) {
            let lagging = self.head_checks.lagging.pop_front().expect("the front was checked");
            self.repair_if_still_behind(lagging);
        }
        let interval = match self.head_checks.round_failed {
            true => limits::RETRY_DELAY,
            false => limits::POSITION_CHECK_INTERVAL * 4 / 5,
        };
        let is_over = self.head_checks.queue.is_empty() && self.head_checks.in_flight == 0;
        if is_over && now.duration_since(self.head_checks.round_started) >= interval {
            self.gap_repairs.bytes = 0;
            self.start_head_check_round();
        }
    }

    /// Starts a round of head checks over all listened channels.
    pub(super) fn start_head_check_round(&mut self) {
        self.head_checks.round_started = Instant::now();
        self.head_checks.round_failed = false;
        self.head_checks.queue.clear();
        for (channel_id, channel) in &mut self.channels {
            channel.sequencer.forget(self.head_checks.round_started);
            if channel.sequencer.position().is_some() && channel.listening == Listening::Yes {
                self.head_checks.queue.push_back(channel_id.clone());
            }
        }
    }

    pub(super) fn on_heads_read(
        &mut self,
        channel_ids: Vec<ChannelId>,
        heads: Result<Vec<Option<Position>>, BackendError>,
    ) {
        self.head_checks.in_flight -= 1;
        let Ok(heads) = heads else {
            self.head_checks.round_failed = true;
            return;
        };
        metrics().head_checks.increment(channel_ids.len() as u64);
        let now = Instant::now();
        for (channel_id, head) in channel_ids.into_iter().zip(heads) {
            let (Some(channel), Some(head)) = (self.channels.get_mut(&channel_id), head) else { continue };
            let handled = channel.sequencer.position().unwrap_or_default().id;
            if handled == head.id {
                channel.sequencer.rename_epoch(head.epoch, head.seq);
            } else if !channel.sequencer.has_handled(head.id) {
                self.head_checks.lagging.push_back(LaggingChannel {
                    since: now,
                    channel_id,
                    head: head.id,
                    handled,
                });
            }
        }
    }

    /// Starts a repair if the entry named by the head has still not arrived. If nothing
    /// at all has arrived since the observation, the entry was missed; otherwise the
    /// link is only slow, and the channel is observed once more.
    fn repair_if_still_behind(&mut self, lagging: LaggingChannel) {
        let Some(channel) = self.channels.get_mut(&lagging.channel_id) else { return };
        let handled = channel.sequencer.position().unwrap_or_default().id;
        if channel.sequencer.has_handled(lagging.head) || channel.sequencer.is_repairing() {
            return;
        }
        if handled != lagging.handled {
            self.head_checks.lagging.push_back(LaggingChannel { since: Instant::now(), handled, ..lagging });
            return;
        }
        channel.sequencer.begin_repair();
        metrics().gaps.increment(1);
        tracing::debug!(channel_id = %lagging.channel_id, "behind the head; reading the history");
        self.gap_repairs.queue.push_back(lagging.channel_id);
    }

    pub(super) fn start_head_checks(&mut self) {
        while self.head_checks.in_flight < limits::POSITION_CHECKS_MAX && !self.head_checks.queue.is_empty() {
            let count = self.head_checks.queue.len().min(limits::POSITION_CHECK_CHANNELS);
            let channel_ids: Vec<ChannelId> = self.head_checks.queue.drain(..count).collect();
            self.head_checks.in_flight += 1;
            let backend = self.backend.clone();
            self.jobs.spawn(async move {
                let heads = backend.read_heads(&channel_ids).await;
                JobResult::HeadsRead(channel_ids, heads)
            });
        }
    }

    pub(super) fn start_repairs(&mut self) {
        while self.gap_repairs.in_flight < limits::REPAIRS_MAX {
            let Some(channel_id) = self.gap_repairs.queue.pop_front() else { return };
            let Some(channel) = self.channels.get(&channel_id) else { continue };
            let after = channel.sequencer.position().unwrap_or_default().id;
            let within_budget = self.gap_repairs.bytes < limits::REPAIR_BYTES_MAX;
            self.gap_repairs.in_flight += 1;
            let backend = self.backend.clone();
            self.jobs.spawn(async move {
                if within_budget {
                    let log = backend.read_log(&channel_id, after).await;
                    JobResult::LogRead(channel_id, log)
                } else {
                    let heads = backend.read_heads(std::slice::from_ref(&channel_id)).await;
                    JobResult::HeadRead(channel_id, heads)
                }
            });
        }
    }
}
