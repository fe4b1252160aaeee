//! Room 5, and the conductor of everything on the way out: one task that owns
//! all channels of this node. What is announced is put in order here, encoded by
//! [`fan_out`] and handed to sockets by [`crate::hub`]; who joins is let in
//! without a hole.
//!
//! One task, so that a socket sees the channels of a batch in their order, and
//! so that no lock is needed. It never waits: what takes time is a call under
//! way, and its answer comes back as a [`Done`].

pub mod channel;
pub mod order;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::backend::{Asserted, Backend, BackendError};
use crate::channel::Address;
use crate::delta::Chain;
use crate::delta::settings::DeltaConfig;
use crate::event::{Announcement, AnnouncementId, Log, Position, SocketId};
use crate::fan_out::{self, Delivery, Needs};
use crate::hub::outbox::Outbox;
use crate::hub::{Form, Subscriber};
use crate::limits;
use crate::mailbox::{Letters, Mail};
use crate::metrics::metrics;
use crate::wire::close::Close;

use channel::{Channel, Entry, Joiner, Listening, Recent};
use order::{Repair, Verdict};

/// What sockets ask for. Requests of one socket are served in order.
#[derive(Debug)]
pub enum Request {
    Subscribe {
        address: Address,
        socket: SocketId,
        outbox: Arc<Outbox>,
        deltas: bool,
        /// Frames to send when it has succeeded.
        confirmation: Bytes,
    },
    Unsubscribe {
        address: Address,
        socket: SocketId,
    },
    /// The socket opted in to deltas, or out, with subscriptions in place.
    ChangeForm {
        address: Address,
        socket: SocketId,
        deltas: bool,
    },
    /// The client has no base: its next event is to be full.
    Resync {
        address: Address,
        socket: SocketId,
    },
}

/// The sockets' end.
#[derive(Debug, Clone)]
pub struct Inbox(mpsc::Sender<Request>);

impl Inbox {
    /// Waits while [`limits::REQUESTS_MAX`] requests are waiting.
    pub async fn ask(&self, request: Request) {
        // The inbox lives as long as the node: an error is the end of the process.
        let _ = self.0.send(request).await;
    }
}

/// Starts the task. It ends when the last [`Inbox`] is dropped.
pub fn start(letters: Letters, backend: Arc<Backend>, delta: DeltaConfig) -> Inbox {
    let (sender, requests) = mpsc::channel(limits::REQUESTS_MAX);
    let desk = Desk {
        backend,
        delta,
        channels: HashMap::new(),
        calls: JoinSet::new(),
        joins: VecDeque::new(),
        others: VecDeque::new(),
        assertions: 0,
        joining: 0,
        rested_until: None,
        repairs: VecDeque::new(),
        repairing: 0,
        repair_bytes: 0,
        suspects: VecDeque::new(),
        checks: VecDeque::new(),
        checking: 0,
        round_started: Instant::now(),
        round_failed: false,
        asserted_all: Instant::now(),
        retries: VecDeque::new(),
        idle: VecDeque::new(),
        counted: Instant::now(),
        woken: Vec::new(),
    };
    tokio::spawn(desk.run(letters, requests));
    Inbox(sender)
}

/// A call to the backend has ended.
#[derive(Debug)]
enum Done {
    Listened(Address, Result<(), BackendError>),
    Asserted(Address, u64, Result<Asserted, BackendError>),
    LogRead(Address, Result<Log, BackendError>),
    HeadsRead(Vec<Address>, Result<Vec<Option<Position>>, BackendError>),
    /// Instead of a log, beyond the budget.
    Skipped(Address, Result<Vec<Option<Position>>, BackendError>),
    EpochOpened,
}

#[derive(Debug)]
struct Desk {
    backend: Arc<Backend>,
    delta: DeltaConfig,
    channels: HashMap<Address, Channel>,
    calls: JoinSet<Done>,
    /// Channels whose membership is to be asserted: those that someone waits for
    /// go first, so that a mass disconnect blocks nobody.
    joins: VecDeque<Address>,
    others: VecDeque<Address>,
    assertions: usize,
    /// Subscriptions that wait for the backend, over all channels.
    joining: usize,
    /// The backend was away a moment ago: no assertion until then.
    rested_until: Option<Instant>,
    repairs: VecDeque<Address>,
    repairing: usize,
    repair_bytes: usize,
    /// Heads that were ahead of us when they were read.
    suspects: VecDeque<(Instant, Address, AnnouncementId)>,
    checks: VecDeque<Address>,
    checking: usize,
    round_started: Instant,
    round_failed: bool,
    asserted_all: Instant,
    retries: VecDeque<(Instant, Address)>,
    idle: VecDeque<(Instant, Address)>,
    counted: Instant,
    /// Sockets written to in this round.
    woken: Vec<Arc<Outbox>>,
}

impl Desk {
    async fn run(mut self, mut letters: Letters, mut requests: mpsc::Receiver<Request>) {
        let mut tick = tokio::time::interval(limits::INBOX_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let signals = letters.signals();
        loop {
            tokio::select! {
                Some(mail) = letters.next() => self.hear_round(mail, &mut letters),
                request = requests.recv() => match request {
                    Some(request) => self.serve_round(request, &mut requests),
                    None => return,
                },
                Some(done) = self.calls.join_next() => {
                    self.finish(done.expect("calls do not panic and are not cancelled"));
                }
                () = signals.wait() => {}
                _ = tick.tick() => self.tick(),
            }
            let due = signals.take();
            if due.reassert {
                self.assert_all();
            }
            if due.recheck {
                self.check_all();
            }
            self.start_calls();
            for outbox in self.woken.drain(..) {
                outbox.wake();
            }
        }
    }

    // --- announcements ------------------------------------------------------

    /// Handles what is here already before any socket is woken, so that a batch
    /// over several channels is one write for a socket on all of them.
    fn hear_round(&mut self, mail: Mail, letters: &mut Letters) {
        self.hear(mail);
        for _ in 1..limits::ROUND_MAX {
            match letters.try_next() {
                Some(mail) => self.hear(mail),
                None => return,
            }
        }
    }

    fn hear(&mut self, mail: Mail) {
        metrics().announcements_heard.increment(1);
        self.order(&mail.address, mail.announcement);
    }

    fn order(&mut self, address: &Address, announcement: Announcement) {
        let Some(channel) = self.channels.get_mut(address) else {
            // On its way while the topic was left, or the leaving was let pass.
            return self.backend.unlisten(address);
        };
        match channel.order.hear(announcement, Instant::now()) {
            Verdict::Deliver(announcement) => {
                deliver(address, channel, &announcement, &self.delta, &mut self.woken);
            }
            Verdict::Duplicate => metrics().announcements_duplicate.increment(1),
            Verdict::Held => {}
            Verdict::Gap => {
                metrics().gaps.increment(1);
                tracing::debug!(%address, "gap, reading the log");
                self.repairs.push_back(address.clone());
            }
        }
    }

    fn log_read(&mut self, address: &Address, log: Result<Log, BackendError>) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let log = match log {
            Ok(log) => log,
            Err(error) => {
                tracing::debug!(%address, %error, "log not read");
                // What was held is in the log: it is read again later.
                channel.order.abandon_reading();
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, address.clone()));
                return;
            }
        };
        self.repair_bytes += log.announcements.iter().map(|a| a.body.len()).sum::<usize>();
        let seen = channel.order.position();
        let (repair, missed, held) = channel.order.repair(log, Instant::now());
        match repair {
            Repair::Complete => metrics().gaps_repaired.increment(1),
            Repair::Incomplete => metrics().gaps_unrepaired.increment(1),
            Repair::NewEpoch | Repair::Fork { .. } => metrics().epochs_opened.increment(1),
        }
        if repair != Repair::Complete {
            tracing::info!(%address, ?repair, "the channel's history did not connect");
            channel.start_anew();
        }
        for announcement in &missed {
            deliver(address, channel, announcement, &self.delta, &mut self.woken);
        }
        if let (Repair::Fork { epoch }, Some(seen)) = (repair, seen) {
            self.open_epoch(address.clone(), epoch, seen.seq);
        }
        self.hear_again(address, held);
    }

    fn hear_again(&mut self, address: &Address, held: VecDeque<Announcement>) {
        for announcement in held {
            self.order(address, announcement);
        }
    }

    fn skipped(&mut self, address: &Address, heads: Result<Vec<Option<Position>>, BackendError>) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let Ok(Some(Some(head))) = heads.map(|heads| heads.first().copied()) else {
            channel.order.abandon_reading();
            self.retries.push_back((Instant::now() + limits::RETRY_DELAY, address.clone()));
            return;
        };
        metrics().gaps_unrepaired.increment(1);
        let held = channel.order.skip_to(head);
        channel.start_anew();
        self.hear_again(address, held);
    }

    fn open_epoch(&mut self, address: Address, epoch: u64, seen_seq: u64) {
        let backend = self.backend.clone();
        self.calls.spawn(async move {
            if let Err(error) = backend.open_epoch(&address, epoch, seen_seq).await {
                tracing::warn!(%address, %error, "epoch not opened; the next gap will try again");
            }
            Done::EpochOpened
        });
    }

    // --- who is here --------------------------------------------------------

    fn serve_round(&mut self, request: Request, requests: &mut mpsc::Receiver<Request>) {
        self.serve(request);
        for _ in 1..limits::ROUND_MAX {
            match requests.try_recv() {
                Ok(request) => self.serve(request),
                Err(_) => return,
            }
        }
    }

    fn serve(&mut self, request: Request) {
        match request {
            Request::Subscribe { address, socket, outbox, deltas, confirmation } => {
                let channel = self.channels.entry(address.clone()).or_default();
                let form = channel.form(deltas);
                let subscriber = Subscriber { outbox, form, joined_at: None };
                self.subscribe(address, socket, Joiner { subscriber, confirmation, counted: false });
            }
            Request::Unsubscribe { address, socket } => self.unsubscribe(&address, socket),
            Request::ChangeForm { address, socket, deltas } => {
                let Some(channel) = self.channels.get_mut(&address) else { return };
                let form = channel.form(deltas);
                channel.hub.change_form(socket, form);
                if let Some(joiner) = channel.joining.get_mut(&socket) {
                    joiner.subscriber.form = form;
                }
            }
            Request::Resync { address, socket } => {
                if let Some(channel) = self.channels.get_mut(&address) {
                    channel.hub.resync(socket, channel.chain.next_index());
                }
            }
        }
    }

    fn subscribe(&mut self, address: Address, socket: SocketId, mut joiner: Joiner) {
        let channel = self.channels.get_mut(&address).expect("the caller has made it");
        channel.idle_since = None;
        if channel.hub.contains(socket) {
            // Again, while subscribed: answered, and a fresh start for deltas.
            send(&joiner.subscriber.outbox, joiner.confirmation, &mut self.woken);
            channel.hub.add(socket, joiner.subscriber);
            return;
        }
        if let Some(earlier) = channel.joining.remove(&socket) {
            joiner.confirmation = [earlier.confirmation, joiner.confirmation].concat().into();
            joiner.counted = earlier.counted;
        } else if self.joining >= limits::PENDING_MAX {
            metrics().pending_overflows.increment(1);
            joiner.subscriber.outbox.close(Close::OverCapacity);
            return;
        } else {
            self.joining += 1;
        }
        channel.joining.insert(socket, joiner);
        self.join(address);
    }

    /// The channel has joiners: has it listened to, then asserted.
    fn join(&mut self, address: Address) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        match channel.listening {
            Listening::Asked => {}
            Listening::Yes => self.queue_assertion(address),
            Listening::No => {
                channel.listening = Listening::Asked;
                let backend = self.backend.clone();
                self.calls.spawn(async move {
                    let result = backend.listen(&address).await;
                    Done::Listened(address, result)
                });
            }
        }
    }

    fn listened(&mut self, address: Address, result: Result<(), BackendError>) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        match result {
            Ok(()) => {
                channel.listening = Listening::Yes;
                self.queue_assertion(address);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "not listened to yet");
                channel.listening = Listening::No;
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, address));
            }
        }
    }

    fn unsubscribe(&mut self, address: &Address, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let was_joining = channel.joining.remove(&socket).is_some();
        self.joining -= usize::from(was_joining);
        if !was_joining && channel.hub.remove(socket).is_none() {
            return;
        }
        if channel.count() == 0 {
            channel.idle_since = Some(Instant::now());
            self.idle.push_back((Instant::now(), address.clone()));
        }
        self.queue_assertion(address.clone());
    }

    // --- what the cluster is told -------------------------------------------

    fn queue_assertion(&mut self, address: Address) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        if channel.membership.queued || channel.listening != Listening::Yes || !channel.needs_assertion() {
            return;
        }
        channel.membership.queued = true;
        match channel.joining.is_empty() {
            true => self.others.push_back(address),
            false => self.joins.push_back(address),
        }
    }

    fn start_assertions(&mut self) {
        if self.rested_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        while self.assertions < limits::ASSERTIONS_MAX {
            let Some(address) = self.joins.pop_front().or_else(|| self.others.pop_front()) else { return };
            let Some(channel) = self.channels.get_mut(&address) else { continue };
            channel.membership.queued = false;
            if !channel.needs_assertion() {
                continue;
            }
            let count = channel.begin_assertion();
            self.assertions += 1;
            let backend = self.backend.clone();
            self.calls.spawn(async move {
                let result = backend.assert_subscriptions(&address, count).await;
                Done::Asserted(address, count, result)
            });
        }
    }

    fn asserted(&mut self, address: Address, count: u64, result: Result<Asserted, BackendError>) {
        self.assertions -= 1;
        metrics().assertions.increment(1);
        let Some(channel) = self.channels.get_mut(&address) else { return };
        channel.membership.under_way = None;
        match result {
            Ok(asserted) => {
                channel.membership.asserted = Some(count);
                self.admit(&address, asserted.at);
                self.queue_assertion(address);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "membership not asserted");
                channel.assertion_failed(Instant::now());
                let retry = Instant::now() + limits::RETRY_DELAY;
                self.rested_until = Some(retry);
                self.retries.push_back((retry, address));
            }
        }
    }

    /// Lets everyone in whom the script has counted; it has said `at`.
    fn admit(&mut self, address: &Address, at: Position) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let held = match channel.order.position() {
            None => channel.order.adopt(at),
            Some(_) => VecDeque::new(),
        };
        let entry = channel.entry(at);
        channel.recent = None;
        let counted: Vec<SocketId> =
            channel.joining.iter().filter(|(_, joiner)| joiner.counted).map(|(socket, _)| *socket).collect();
        self.joining -= counted.len();
        for socket in counted {
            let joiner = channel.joining.remove(&socket).expect("it was just seen");
            enter(address, channel, socket, joiner, &entry, &self.delta, &mut self.woken);
        }
        self.hear_again(address, held);
    }

    /// After a reconnect, or when Redis may have lost its data.
    fn assert_all(&mut self) {
        self.asserted_all = Instant::now();
        self.rested_until = None;
        for channel in self.channels.values_mut() {
            channel.membership.stale = true;
        }
        let addresses: Vec<Address> = self.channels.keys().cloned().collect();
        for address in addresses {
            self.retry(address);
        }
    }

    // --- what is due ----------------------------------------------------------

    fn tick(&mut self) {
        let now = Instant::now();
        while self.retries.front().is_some_and(|(due, _)| *due <= now) {
            let (_, address) = self.retries.pop_front().expect("it was just seen");
            self.retry(address);
        }
        while self
            .suspects
            .front()
            .is_some_and(|(since, _, _)| now.duration_since(*since) >= limits::SUSPECT_DELAY)
        {
            let (_, address, id) = self.suspects.pop_front().expect("it was just seen");
            self.read_if_unheard(address, id);
        }
        self.forget_idle(now);
        let interval = match self.round_failed {
            true => limits::RETRY_DELAY,
            false => limits::POSITION_CHECK_INTERVAL * 4 / 5,
        };
        if self.checks.is_empty() && self.checking == 0 && now.duration_since(self.round_started) >= interval
        {
            self.repair_bytes = 0;
            self.check_all();
        }
        if now.duration_since(self.asserted_all) >= limits::ASSERT_INTERVAL {
            self.assert_all();
        }
        if now.duration_since(self.counted) >= limits::GAUGE_INTERVAL {
            self.counted = now;
            self.count();
        }
    }

    /// Whatever of this channel has failed before is tried again.
    fn retry(&mut self, address: Address) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        if channel.listening == Listening::No && !channel.joining.is_empty() {
            return self.join(address);
        }
        if channel.order.position().is_some() && channel.listening == Listening::Yes {
            self.checks.push_back(address.clone());
        }
        self.queue_assertion(address);
    }

    fn forget_idle(&mut self, now: Instant) {
        while self.idle.front().is_some_and(|(since, _)| now.duration_since(*since) >= limits::LINGER) {
            let (_, address) = self.idle.pop_front().expect("it was just seen");
            let Some(channel) = self.channels.get(&address) else { continue };
            if channel.is_forgettable(now) {
                if channel.listening == Listening::Yes {
                    self.backend.unlisten(&address);
                }
                self.channels.remove(&address);
            } else if channel.count() == 0 {
                // Not yet: something is under way. Looked at again.
                self.idle.push_back((now, address.clone()));
                self.queue_assertion(address);
            }
        }
    }

    /// Compares every channel with its head, from now on.
    fn check_all(&mut self) {
        self.round_started = Instant::now();
        self.round_failed = false;
        self.checks.clear();
        for (address, channel) in &mut self.channels {
            channel.order.forget(self.round_started);
            if channel.order.position().is_some() && channel.listening == Listening::Yes {
                self.checks.push_back(address.clone());
            }
        }
    }

    fn heads_read(&mut self, addresses: Vec<Address>, heads: Result<Vec<Option<Position>>, BackendError>) {
        self.checking -= 1;
        let Ok(heads) = heads else {
            self.round_failed = true;
            return;
        };
        metrics().position_checks.increment(addresses.len() as u64);
        let now = Instant::now();
        for (address, head) in addresses.into_iter().zip(heads) {
            let (Some(channel), Some(head)) = (self.channels.get_mut(&address), head) else { continue };
            if channel.order.position().is_some_and(|position| position.id == head.id) {
                channel.order.rename_epoch(head.epoch, head.seq);
            } else if !channel.order.has_handled(head.id) {
                self.suspects.push_back((now, address, head.id));
            }
        }
    }

    /// The head was ahead of us a moment ago, and what it has announced has not
    /// come: it was missed.
    fn read_if_unheard(&mut self, address: Address, id: AnnouncementId) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        if channel.order.has_handled(id) || !channel.order.begin_reading() {
            return;
        }
        metrics().gaps.increment(1);
        tracing::debug!(%address, "behind the head, reading the log");
        self.repairs.push_back(address);
    }

    fn count(&self) {
        let subscriptions: usize = self.channels.values().map(|channel| channel.hub.len()).sum();
        metrics().subscriptions.set(subscriptions as f64);
        metrics().channels.set(self.channels.len() as f64);
    }

    // --- calls ------------------------------------------------------------------

    fn start_calls(&mut self) {
        self.start_assertions();
        self.start_repairs();
        while self.checking < limits::POSITION_CHECKS_MAX && !self.checks.is_empty() {
            let count = self.checks.len().min(limits::POSITION_CHECK_CHANNELS);
            let addresses: Vec<Address> = self.checks.drain(..count).collect();
            self.checking += 1;
            let backend = self.backend.clone();
            self.calls.spawn(async move {
                let heads = backend.read_heads(&addresses).await;
                Done::HeadsRead(addresses, heads)
            });
        }
    }

    fn start_repairs(&mut self) {
        while self.repairing < limits::REPAIRS_MAX {
            let Some(address) = self.repairs.pop_front() else { return };
            let Some(channel) = self.channels.get(&address) else { continue };
            let after = channel.order.position().unwrap_or_default().id;
            let within_budget = self.repair_bytes < limits::REPAIR_BYTES_MAX;
            self.repairing += 1;
            let backend = self.backend.clone();
            self.calls.spawn(async move {
                if within_budget {
                    let log = backend.read_log(&address, after).await;
                    Done::LogRead(address, log)
                } else {
                    let heads = backend.read_heads(std::slice::from_ref(&address)).await;
                    Done::Skipped(address, heads)
                }
            });
        }
    }

    fn finish(&mut self, done: Done) {
        match done {
            Done::Listened(address, result) => self.listened(address, result),
            Done::Asserted(address, count, result) => self.asserted(address, count, result),
            Done::HeadsRead(addresses, heads) => self.heads_read(addresses, heads),
            Done::LogRead(address, log) => {
                self.repairing -= 1;
                self.log_read(&address, log);
            }
            Done::Skipped(address, heads) => {
                self.repairing -= 1;
                self.skipped(&address, heads);
            }
            Done::EpochOpened => {}
        }
    }
}

impl Channel {
    fn form(&self, deltas: bool) -> Form {
        match deltas {
            true => Form::Chained { holds_from: self.chain.next_index() },
            false => Form::Plain,
        }
    }

    /// What came before is not known: deltas start from a full event, and nobody
    /// waits for an announcement that will not come.
    fn start_anew(&mut self) {
        self.chain.restart();
        self.hub.stop_skipping(self.chain.next_index());
    }

    /// Counts everyone who is here or joining; returns the number to assert.
    fn begin_assertion(&mut self) -> u64 {
        for joiner in self.joining.values_mut() {
            joiner.counted = true;
        }
        let count = self.count();
        self.membership.under_way = Some(count);
        self.membership.stale = false;
        self.recent = self.order.position().map(|_| Recent::default());
        count
    }

    fn assertion_failed(&mut self, now: Instant) {
        for joiner in self.joining.values_mut() {
            joiner.counted = false;
        }
        self.recent = None;
        self.membership.stale = true;
        self.membership.doubtful_until = Some(now + limits::LOG_AGE_MAX);
    }
}

/// Rooms 6 and 7: frames once, then to everyone who is here.
fn deliver(
    address: &Address,
    channel: &mut Channel,
    announcement: &Announcement,
    delta: &DeltaConfig,
    woken: &mut Vec<Arc<Outbox>>,
) {
    if let Some(recent) = &mut channel.recent {
        recent.push(announcement.clone());
    }
    if channel.hub.is_empty() {
        channel.chain.restart();
        return;
    }
    let Some(events) = events(address, announcement) else { return channel.chain.restart() };
    let delivery = delivery(address, announcement, &events);
    let mut frames = fan_out::encode(&delivery, channel.hub.needs(), &mut channel.chain, delta);
    channel.hub.deliver(announcement.id, &mut frames, channel.chain.next_index(), woken);
}

/// A joiner is confirmed, gets what everyone else has had since its script, and
/// is live.
fn enter(
    address: &Address,
    channel: &mut Channel,
    socket: SocketId,
    joiner: Joiner,
    entry: &Entry,
    delta: &DeltaConfig,
    woken: &mut Vec<Arc<Outbox>>,
) {
    let mut subscriber = joiner.subscriber;
    send(&subscriber.outbox, joiner.confirmation, woken);
    match entry {
        Entry::After(id) => subscriber.joined_at = Some(*id),
        Entry::Now(missed) => {
            for announcement in missed {
                let Some(events) = events(address, announcement) else { continue };
                let chunk =
                    full_frames(&delivery(address, announcement, &events), socket, subscriber.form, delta);
                send(&subscriber.outbox, chunk, woken);
            }
        }
    }
    if let Form::Chained { holds_from } = &mut subscriber.form {
        *holds_from = channel.chain.next_index();
    }
    channel.hub.add(socket, subscriber);
}

/// A run in full for one socket, outside the channel's chain.
fn full_frames(delivery: &Delivery<'_>, socket: SocketId, form: Form, delta: &DeltaConfig) -> Bytes {
    let chained = matches!(form, Form::Chained { .. });
    let needs = Needs { plain: !chained, delta: chained };
    // Deltas within the run are made against its own first event.
    let mut frames = fan_out::encode(delivery, needs, &mut Chain::default(), delta);
    match chained {
        true => frames.chained_for(socket, &mut 0),
        false => frames.plain_for(socket),
    }
}

fn delivery<'a>(
    address: &'a Address,
    announcement: &Announcement,
    events: &'a [crate::event::Event],
) -> Delivery<'a> {
    Delivery {
        channel: address.channel(),
        first_seq: announcement.first_seq,
        time_ms: announcement.time_ms,
        events,
    }
}

fn events(address: &Address, announcement: &Announcement) -> Option<Vec<crate::event::Event>> {
    match announcement.events() {
        Ok(events) => Some(events),
        Err(error) => {
            metrics().announcements_unreadable.increment(1);
            tracing::warn!(%address, %error, "announcement not read");
            None
        }
    }
}

fn send(outbox: &Arc<Outbox>, chunk: Bytes, woken: &mut Vec<Arc<Outbox>>) {
    if !chunk.is_empty() && outbox.push(chunk) {
        woken.push(outbox.clone());
    }
}
