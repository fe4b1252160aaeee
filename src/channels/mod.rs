//! Room 5, and the conductor of everything on the way out: one task that owns
//! all channels of this node. What is announced is put in order here, encoded by
//! [`fan_out`] and handed to sockets by [`crate::subscribers`]; who joins is let in
//! without a hole.
//!
//! One task, so that a socket sees the channels of a batch in their order, and
//! so that no lock is needed. It never waits: what takes time is a call under
//! way, and its answer comes back as a [`JobResult`].

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

/// What sockets ask for. Requests of one socket are served in sequencer.
#[derive(Debug)]
pub enum Command {
    Subscribe {
        channel_id: ChannelId,
        app: Arc<App>,
        socket: SocketId,
        write_buffer: Arc<WriteBuffer>,
        options: DeliveryOptions,
        /// What its client has had (docs/resume.md).
        resume: Option<Box<Resume>>,
        /// On a presence channel: as whom. The inbox refuses it if the channel is
        /// full, and says so to the socket and to the member.
        member: Option<Arc<Member>>,
        /// Frames to send when it has succeeded. On a presence channel, and where
        /// the options has positions, `subscription_succeeded` is made by the inbox,
        /// which knows roster and position, and comes before these.
        confirmation: Bytes,
    },
    /// The socket is told whether these users are online, now and whenever that
    /// changes (protocol.md 2.10). The channel_ids are of the users' own channels.
    Watch {
        app: Arc<App>,
        /// The socket's own user.
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
    /// The socket opted in to deltas with subscriptions in place.
    EnableDeltas {
        channel_id: ChannelId,
        socket: SocketId,
        algorithm: Algorithm,
    },
    /// The client has no base: its next event is to be full.
    Resync {
        channel_id: ChannelId,
        socket: SocketId,
    },
}

/// The sockets' end.
#[derive(Debug, Clone)]
pub struct ChannelsHandle(mpsc::Sender<Command>);

impl ChannelsHandle {
    /// Waits while [`limits::COMMANDS_MAX`] commands are waiting.
    pub async fn send(&self, command: Command) {
        // The inbox lives as long as the node: an error is the end of the process.
        let _ = self.0.send(command).await;
    }
}

/// Starts the task. It ends when the last [`ChannelsHandle`] is dropped.
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
        positions: VecDeque::new(),
        stale_rosters: BTreeSet::new(),
        initial_statuses: HashMap::new(),
        idle: VecDeque::new(),
        to_flush: Vec::new(),
        writers: WriterPool::for_runtime(),
        counted: Instant::now(),
    };
    tokio::spawn(channels.run(receiver, commands));
    ChannelsHandle(sender)
}

/// A call to the backend has ended.
#[derive(Debug)]
enum JobResult {
    Listened(ChannelId, Result<(), BackendError>),
    UpdatedMembership(Box<(MembershipUpdate, Result<UpdatedMembership, BackendError>)>),
    RosterRead(ChannelId, Result<RosterRead, BackendError>),
    LogRead(ChannelId, Result<Log, BackendError>),
    HeadsRead(Vec<ChannelId>, Result<Vec<Option<Position>>, BackendError>),
    Replayed(ChannelId, Result<RecoveryResults, BackendError>),
    BasesRead(ChannelId, Result<Vec<StoredBase>, BackendError>),
    Switched(ChannelId, bool, Result<(), BackendError>),
    /// Instead of a log, beyond the budget.
    Skipped(ChannelId, Result<Vec<Option<Position>>, BackendError>),
    EpochOpened,
}

#[derive(Debug)]
struct Channels {
    backend: Arc<Backend>,
    delta: DeltaConfig,
    channels: HashMap<ChannelId, Channel>,
    jobs: JoinSet<JobResult>,
    /// Subscriptions that wait for the backend, over all channels.
    pending: usize,
    membership_updates: MembershipUpdates,
    gap_repairs: GapRepairs,
    head_checks: HeadChecks,
    retries: VecDeque<(Instant, ChannelId)>,
    rosters: Rosters,
    recoveries: Recoveries,
    initial_bases_reads: InitialBasesReads,
    /// Where somebody is to be told the position, and when.
    positions: VecDeque<(Instant, ChannelId)>,
    /// To be read anew, and when.
    stale_rosters: BTreeSet<(Instant, ChannelId)>,
    /// Watchers that have not been told of anyone yet.
    initial_statuses: HashMap<SocketId, InitialStatus>,
    idle: VecDeque<(Instant, ChannelId)>,
    /// Sockets that have something to be sent since this round.
    to_flush: Vec<Arc<WriteBuffer>>,
    writers: WriterPool,
    counted: Instant,
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
                    // The process ends at once.
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
                self.check_all();
            }
            self.start_jobs();
            self.writers.flush(&mut self.to_flush);
        }
    }

    /// Handles what is here already before any socket is written to, so that a batch
    /// over several channels is one write for a socket on all of them.
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
            // On its way while the topic was left, or the leaving was let pass.
            return self.backend.unlisten(channel_id);
        };
        match channel.sequencer.accept(entry, Instant::now()) {
            Decision::Deliver(entry) => self.handle(channel_id, &entry),
            Decision::Begin(entry) => {
                metrics().epochs_opened.increment(1);
                let Entry { epoch, first_seq, .. } = entry;
                self.begin_history(channel_id, Position { epoch, seq: first_seq - 1, ..Position::default() });
                self.handle(channel_id, &entry);
                self.let_in(channel_id, entry.position());
            }
            Decision::Duplicate => metrics().entries_duplicate.increment(1),
            Decision::Held => {}
            Decision::Gap => {
                metrics().gaps.increment(1);
                tracing::debug!(%channel_id, "gap, reading the log");
                self.gap_repairs.queue.push_back(channel_id.clone());
            }
        }
    }

    /// It is the next one: delivered, and whoever waited for it is let in.
    fn handle(&mut self, channel_id: &ChannelId, entry: &Entry) {
        self.deliver_entry(channel_id, entry);
        if self.channels.get(channel_id).is_some_and(|channel| !channel.pending.is_empty()) {
            self.admit(channel_id);
        }
    }

    /// Delivers it to those who are here. Of several that are known to have come,
    /// nobody is let in between: the position is already that after the last.
    fn deliver_entry(&mut self, channel_id: &ChannelId, entry: &Entry) {
        // Recovered once: channels are many, and each is a miss of the cache.
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.send_epoch_notices(channel_id, entry, &mut self.to_flush);
        deliver(channel_id, channel, entry, &self.delta, &mut self.to_flush);
        if channel.position_falls_due() {
            self.positions.push_back((Instant::now() + limits::POSITION_DELAY, channel_id.clone()));
        }
        match entry.kind {
            Kind::UserStatus | Kind::Deltas => match delivery::read(channel_id, entry) {
                Some(Body::UserStatus { online }) => self.change_status(channel_id, online),
                Some(Body::Deltas { on }) => self.set_deltas(channel_id, on),
                _ => {}
            },
            Kind::Events => {
                if let Some(on) = channel.delta_decision() {
                    self.switch_deltas(channel_id.clone(), on);
                }
            }
            _ => {}
        }
    }

    /// The channel's history does not go on from what this node has handled, but
    /// from `position`: deltas start from a full event, and who is here is read
    /// anew.
    fn begin_history(&mut self, channel_id: &ChannelId, position: Position) {
        self.send_break_notices(channel_id, position);
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        channel.subscribers.groups().restart();
        channel.initial_bases = None;
        // An epoch begins with deltas on.
        channel.policy.set(true);
        if channel.presence.is_some() {
            self.stale_rosters.insert((Instant::now() + limits::ROSTER_DELAY, channel_id.clone()));
        }
        if channel.watch.is_some() {
            channel.membership.stale = true;
            self.queue_membership_update(channel_id.clone());
        }
    }

    /// Nobody waits any longer for an entry that will not come: the channel is
    /// known up to `known`.
    fn let_in(&mut self, channel_id: &ChannelId, known: Position) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        for at in channel.stop_waiting(known) {
            self.lagging(channel_id, at);
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
            let (_, channel_id) = self.retries.pop_front().expect("it was just seen");
            self.retry(channel_id);
        }
        self.check_what_is_due(now);
        self.read_stale_rosters(now);
        self.send_due_position_notices(now);
        self.forget_idle(now);
        if now.duration_since(self.membership_updates.all_at) >= limits::MEMBERSHIP_INTERVAL {
            self.report_all_memberships();
        }
        if now.duration_since(self.counted) >= limits::GAUGE_INTERVAL {
            self.counted = now;
            self.count();
        }
    }

    /// Whatever of this channel has failed before is tried again.
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

    fn count(&self) {
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
        self.start_checks();
    }

    fn on_job_done(&mut self, result: JobResult) {
        match result {
            JobResult::Listened(channel_id, result) => self.listened(channel_id, result),
            JobResult::UpdatedMembership(done) => self.updated(done.0, done.1),
            JobResult::RosterRead(channel_id, read) => self.roster_read(channel_id, read),
            JobResult::Replayed(channel_id, results) => self.replayed(&channel_id, results),
            JobResult::BasesRead(channel_id, bases) => self.bases_read(channel_id, bases),
            JobResult::Switched(channel_id, on, result) => self.switched(&channel_id, on, result),
            JobResult::HeadsRead(channel_ids, heads) => self.heads_read(channel_ids, heads),
            JobResult::LogRead(channel_id, log) => {
                self.gap_repairs.under_way -= 1;
                self.log_read(&channel_id, log);
            }
            JobResult::Skipped(channel_id, heads) => {
                self.gap_repairs.under_way -= 1;
                self.skipped(&channel_id, heads);
            }
            JobResult::EpochOpened => {}
        }
    }
}
