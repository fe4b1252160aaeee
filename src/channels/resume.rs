//! Sending those who come back what they have missed (docs/resume.md). A channel's
//! log is read once for all who wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::channel::{Channel, Joiner, Stage};
use super::replay::{Missed, Replay, Seeker, Told, number};
use super::{Channels, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::resume::{Resume, Standing};

/// What a joiner has had of the channel before.
#[derive(Debug)]
pub(super) enum Past {
    /// It does not say.
    NotRequested,
    /// It says so, and the log has not been read for it.
    Said {
        resume: Box<Resume>,
        asked: bool,
    },
    /// The log no longer tells what it has missed.
    Lost,
    Found {
        resume: Box<Resume>,
        missed: Arc<Missed>,
    },
}

/// Where a subscription begins. Who resumes stands where it stood; others where the
/// script has placed them.
pub(super) fn standing(past: &Past, at: Position) -> Standing {
    let Position { epoch, seq, .. } = at;
    match past {
        Past::Found { resume, .. } => {
            metrics().resumes.increment(1);
            return Standing { epoch, seq: number(resume.seq, seq), resumed: true };
        }
        Past::Lost => metrics().resumes_lost.increment(1),
        Past::NotRequested | Past::Said { .. } => {}
    }
    Standing { epoch, seq, resumed: false }
}

/// Logs to be read for those who resume, some at once.
#[derive(Debug, Default)]
pub(super) struct Replays {
    queue: VecDeque<ChannelId>,
    under_way: usize,
}

impl Past {
    pub(super) fn of(resume: Option<Box<Resume>>) -> Past {
        resume.map_or(Past::NotRequested, |resume| Past::Said { resume, asked: false })
    }

    /// What it has been sent is still a base for it.
    pub(super) fn keeps_bases(&self) -> bool {
        matches!(self, Past::Found { resume, .. } if resume.from.is_some())
    }

    /// Nothing is to be read for it.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Past::Said { .. })
    }

    /// Something that came since is lost for it.
    pub(super) fn lose(&mut self) {
        if !matches!(self, Past::NotRequested) {
            *self = Past::Lost;
        }
    }
}

impl Channels {
    /// Has the log read for those who wait, unless that is under way.
    pub(super) fn want_replay(&mut self, channel_id: &ChannelId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        if !std::mem::replace(&mut channel.replaying, true) {
            self.replays.queue.push_back(channel_id.clone());
        }
    }

    pub(super) fn start_replays(&mut self) {
        while self.replays.under_way < limits::CATCH_UP_READS_MAX {
            let Some(channel_id) = self.replays.queue.pop_front() else { return };
            let Some(channel) = self.channels.get_mut(&channel_id) else { continue };
            let seekers = channel.seekers();
            let Some(furthest) = channel.furthest(&seekers) else {
                channel.replaying = false;
                self.admit(&channel_id);
                continue;
            };
            self.replays.under_way += 1;
            let (backend, config) = (self.backend.clone(), self.delta.clone());
            let (deltas, policy) = (channel.deltas.clone(), channel.policy.clone());
            self.jobs.spawn(async move {
                let told = match backend.read_log_since(&channel_id, furthest).await {
                    // Not by the inbox: many may have missed much.
                    Ok(log) => {
                        Ok(Replay::new(&channel_id, &log, &config, &deltas, &policy).tell(seekers).await)
                    }
                    Err(error) => Err(error),
                };
                JobResult::Replayed(channel_id, told)
            });
        }
    }

    pub(super) fn replayed(&mut self, channel_id: &ChannelId, told: Result<Told, BackendError>) {
        self.replays.under_way -= 1;
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.replaying = false;
        match told {
            Ok(told) => channel.learn(told),
            Err(error) => {
                tracing::debug!(%channel_id, %error, "log not read for those who resume");
                channel.ask_again();
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id.clone()));
                return;
            }
        }
        self.admit(channel_id);
    }
}

impl Channel {
    /// Those whom the next reading is for. Who was on another life of the channel
    /// is lost without one.
    fn seekers(&mut self) -> Vec<Seeker> {
        let mut seekers = Vec::new();
        for (socket, Joiner { subscriber, past, stage, .. }) in &mut self.joining {
            let Stage::Placed { at, .. } = *stage else { continue };
            let Past::Said { resume, asked } = past else { continue };
            if resume.epoch != at.epoch {
                *past = Past::Lost;
                continue;
            }
            *asked = true;
            let (resume, options) = (Resume::clone(resume), subscriber.options.clone());
            seekers.push(Seeker { socket: *socket, options, resume, at });
        }
        seekers
    }

    /// The number that is furthest back.
    fn furthest(&self, seekers: &[Seeker]) -> Option<u32> {
        let now = self.sequencer.position().unwrap_or_default().seq;
        seekers.iter().map(|seeker| seeker.resume.seq).min_by_key(|seq| number(*seq, now))
    }

    fn ask_again(&mut self) {
        for joiner in self.joining.values_mut() {
            if let Past::Said { asked, .. } = &mut joiner.past {
                *asked = false;
            }
        }
    }

    fn learn(&mut self, told: Told) {
        for (socket, missed) in told {
            let Some(joiner) = self.joining.get_mut(&socket) else { continue };
            // It may have left, and come back with something else to say.
            if !matches!(joiner.past, Past::Said { asked: true, .. }) {
                continue;
            }
            let past = std::mem::replace(&mut joiner.past, Past::Lost);
            if let (Past::Said { resume, .. }, Some(missed)) = (past, missed) {
                joiner.past = Past::Found { resume, missed };
            }
        }
    }
}
