//! Stage 5 of a batch's path, and the start of stage 6 (design.md 2): one task that
//! owns all channels of this node. It has no domain logic: it routes commands, entries and
//! results to the state machine of a channel, and executes the effects that it requests. It
//! starts jobs, keeps the time, and flushes.
//!
//! A single task, so that a connection receives the channels of a batch in their order,
//! and so that no lock is needed. It never waits: every backend call is a job.

mod backlogs;
mod body;
mod catch_up;
mod channel;
mod channel_counts;
mod context;
mod fair_queue;
mod handle;
mod job;
mod jobs;
mod replay;
mod timers;
mod watchlists;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use crate::app::App;
use crate::backend::{Backend, BackendError};
use crate::backend_events::{Incoming, Receiver};
use crate::capacity::Shrink;
use crate::channel::ChannelId;
use crate::delta::settings::DeltaConfig;
use crate::entry::Position;
use crate::event::SocketId;
use crate::filter::AppFilters;
use crate::limits::{self, DetectionTimes};
use crate::metrics::{apps, metrics};
use crate::sockets::writers::WriterPool;
use crate::task::Task;

use backlogs::{Arrival, Backlogs};
use channel::{Channel, Reconciliation};
use channel_counts::ChannelCounts;
use context::{Context, Effects};
use job::{JobKind, JobResult};
use jobs::{Done, Jobs};
use timers::{Due, Timers};
use watchlists::{Watcher, Watchlists};

pub use channel::sequencer;
pub use handle::{ChannelCommand, ChannelsHandle, Command, Confirmation, DeltasReply, Subscribe};

/// Spawns the channels actor. It ends when the last [`ChannelsHandle`] is dropped.
pub fn start(
    receiver: Receiver,
    backend: Arc<Backend>,
    delta: DeltaConfig,
    times: DetectionTimes,
) -> ChannelsHandle {
    let (sender, commands) = mpsc::channel(limits::COMMANDS_MAX);
    let channels = Channels {
        backend,
        delta: Arc::new(delta),
        channels: HashMap::new(),
        channel_counts: ChannelCounts::default(),
        watchlists: Watchlists::default(),
        jobs: Jobs::default(),
        timers: Timers::default(),
        effects: Effects::default(),
        app_filters: HashMap::new(),
        backlogs: Backlogs::default(),
        head_checks: HeadChecks {
            interval: times.position_check_interval * 4 / 5,
            round_started: Instant::now(),
            has_failed: false,
        },
        repaired_bytes: 0,
        writers: WriterPool::for_runtime(),
    };
    Task::Channels.spawn(channels.run(receiver, commands));
    ChannelsHandle(sender)
}

#[derive(Debug)]
struct Channels {
    backend: Arc<Backend>,
    delta: Arc<DeltaConfig>,
    /// Boxed: up to half of the map is empty.
    channels: HashMap<ChannelId, Box<Channel>>,
    channel_counts: ChannelCounts,
    watchlists: Watchlists,
    jobs: Jobs,
    timers: Timers,
    /// The effects that a channel has requested, until they are executed; and the write
    /// buffers to flush at the end of the round.
    effects: Effects,
    /// Contains only apps with filters.
    app_filters: HashMap<Box<str>, AppFilters>,
    backlogs: Backlogs,
    head_checks: HeadChecks,
    /// Bytes of histories read by gap repairs since the last round of head checks.
    repaired_bytes: usize,
    writers: WriterPool,
}

/// The current round of head checks: comparisons of all channels with their heads.
#[derive(Debug)]
struct HeadChecks {
    /// The time from the start of a round to the next, if the round succeeds.
    interval: Duration,
    round_started: Instant,
    has_failed: bool,
}

impl Channels {
    async fn run(mut self, mut receiver: Receiver, mut commands: mpsc::Receiver<Command>) {
        let reconciliation = receiver.reconciliation();
        self.timers.set(Due::Reconciliation, limits::MEMBERSHIP_INTERVAL);
        self.timers.set(Due::HeadChecks, limits::RETRY_DELAY);
        self.timers.set(Due::Gauges, limits::GAUGE_INTERVAL);
        loop {
            let mut is_full = false;
            tokio::select! {
                Some(incoming) = receiver.next() => is_full = self.receive_round(incoming, &mut receiver),
                command = commands.recv() => match command {
                    Some(command) => is_full = self.dispatch_round(command, &mut commands),
                    None => return,
                },
                Some(done) = self.jobs.next() => self.on_job_done(done),
                due = self.timers.next() => self.on_due(due),
                () = reconciliation.wait() => {}
            }
            let due = reconciliation.take();
            if due.report_memberships {
                self.reconcile(Reconciliation::MembersLost);
            }
            if due.check_heads {
                self.start_head_checks();
            }
            self.start_jobs();
            self.writers.flush(&mut self.effects.to_flush);
            if is_full {
                // More is waiting. A task that never waits would delay the other tasks of its
                // thread, such as the requests of backends.
                tokio::task::yield_now().await;
            }
        }
    }

    /// Handles all waiting entries, up to [`limits::ROUND_MAX`], before it writes to
    /// any connection: a batch over several channels is one write per connection. Returns whether
    /// the round is full.
    fn receive_round(&mut self, incoming: Incoming, receiver: &mut Receiver) -> bool {
        self.receive(incoming);
        for _ in 1..limits::ROUND_MAX {
            match receiver.try_next() {
                Some(incoming) => self.receive(incoming),
                None => return false,
            }
        }
        true
    }

    fn receive(&mut self, incoming: Incoming) {
        metrics().entries_received.increment(1);
        if self.backlogs.is_empty() {
            return self.handle(incoming);
        }
        let app = incoming.channel_id.clone();
        match self.backlogs.arrive(incoming, Instant::now()) {
            Arrival::Handle(incoming) => self.handle(incoming),
            Arrival::Wait(wait) => self.timers.set(Due::Backlog(app.app().into()), wait),
            Arrival::Queued => {}
        }
    }

    /// Handles the waiting entries of an app for which its filters may take time.
    fn continue_backlog(&mut self, app: Box<str>) {
        for _ in 0..limits::ROUND_MAX {
            match self.backlogs.next(&app, Instant::now()) {
                Some(Ok(incoming)) => self.handle(incoming),
                Some(Err(wait)) => return self.timers.set(Due::Backlog(app), wait),
                None => return,
            }
        }
        self.timers.set(Due::Backlog(app), Duration::ZERO);
    }

    fn handle(&mut self, Incoming { channel_id, entry }: Incoming) {
        if self.enter(&channel_id, |channel, context| channel.on_entry(entry, context)).is_none() {
            // The message was in flight when the topic was unsubscribed, or the request to
            // unsubscribe was dropped.
            self.backend.unlisten(&channel_id);
        }
    }

    /// As [`Channels::receive_round`], for commands.
    fn dispatch_round(&mut self, command: Command, commands: &mut mpsc::Receiver<Command>) -> bool {
        self.dispatch(command);
        for _ in 1..limits::ROUND_MAX {
            match commands.try_recv() {
                Ok(command) => self.dispatch(command),
                Err(_) => return false,
            }
        }
        true
    }

    fn dispatch(&mut self, command: Command) {
        match command {
            Command::Channel(channel_id, command @ ChannelCommand::Subscribe(_)) => {
                self.enter_new(&channel_id, |channel, context| channel.on_command(command, context));
            }
            Command::Channel(channel_id, command) => {
                self.enter(&channel_id, |channel, context| channel.on_command(command, context));
            }
            Command::Watch { app, users, socket, write_buffer, event_prefix } => {
                self.watch(&app, users, socket, &Watcher { write_buffer, event_prefix });
            }
            Command::Unwatch { users, socket } => {
                for channel_id in self.watchlists.unwatch(users, socket) {
                    self.enter(&channel_id, Channel::unwatch);
                }
            }
        }
    }

    fn watch(&mut self, app: &App, users: Vec<ChannelId>, socket: SocketId, watcher: &Watcher) {
        for channel_id in self.watchlists.watch(users, socket, watcher) {
            self.enter_new(&channel_id, |channel, context| channel.watch(app, context));
        }
    }

    fn on_job_done(&mut self, done: Done) {
        match done {
            Done::Job(channel_id, result) => {
                self.repaired_bytes += result.repair_bytes();
                if result.has_failed() && result.kind() == JobKind::UpdateMembership {
                    self.jobs.pause(JobKind::UpdateMembership, Instant::now(), limits::RETRY_DELAY);
                }
                self.enter(&channel_id, |channel, context| channel.on_job_done(result, context));
            }
            Done::HeadsRead(channel_ids, heads) => self.on_heads_read(channel_ids, heads),
        }
    }

    fn on_due(&mut self, due: Due) {
        match due {
            Due::Channel(channel_id, timer) => {
                self.enter(&channel_id, |channel, context| channel.on_timer(timer, context));
            }
            Due::Backlog(app) => self.continue_backlog(app),
            Due::HeadChecks => {
                self.timers.set(Due::HeadChecks, limits::RETRY_DELAY);
                self.start_regular_head_checks();
            }
            Due::Reconciliation => {
                self.timers.set(Due::Reconciliation, limits::MEMBERSHIP_INTERVAL);
                self.reconcile(Reconciliation::Regular);
            }
            Due::Gauges => {
                self.timers.set(Due::Gauges, limits::GAUGE_INTERVAL);
                self.update_gauges();
                self.shrink();
            }
        }
    }

    /// Calls an entry point of a channel and executes its effects. `None` if this node does not
    /// have the channel.
    fn enter<T>(
        &mut self,
        channel_id: &ChannelId,
        call: impl FnOnce(&mut Channel, &mut Context<'_>) -> T,
    ) -> Option<T> {
        self.enter_or(channel_id, |_| None, call)
    }

    /// As [`Channels::enter`]; creates the channel if this node does not have it.
    fn enter_new(&mut self, channel_id: &ChannelId, call: impl FnOnce(&mut Channel, &mut Context<'_>)) {
        self.enter_or(channel_id, |id| Some(Box::new(Channel::new(id.clone()))), call);
    }

    /// The one look-up of a channel.
    fn enter_or<T>(
        &mut self,
        channel_id: &ChannelId,
        create: impl FnOnce(&ChannelId) -> Option<Box<Channel>>,
        call: impl FnOnce(&mut Channel, &mut Context<'_>) -> T,
    ) -> Option<T> {
        let mut channels_of_app = None;
        let mut channel = match self.channels.entry(channel_id.clone()) {
            Entry::Occupied(channel) => channel,
            Entry::Vacant(vacant) => {
                let channel = create(channel_id)?;
                channels_of_app = self.channel_counts.add(channel_id);
                vacant.insert_entry(channel)
            }
        };
        let (now, app) = (Instant::now(), channel_id.app());
        let mut context = Context {
            now,
            channels_of_app,
            config: &self.delta,
            resume_tokens: self.backend.resume_tokens(),
            may_read_histories: self.repaired_bytes < limits::REPAIR_BYTES_MAX
                && !self.backlogs.has_dropped(app, now),
            is_backlogged: self.backlogs.has_entries(app),
            app_filters: &mut self.app_filters,
            effects: &mut self.effects,
        };
        let result = call(channel.get_mut(), &mut context);
        let filter_time = std::mem::take(&mut self.effects.filter_time);
        if !filter_time.is_zero() {
            self.backlogs.charge(app, filter_time, now);
        }
        for (kind, requester) in self.effects.jobs.drain(..) {
            self.jobs.push(kind, channel_id, requester);
        }
        for (timer, after) in self.effects.timers.drain(..) {
            self.timers.set(Due::Channel(channel_id.clone(), timer), after);
        }
        for event in self.effects.user_events.drain(..) {
            self.watchlists.on_user_event(channel_id, event, &mut self.effects.to_flush);
        }
        if std::mem::take(&mut self.effects.removes) {
            self.channel_counts.remove(channel_id);
            if channel.remove().is_listening() {
                self.backend.unlisten(channel_id);
            }
        }
        Some(result)
    }

    /// Calls an entry point of every channel.
    fn enter_all(&mut self, mut call: impl FnMut(&mut Channel, &mut Context<'_>)) {
        let channel_ids: Vec<ChannelId> = self.channels.keys().cloned().collect();
        for channel_id in channel_ids {
            self.enter(&channel_id, &mut call);
        }
    }

    fn start_jobs(&mut self) {
        let now = Instant::now();
        for kind in JobKind::ALL {
            while let Some(channel_id) = self.jobs.pop(kind, now) {
                match kind {
                    JobKind::CheckHead => self.check_heads(channel_id, now),
                    _ => self.start_job(kind, channel_id),
                }
            }
        }
    }

    fn start_job(&mut self, kind: JobKind, channel_id: ChannelId) {
        let prepared = self.enter(&channel_id, |channel, context| channel.prepare(kind, context));
        let Some(Some(job)) = prepared else { return };
        let (backend, config) = (self.backend.clone(), self.delta.clone());
        self.jobs.spawn(kind, async move {
            let result = job.run(&channel_id, &backend, &config).await;
            Done::Job(channel_id, result)
        });
    }

    /// Compares `first` and the next channels in the queue with their heads, in one call.
    fn check_heads(&mut self, first: ChannelId, now: Instant) {
        let mut channel_ids = vec![first];
        while channel_ids.len() < limits::POSITION_CHECK_CHANNELS
            && let Some(channel_id) = self.jobs.pop(JobKind::CheckHead, now)
        {
            channel_ids.push(channel_id);
        }
        let backend = self.backend.clone();
        self.jobs.spawn(JobKind::CheckHead, async move {
            let heads = backend.read_heads(&channel_ids).await;
            Done::HeadsRead(channel_ids, heads)
        });
    }

    fn on_heads_read(
        &mut self,
        channel_ids: Vec<ChannelId>,
        heads: Result<Vec<Option<Position>>, BackendError>,
    ) {
        match heads {
            Ok(heads) => {
                metrics().head_checks.increment(channel_ids.len() as u64);
                for (channel_id, head) in channel_ids.into_iter().zip(heads) {
                    let result = JobResult::HeadChecked(Ok(head));
                    self.enter(&channel_id, |channel, context| channel.on_job_done(result, context));
                }
            }
            Err(_) => self.head_checks.has_failed = true,
        }
    }

    /// Starts a round when the interval has passed and the last round is over. Each round
    /// renews the byte budget of gap repairs.
    fn start_regular_head_checks(&mut self) {
        let interval =
            if self.head_checks.has_failed { limits::RETRY_DELAY } else { self.head_checks.interval };
        let is_due = self.head_checks.round_started.elapsed() >= interval;
        if is_due && self.jobs.is_idle(JobKind::CheckHead) {
            self.repaired_bytes = 0;
            self.start_head_checks();
        }
    }

    /// Starts a round of head checks over all listened channels.
    fn start_head_checks(&mut self) {
        self.head_checks.round_started = Instant::now();
        self.head_checks.has_failed = false;
        self.enter_all(|channel, context| {
            if channel.begin_head_check(context) {
                context.start(JobKind::CheckHead, None);
            }
        });
    }

    /// Reports the memberships of all channels: every [`limits::MEMBERSHIP_INTERVAL`],
    /// after a reconnect, and when Redis may have lost its data.
    fn reconcile(&mut self, reason: Reconciliation) {
        self.jobs.unpause(JobKind::UpdateMembership);
        self.enter_all(|channel, context| channel.on_reconciliation(reason, context));
    }

    /// Gives back the memory of a burst.
    fn shrink(&mut self) {
        self.backlogs.purge(Instant::now());
        self.app_filters.retain(|_, filters| !filters.is_empty());
        self.app_filters.shrink_if_sparse();
        self.channels.shrink_if_sparse();
        self.effects.to_flush.shrink_if_sparse();
        self.watchlists.shrink();
        self.timers.shrink();
    }

    fn update_gauges(&self) {
        let subscriptions: usize = self.channels.values().map(|channel| channel.count_subscriptions()).sum();
        metrics().subscriptions.set(subscriptions as f64);
        apps::set_subscriptions();
        metrics().channels.set(self.channels.len() as f64);
        let without_deltas = self.channels.values().filter(|channel| channel.has_deltas_off()).count();
        metrics().channels_without_deltas.set(without_deltas as f64);
        metrics().jobs_queued.set(self.jobs.queued() as f64);
    }
}
