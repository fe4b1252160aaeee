//! The context of a channel: its configuration, the time, and the effects that it requests. A
//! channel does no IO and has no access to other channels: its entry points record effects,
//! which the actor executes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::job::JobKind;
use crate::delta::settings::DeltaConfig;
use crate::event::SocketId;
use crate::filter::AppFilters;
use crate::resume_tokens::ResumeTokens;
use crate::sockets::push;
use crate::sockets::write_buffer::{Rejection, WriteBuffer};

/// A channel's timers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// Repeats what has failed.
    Retry,
    /// Checks whether the entries of a newer head have arrived.
    Lag,
    /// Reads the roster again.
    Roster,
    /// Sends position notices.
    Position,
    /// Removes the channel if it is still unused.
    Linger,
}

/// The timers that a channel has set: at most one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TimerSet(u8);

impl TimerSet {
    /// False if the timer is set already.
    pub(super) fn insert(&mut self, timer: Timer) -> bool {
        let before = self.0;
        self.0 |= 1 << timer as u8;
        self.0 != before
    }

    /// False if the timer was not set.
    pub(super) fn remove(&mut self, timer: Timer) -> bool {
        let before = self.0;
        self.0 &= !(1 << timer as u8);
        self.0 != before
    }
}

/// The effects that the entry points of a channel have requested, in order.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Jobs to queue, each with the socket that waits for it.
    pub(super) jobs: Vec<(JobKind, Option<SocketId>)>,
    pub(super) timers: Vec<(Timer, Duration)>,
    /// Write buffers with frames pushed since the last flush.
    pub(super) to_flush: Vec<Arc<WriteBuffer>>,
    pub(super) user_events: Vec<UserEvent>,
    /// Time that filters have taken.
    pub(super) filter_time: Duration,
    /// The channel is unused: remove it, and stop listening to its topic.
    pub(super) removes: bool,
}

/// Something on a user channel that watchlists depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UserEvent {
    /// The user is online, or offline.
    Status { online: bool },
    /// The subscription of a connection to its own user channel is confirmed.
    SignedIn(SocketId),
}

#[derive(Debug)]
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    /// The number of the app's channels on this node, when this one has just been created. `None` for
    /// a user channel.
    pub(super) channels_of_app: Option<u64>,
    pub(super) config: &'a DeltaConfig,
    pub(super) resume_tokens: &'a ResumeTokens,
    /// Histories may be read; otherwise a gap is skipped.
    pub(super) may_read_histories: bool,
    /// Entries of the app wait until its filters may take time again.
    pub(super) is_backlogged: bool,
    /// The filters of each app with any.
    pub(super) app_filters: &'a mut HashMap<Box<str>, AppFilters>,
    pub(super) effects: &'a mut Effects,
}

impl Context<'_> {
    /// Queues a job; `requester` waits for it. When the job can start, the actor calls
    /// [`super::channel::Channel::prepare`].
    pub(super) fn start(&mut self, kind: JobKind, requester: Option<SocketId>) {
        self.effects.jobs.push((kind, requester));
    }

    pub(super) fn set(&mut self, timer: Timer, after: Duration) {
        self.effects.timers.push((timer, after));
    }

    /// Pushes a frame to a connection.
    pub(super) fn write(&mut self, write_buffer: &Arc<WriteBuffer>, frame: Bytes) {
        push(write_buffer, frame, &mut self.effects.to_flush);
    }

    /// Rejects a pending subscription: `frame` says why to the client, and the connection
    /// drops the subscription of this attempt.
    pub(super) fn reject(
        &mut self,
        write_buffer: &Arc<WriteBuffer>,
        channel: &str,
        attempt: u32,
        frame: Bytes,
    ) {
        // First, so that the connection knows of it before the client can answer.
        write_buffer.reject(Rejection { channel: channel.into(), attempt });
        self.write(write_buffer, frame);
    }

    pub(super) fn emit(&mut self, event: UserEvent) {
        self.effects.user_events.push(event);
    }

    pub(super) fn remove(&mut self) {
        self.effects.removes = true;
    }
}
