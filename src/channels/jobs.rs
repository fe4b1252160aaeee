//! The jobs of all channels: one fair queue for each kind, and the calls in flight.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::fair_queue::FairQueue;
use super::job::{JobKind, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::event::SocketId;

/// A call that has ended.
#[derive(Debug)]
pub(super) enum Done {
    Job(ChannelId, JobResult),
    HeadsRead(Vec<ChannelId>, Result<Vec<Option<Position>>, BackendError>),
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    queues: [Queue; JobKind::ALL.len()],
    calls: JoinSet<Done>,
}

#[derive(Debug, Default)]
struct Queue {
    channels: FairQueue,
    in_flight: usize,
    paused_until: Option<Instant>,
}

impl Jobs {
    /// Queues a channel for a job.
    pub(super) fn push(&mut self, kind: JobKind, channel_id: &ChannelId, requester: Option<SocketId>) {
        self.queue(kind).channels.push(channel_id, requester);
    }

    /// The next channel whose job of this kind can start now.
    pub(super) fn pop(&mut self, kind: JobKind, now: Instant) -> Option<ChannelId> {
        let queue = self.queue(kind);
        let may_start =
            queue.in_flight < kind.concurrent_max() && queue.paused_until.is_none_or(|until| now >= until);
        if may_start { queue.channels.pop() } else { None }
    }

    /// Starts no further job of this kind for a while.
    pub(super) fn pause(&mut self, kind: JobKind, now: Instant, pause: Duration) {
        self.queue(kind).paused_until = Some(now + pause);
    }

    pub(super) fn unpause(&mut self, kind: JobKind) {
        self.queue(kind).paused_until = None;
    }

    pub(super) fn spawn(&mut self, kind: JobKind, call: impl Future<Output = Done> + Send + 'static) {
        self.queue(kind).in_flight += 1;
        self.calls.spawn(call);
    }

    /// Completes with the next call that has ended; `None` if none is in flight, or if
    /// the runtime is shutting down.
    pub(super) async fn next(&mut self) -> Option<Done> {
        let done = match self.calls.join_next().await? {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return None,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let kind = match &done {
            Done::Job(_, result) => result.kind(),
            Done::HeadsRead(..) => JobKind::CheckHead,
        };
        self.queue(kind).in_flight -= 1;
        Some(done)
    }

    /// No job of this kind is queued or in flight.
    pub(super) fn is_idle(&self, kind: JobKind) -> bool {
        let queue = &self.queues[kind as usize];
        queue.channels.is_empty() && queue.in_flight == 0
    }

    /// Channels in all queues.
    pub(super) fn queued(&self) -> usize {
        self.queues.iter().map(|queue| queue.channels.len()).sum()
    }

    fn queue(&mut self, kind: JobKind) -> &mut Queue {
        &mut self.queues[kind as usize]
    }
}
