//! Stage 5 of a batch's path, and the start of stages 6 to 8 (design.md 2): one task
//! that owns all channels of this node. It puts entries in order, has [`crate::fan_out`]
//! encode them and [`crate::subscribers`] push the frames to connections, and admits
//! new subscribers without a gap.
//!
//! A single task, so that a connection receives the channels of a batch in their order,
//! and so that no lock is needed. It never waits: every backend call is a job of its
//! own, whose result comes back as a `JobResult`.

mod admission;
mod catch_up;
mod channel;
mod delivery;
mod delta_toggle;
mod gap_repair;
mod initial_bases;
mod membership;
mod position_notices;
mod presence;
mod recovery;
mod replay;
pub mod sequencer;
mod subscribe;
mod watchlists;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::app::App;
use crate::backend::{Backend, BackendError, MembershipUpdate, RosterRead, StoredBase, UpdatedMembership};
use crate::backend_events::{Incoming, Receiver};
use crate::channel::ChannelId;
use crate::delta::Algorithm;
use crate::delta::settings::DeltaConfig;
use crate::entry::{Body, Entry, Kind, Log, Position};
use crate::event::SocketId;
use crate::fan_out::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::presence::Member;
use crate::sockets::write_buffer::WriteBuffer;
use crate::sockets::writers::WriterPool;
use crate::subscribers::Subscriber;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::resume::Resume;

use channel::{Channel, Listening, PendingSubscription, State};
use delivery::deliver;
use gap_repair::{GapRepairs, HeadChecks};
use initial_bases::InitialBasesReads;
use membership::MembershipUpdates;
use presence::Rosters;
use recovery::{Recoveries, Recovery};
use replay::RecoveryResults;
use sequencer::Decision;
use watchlists::{InitialStatus, Watcher};

/// Requests of connections. The channels process those of one connection in order.
#[derive(Debug)]
pub enum Command {
    Subscribe {
        channel_id: ChannelId,
        app: Arc<App>,
        socket: SocketId,
        write_buffer: Arc<WriteBuffer>,
        options: DeliveryOptions,
        /// The client's position, if it resumes (protocol.md 2.13, docs/resume.md).
        resume: Option<Box<Resume>>,
        /// The member, on a presence channel. If the channel is full, the subscription
        /// is refused, and so is this member ([`Member::refuse`]).
        member: Option<Arc<Member>>,
        /// Frames that confirm the subscription. On presence channels, and where the
        /// delivery options have positions, they are without `subscription_succeeded`:
        /// the channels encode it, with the roster or the position, and send it first.
        confirmation: Bytes,
    },
    /// Sends the connection the online status of these users, once for all of them and
    /// then at every change (protocol.md 2.10). Users are named by their user channels.
    Watch {
        app: Arc<App>,
        /// The user channel of the connection itself.
        own: ChannelId,
        users: Vec<ChannelId>,
        socket: SocketId,
        write_buffer: Arc<WriteBuffer>,
        event_prefix: EventPrefix,
    },
    Unwatch {
        users: Vec<ChannelId>,
        socket: SocketId,
    },
    Unsubscribe {
        channel_id: ChannelId,
        socket: SocketId,
    },
    /// Enables deltas for a connection that is already subscribed (protocol.md 3.2).
    EnableDeltas {
        channel_id: ChannelId,
        socket: SocketId,
        algorithm: Algorithm,
    },
    /// The client lacks a base: its next event of every chain is full (protocol.md
    /// 3.10).
    Resync {
        channel_id: ChannelId,
        socket: SocketId,
    },
}

/// Sends commands to the channels actor.
#[derive(Debug, Clone)]
pub struct ChannelsHandle(mpsc::Sender<Command>);

impl ChannelsHandle {
    /// Waits while [`limits::COMMANDS_MAX`] commands are queued.
    pub async fn send(&self, command: Command) {
        // The actor lives as long as the node: an error means that the process is
        // ending.
        let _ = self.0.send(command).await;
    }
}

/// Spawns the channels actor. It ends when the last [`ChannelsHandle`] is dropped.
pub fn start(receiver: Receiver, backend: Arc<Backend>, delta: DeltaConfig) -> ChannelsHandle {
    let (sender, commands) = mpsc::channel(limits::COMMANDS_MAX);
    let channels = Channels {
        backend,
        delta,
        channels: HashMap::new(),
        jobs: JoinSet::new(),
        pending: 0,
        membership_updates: MembershipUpdates::new(),
        gap_repairs: GapRepairs::default(),
        head_checks: HeadChecks::new(),
        retries: VecDeque::new(),
        rosters: Rosters::default(),
        recoveries: Recoveries::default(),
        initial_bases_reads: InitialBasesReads::default(),
        position_notices: VecDeque::new(),
        stale_rosters: BTreeSet::new(),
        initial_statuses: HashMap::new(),
        idle: VecDeque::new(),
        to_flush: Vec::new(),
        writers: WriterPool::for_runtime(),
        gauges_updated: Instant::now(),
    };
    tokio::spawn(channels.run(receiver, commands));
    ChannelsHandle(sender)
}

/// The result of a job: a backend call that has ended.
#[derive(Debug)]
enum JobResult {
    Listened(ChannelId, Result<(), BackendError>),
    MembershipUpdated(Box<(MembershipUpdate, Result<UpdatedMembership, BackendError>)>),
    RosterRead(ChannelId, Result<RosterRead, BackendError>),
    LogRead(ChannelId, Result<Log, BackendError>),
    HeadsRead(Vec<ChannelId>, Result<Vec<Option<Position>>, BackendError>),
    Recovered(ChannelId, Result<RecoveryResults, BackendError>),
    BasesRead(ChannelId, Result<Vec<StoredBase>, BackendError>),
    DeltasToggled(ChannelId, bool, Result<(), BackendError>),
    /// The head, read instead of the history when the round's byte budget is used up.
    HeadRead(ChannelId, Result<Vec<Option<Position>>, BackendError>),
    EpochOpened,
}

#[derive(Debug)]
struct Channels {
    backend: Arc<Backend>,
    delta: DeltaConfig,
    channels: HashMap<ChannelId, Channel>,
    jobs: JoinSet<JobResult>,
    /// Pending subscriptions of all channels, bounded by [`limits::PENDING_MAX`].
    pending: usize,
    membership_updates: MembershipUpdates,
    gap_repairs: GapRepairs,
    head_checks: HeadChecks,
    retries: VecDeque<(Instant, ChannelId)>,
    rosters: Rosters,
    recoveries: Recoveries,
    initial_bases_reads: InitialBasesReads,
    /// Due times of position notices, oldest first.
    position_notices: VecDeque<(Instant, ChannelId)>,
    /// Rosters to read again, by due time.
    stale_rosters: BTreeSet<(Instant, ChannelId)>,
    /// Watchers that have not received their first status frame.
    initial_statuses: HashMap<SocketId, InitialStatus>,
    idle: VecDeque<(Instant, ChannelId)>,
    /// Connections with frames pushed since the start of this round.
    to_flush: Vec<Arc<WriteBuffer>>,
    writers: WriterPool,
    gauges_updated: Instant,
}

impl Channels {
    async fn run(mut self, mut receiver: Receiver, mut commands: mpsc::Receiver<Command>) {
        let mut tick = tokio::time::interval(limits::CHANNELS_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let reconciliation = receiver.reconciliation();
        loop {
            tokio::select! {
                Some(incoming) = receiver.next() => self.receive_round(incoming, &mut receiver),
                command = commands.recv() => match command {
                    Some(command) => self.dispatch_round(command, &mut commands),
                    None => return,
                },
                Some(done) = self.jobs.join_next() => match done {
                    Ok(done) => self.on_job_done(done),
                    // The runtime is shutting down.
                    Err(error) if error.is_cancelled() => return,
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                },
                () = reconciliation.wait() => {}
                _ = tick.tick() => self.tick(),
            }
            let due = reconciliation.take();
            if due.report_memberships {
                self.report_all_memberships();
                self.request_all_rosters();
            }
            if due.check_heads {
                self.start_head_check_round();
            }
            self.start_jobs();
            self.writers.flush(&mut self.to_flush);
        }
    }

    /// Handles all waiting entries, up to [`limits::ROUND_MAX`], before it writes to
    /// any connection: a batch over several channels is one write per connection.
    fn receive_round(&mut self, incoming: Incoming, receiver: &mut Receiver) {
        self.receive(incoming);
        for _ in 1..limits::ROUND_MAX {
            match receiver.try_next() {
                Some(incoming) => self.receive(incoming),
                None => return,
            }
        }
    }

    fn receive(&mut self, incoming: Incoming) {
        metrics().entries_received.increment(1);
        self.sequence(&incoming.channel_id, incoming.entry);
    }

    fn sequence(&mut self, channel_id: &ChannelId, entry: Entry) {
        let Some(channel) = self.channels.get_mut(channel_id) else {
            // The message was in flight when the topic was unsubscribed, or the request to
            // unsubscribe was dropped.
            return self.backend.unlisten(channel_id);
        };
        match channel.sequencer.accept(entry, Instant::now()) {
            Decision::Deliver(entry) => self.handle(channel_id, &entry),
            Decision::Begin(entry) => {
                metrics().epochs_opened.increment(1);
                let Entry { epoch, first_seq, .. } = entry;
                self.begin_history(channel_id, Position { epoch, seq: first_seq - 1, ..Position::default() });
                self.handle(channel_id, &entry);
                self.end_waiting(channel_id, entry.position());
            }
            Decision::Duplicate => metrics().entries_duplicate.increment(1),
            Decision::Held => {}
            Decision::Gap => {
                metrics().gaps.increment(1);
                tracing::debug!(%channel_id, "gap detected; reading the history");
                self.gap_repairs.queue.push_back(channel_id.clone());
            }
        }
    }

    /// Handles the next entry of a channel: delivers it and admits pending
    /// subscriptions that waited for it.
    fn handle(&mut self, channel_id: &ChannelId, entry: &Entry) {
        self.deliver_entry(channel_id, entry);
        if self.channels.get(channel_id).is_some_and(|channel| !channel.pending.is_empty()) {
            self.admit(channel_id);
        }
    }

    /// Delivers an entry to the subscribers and admits no pending subscription. Between
    /// entries of one history read, the sequencer's position is already that of the last
    /// one: an admission would take entries for delivered that are not.
    fn deliver_entry(&mut self, channel_id: &ChannelId, entry: &Entry) {
        // A single look-up: there are many channels, and each look-up is a cache miss.
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.send_epoch_notices(channel_id, entry, &mut self.to_flush);
        deliver(channel_id, channel, entry, &self.delta, &mut self.to_flush);
        if channel.position_falls_due() {
            self.position_notices.push_back((Instant::now() + limits::POSITION_DELAY, channel_id.clone()));
        }
        match entry.kind {
            Kind::UserStatus | Kind::Deltas => match delivery::read(channel_id, entry) {
                Some(Body::UserStatus { online }) => self.change_status(channel_id, online),
                Some(Body::Deltas { on }) => self.set_deltas(channel_id, on),
                _ => {}
            },
            Kind::Events => {
                if let Some(on) = channel.delta_decision() {
                    self.request_delta_toggle(channel_id.clone(), on);
                }
            }
            _ => {}
        }
    }

    /// Handles a break in the channel's history: it continues from `position` instead
    /// of this node's own. Chains restart with full events, and the roster is read
    /// again.
    fn begin_history(&mut self, channel_id: &ChannelId, position: Position) {
        self.send_break_notices(channel_id, position);
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.subscribers.groups().restart();
        channel.initial_bases = None;
        // Every epoch begins with the delta toggle on.
        channel.policy.set(true);
        if channel.presence.is_some() {
            self.stale_rosters.insert((Instant::now() + limits::ROSTER_DELAY, channel_id.clone()));
        }
        if channel.watch.is_some() {
            channel.membership.stale = true;
            self.queue_membership_update(channel_id.clone());
        }
    }

    /// Ends the wait for entries up to `known`, which will not arrive any more, and
    /// admits the pending subscriptions.
    fn end_waiting(&mut self, channel_id: &ChannelId, known: Position) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        for at in channel.stop_waiting(known) {
            self.observe_lag(channel_id, at);
        }
        self.admit(channel_id);
    }

    fn sequence_held(&mut self, channel_id: &ChannelId, held: VecDeque<Entry>) {
        for entry in held {
            self.sequence(channel_id, entry);
        }
    }

    fn dispatch_round(&mut self, command: Command, commands: &mut mpsc::Receiver<Command>) {
        self.dispatch(command);
        for _ in 1..limits::ROUND_MAX {
            match commands.try_recv() {
                Ok(command) => self.dispatch(command),
                Err(_) => return,
            }
        }
    }

    fn dispatch(&mut self, command: Command) {
        match command {
            Command::Subscribe {
                channel_id,
                app,
                socket,
                write_buffer,
                options,
                resume,
                member,
                confirmation,
            } => {
                self.channel_of(&channel_id, &app);
                let previous_socket_ids = resume
                    .as_ref()
                    .map(|resume| resume.previous_socket_ids.clone().into())
                    .unwrap_or_default();
                let subscriber = Subscriber { write_buffer, options, previous_socket_ids, member };
                let recovery = Recovery::of(resume);
                let (state, succeeds) = (State::Unreported, true);
                let pending = PendingSubscription { subscriber, confirmation, succeeds, recovery, state };
                self.subscribe(channel_id, socket, pending);
            }
            Command::Watch { app, own, users, socket, write_buffer, event_prefix } => {
                self.watch(&app, own, users, socket, Watcher { write_buffer, event_prefix });
            }
            Command::Unwatch { users, socket } => self.unwatch(&users, socket),
            Command::Unsubscribe { channel_id, socket } => self.unsubscribe(&channel_id, socket),
            Command::EnableDeltas { channel_id, socket, algorithm } => {
                self.enable_deltas(&channel_id, socket, algorithm);
            }
            Command::Resync { channel_id, socket } => {
                if let Some(channel) = self.channels.get_mut(&channel_id) {
                    let next = channel.next_seq();
                    channel.subscribers.resync(socket, next);
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        while self.retries.front().is_some_and(|(due, _)| *due <= now) {
            let (_, channel_id) = self.retries.pop_front().expect("the front was checked");
            self.retry(channel_id);
        }
        self.run_due_head_checks(now);
        self.read_stale_rosters(now);
        self.send_due_position_notices(now);
        self.remove_idle(now);
        if now.duration_since(self.membership_updates.last_full_report) >= limits::MEMBERSHIP_INTERVAL {
            self.report_all_memberships();
        }
        if now.duration_since(self.gauges_updated) >= limits::GAUGE_INTERVAL {
            self.gauges_updated = now;
            self.update_gauges();
        }
    }

    /// Repeats every failed step of a channel: listening, head check, membership
    /// update, admission.
    fn retry(&mut self, channel_id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        if channel.listening == Listening::No && channel.is_awaited() {
            return self.join(channel_id);
        }
        if channel.sequencer.position().is_some() && channel.listening == Listening::Yes {
            self.head_checks.queue.push_back(channel_id.clone());
        }
        self.queue_membership_update(channel_id.clone());
        self.admit(&channel_id);
    }

    fn update_gauges(&self) {
        let subscriptions: usize = self.channels.values().map(|channel| channel.subscribers.len()).sum();
        metrics().subscriptions.set(subscriptions as f64);
        metrics().channels.set(self.channels.len() as f64);
        let without_deltas = self.channels.values().filter(|channel| channel.policy.is_off()).count();
        metrics().channels_without_deltas.set(without_deltas as f64);
    }

    fn start_jobs(&mut self) {
        self.start_membership_updates();
        self.start_roster_reads();
        self.start_recoveries();
        self.start_initial_bases_reads();
        self.start_repairs();
        self.start_head_checks();
    }

    fn on_job_done(&mut self, result: JobResult) {
        match result {
            JobResult::Listened(channel_id, result) => self.on_listened(channel_id, result),
            JobResult::MembershipUpdated(update) => self.on_membership_updated(update.0, update.1),
            JobResult::RosterRead(channel_id, read) => self.on_roster_read(channel_id, read),
            JobResult::Recovered(channel_id, results) => self.on_recovered(&channel_id, results),
            JobResult::BasesRead(channel_id, bases) => self.on_bases_read(channel_id, bases),
            JobResult::DeltasToggled(channel_id, on, result) => {
                self.on_deltas_toggled(&channel_id, on, result);
            }
            JobResult::HeadsRead(channel_ids, heads) => self.on_heads_read(channel_ids, heads),
            JobResult::LogRead(channel_id, log) => {
                self.gap_repairs.in_flight -= 1;
                self.on_log_read(&channel_id, log);
            }
            JobResult::HeadRead(channel_id, heads) => {
                self.gap_repairs.in_flight -= 1;
                self.on_head_read(&channel_id, heads);
            }
            JobResult::EpochOpened => {}
        }
    }
}
