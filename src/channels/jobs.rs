//! The jobs of all channels: one fair queue for each kind, and the calls in flight.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::fair_queue::FairQueue;
use super::job::{JobKind, JobResult};
use crate::backend::BackendError;
use crate::channel::ChannelId;
use crate::entry::Position;
use crate::event::SocketId;
use crate::limits;

/// A call that has ended.
#[derive(Debug)]
pub(super) enum Done {
    Job(ChannelId, JobResult),
    HeadsRead(Vec<ChannelId>, Result<Vec<Option<Position>>, BackendError>),
}

#[derive(Debug, Default)]
pub(super) struct Jobs {
    queues: [Queue; JobKind::ALL.len()],
    /// Each with the time that it took.
    calls: JoinSet<(Done, Duration)>,
}

#[derive(Debug, Default)]
struct Queue {
    channels: FairQueue,
    in_flight: usize,
    paused_until: Option<Instant>,
    /// The shortest successful call so far: the round trip to Redis without a queue there.
    shortest: Option<Duration>,
}

impl Queue {
    /// How many calls may be in flight: as many as Redis executes during the shortest one. Further
    /// ones would wait in Redis, and with them the publishes and subscriptions of other apps.
    fn in_flight_max(&self, kind: JobKind) -> usize {
        let shortest = self.shortest.unwrap_or_default().as_secs_f64();
        let executed = (shortest * limits::CALLS_PER_SEC as f64) as usize;
        kind.concurrent_max().min(executed.max(limits::CALLS_IN_FLIGHT_MIN))
    }

    /// A call has succeeded after this time.
    fn record(&mut self, time: Duration) {
        self.shortest = Some(self.shortest.map_or(time, |shortest| shortest.min(time)));
    }
}

impl Jobs {
    /// Queues a channel for a job.
    pub(super) fn push(&mut self, kind: JobKind, channel_id: &ChannelId, requester: Option<SocketId>) {
        self.queue(kind).channels.push(channel_id, requester);
    }

    /// The next channel whose job of this kind can start now.
    pub(super) fn pop(&mut self, kind: JobKind, now: Instant) -> Option<ChannelId> {
        let queue = self.queue(kind);
        let may_start = queue.in_flight < queue.in_flight_max(kind)
            && queue.paused_until.is_none_or(|until| now >= until);
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
        self.calls.spawn(async move {
            let started = Instant::now();
            (call.await, started.elapsed())
        });
    }

    /// Completes with the next call that has ended; `None` if none is in flight, or if
    /// the runtime is shutting down.
    pub(super) async fn next(&mut self) -> Option<Done> {
        let (done, time) = match self.calls.join_next().await? {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => return None,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let (kind, has_failed) = match &done {
            Done::Job(_, result) => (result.kind(), result.has_failed()),
            Done::HeadsRead(_, heads) => (JobKind::CheckHead, heads.is_err()),
        };
        let queue = self.queue(kind);
        queue.in_flight -= 1;
        if !has_failed {
            queue.record(time);
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_in_flight_follow_the_shortest_one() {
        const MS: Duration = Duration::from_millis(1);
        let mut queue = Queue::default();
        let mut in_flight_max = |ended: &[Duration]| {
            ended.iter().for_each(|time| queue.record(*time));
            queue.in_flight_max(JobKind::Listen)
        };
        assert_eq!(in_flight_max(&[]), limits::CALLS_IN_FLIGHT_MIN);
        assert_eq!(in_flight_max(&[60 * MS]), limits::LISTENS_MAX);
        assert_eq!(in_flight_max(&[4 * MS, 60 * MS]), limits::CALLS_PER_SEC as usize * 4 / 1_000);
        assert_eq!(in_flight_max(&[MS / 10, 60 * MS]), limits::CALLS_IN_FLIGHT_MIN);
        assert_eq!(queue.in_flight_max(JobKind::ToggleDeltas), limits::DELTA_TOGGLES_MAX);
    }
}
