//! Random interleavings of commands, entries, results of jobs, failures and timers on one
//! channel, against a model of the shared state.
//!
//! `PROPTEST_CASES` sets the number of schedules, `FANFARE_TEST_SEED` repeats a run.

mod connection;
mod model;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use tokio::sync::Semaphore;

use super::super::context::{Context, Effects, Timer};
use super::super::handle::{ChannelCommand, Confirmation, Subscribe};
use super::super::job::{Job, JobKind, JobResult};
use super::{Channel, Reconciliation};
use crate::app::{App, AppFeatures, AppLimits, AppRates};
use crate::channel::ChannelId;
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDeltas;
use crate::delta::settings::{DeltaConfig, MarkerStyle};
use crate::encode::DeliveryOptions;
use crate::event::{Event, SocketId};
use crate::presence::Member;
use crate::resume_tokens::ResumeTokens;
use crate::sockets::subscription_permit::SubscriptionPermits;
use crate::subscribers::test_client::Client;
use crate::wire::event_prefix::EventPrefix;
use connection::Connection;
use model::{Backend, failed};

const SOCKETS: u8 = 5;

#[derive(Debug, Clone)]
enum Step {
    Subscribe(u8, Options),
    Unsubscribe(u8),
    EnableDeltas(u8),
    Resync(u8),
    Publish(u8),
    /// A user joins (true) or leaves on another node.
    Other(u8, bool),
    /// The next entry on the link arrives, is lost, or arrives twice.
    Arrive,
    Lose,
    Repeat,
    /// The n-th queued job starts, is executed, returns, or fails.
    Start(u8),
    Execute(u8),
    Return(u8),
    Fail(u8),
    Fire(u8),
    CheckHead,
    /// Redis loses all data, and the node notices.
    Flush,
    /// Redis restarts without its last entries, up to this number, and the node notices.
    Restart(u8),
    /// The app may, or may not, occupy another channel.
    Full(bool),
}

#[derive(Debug, Clone, Copy)]
struct Options {
    deltas: bool,
    positions: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let options =
        (any::<bool>(), any::<bool>()).prop_map(|(deltas, positions)| Options { deltas, positions });
    prop_oneof![
        6 => (0..SOCKETS, options).prop_map(|(socket, options)| Step::Subscribe(socket, options)),
        3 => (0..SOCKETS).prop_map(Step::Unsubscribe),
        1 => (0..SOCKETS).prop_map(Step::EnableDeltas),
        1 => (0..SOCKETS).prop_map(Step::Resync),
        8 => (1_u8..4).prop_map(Step::Publish),
        2 => (0_u8..4, any::<bool>()).prop_map(|(user, joins)| Step::Other(user, joins)),
        12 => Just(Step::Arrive),
        2 => Just(Step::Lose),
        2 => Just(Step::Repeat),
        10 => (0_u8..4).prop_map(Step::Start),
        10 => (0_u8..4).prop_map(Step::Execute),
        10 => (0_u8..4).prop_map(Step::Return),
        2 => (0_u8..4).prop_map(Step::Fail),
        4 => (0_u8..5).prop_map(Step::Fire),
        1 => Just(Step::CheckHead),
        1 => Just(Step::Flush),
        2 => (0_u8..3).prop_map(Step::Restart),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

/// The setting of one schedule.
#[derive(Debug, Clone)]
struct Setup {
    is_presence: bool,
    /// Entries in the history.
    log_max: usize,
    members_max: usize,
    /// New subscribers receive initial bases.
    cache_sync: bool,
}

fn setup() -> impl Strategy<Value = Setup> {
    let log_max = prop_oneof![4 => Just(1_000_usize), 1 => 1_usize..6];
    let members_max = prop_oneof![3 => Just(100_usize), 1 => 1_usize..4];
    let setups = (any::<bool>(), log_max, members_max, any::<bool>());
    setups.prop_map(|(is_presence, log_max, members_max, cache_sync)| Setup {
        is_presence,
        log_max,
        members_max,
        cache_sync,
    })
}

/// A job in flight. `result` is set when the backend has executed it.
#[derive(Debug)]
struct InFlight {
    job: Job,
    result: Option<JobResult>,
}

struct World {
    setup: Setup,
    app: Arc<App>,
    config: DeltaConfig,
    permits: Arc<Semaphore>,
    now: Instant,
    backend: Backend,
    channel: Option<Channel>,
    effects: Effects,
    queued: Vec<JobKind>,
    in_flight: Vec<InFlight>,
    timers: Vec<Timer>,
    connections: BTreeMap<u8, Connection>,
    published: u64,
    /// Redis has lost entries.
    has_lost: bool,
    /// Entries that Redis has lost may be on the link: new subscribers receive them.
    are_lost_in_flight: bool,
}

fn socket(n: u8) -> SocketId {
    SocketId::parse(&format!("1.{n}")).expect("a socket id")
}

fn user(n: u8) -> String {
    format!("u{}", n / 2)
}

impl World {
    fn new(setup: Setup) -> World {
        let app = App {
            id: "1".into(),
            key: "key".into(),
            secrets: Vec::new(),
            enabled: true,
            limits: AppLimits { presence_members_max: setup.members_max, ..AppLimits::default() },
            rates: AppRates::default(),
            features: AppFeatures { subscription_counts: true, ..AppFeatures::default() },
            origins: Vec::new(),
            webhooks: Vec::new(),
            deltas: ChannelDeltas::default(),
            metrics: Arc::default(),
        };
        World {
            app: Arc::new(app),
            config: DeltaConfig {
                min_message_bytes: 40,
                cache_sync: setup.cache_sync,
                ..DeltaConfig::default()
            },
            permits: Arc::new(Semaphore::new(1_000)),
            now: Instant::now(),
            backend: Backend::new(setup.is_presence, setup.log_max, setup.members_max),
            channel: None,
            effects: Effects::default(),
            queued: Vec::new(),
            in_flight: Vec::new(),
            timers: Vec::new(),
            connections: BTreeMap::new(),
            published: 0,
            // A short history does not reach back to a gap.
            has_lost: setup.log_max < 100,
            are_lost_in_flight: false,
            setup,
        }
    }

    fn id(&self) -> ChannelId {
        ChannelId::from_wire(if self.setup.is_presence { "1:presence-c" } else { "1:c" })
            .expect("a channel id")
    }

    /// Calls an entry point and executes its effects, as the actor does.
    fn enter<T>(&mut self, call: impl FnOnce(&mut Channel, &mut Context<'_>) -> T) -> Option<T> {
        let mut context = Context {
            now: self.now,
            channels_of_app: None,
            config: &self.config,
            resume_tokens: &ResumeTokens::new(),
            may_read_histories: true,
            is_backlogged: false,
            app_filters: &mut HashMap::new(),
            effects: &mut self.effects,
        };
        let result = call(self.channel.as_mut()?, &mut context);
        for (kind, _) in self.effects.jobs.drain(..) {
            if !self.queued.contains(&kind) {
                self.queued.push(kind);
            }
        }
        self.timers.extend(self.effects.timers.drain(..).map(|(timer, _)| timer));
        self.effects.to_flush.clear();
        if std::mem::take(&mut self.effects.removes) {
            self.channel = None;
            self.backend.unlisten();
        }
        self.read();
        Some(result)
    }

    fn command(&mut self, command: ChannelCommand) {
        self.enter(|channel, context| channel.on_command(command, context));
    }

    fn step(&mut self, step: &Step) {
        self.now += Duration::from_millis(1);
        match *step {
            Step::Subscribe(n, options) => self.subscribe(n, options),
            Step::Unsubscribe(n) => {
                self.command(ChannelCommand::Unsubscribe { socket: socket(n) });
                self.connections.remove(&n);
            }
            Step::EnableDeltas(n) => {
                let Some(connection) = self.connections.get_mut(&n).filter(|it| it.is_subscribed) else {
                    return;
                };
                if connection.client.options.algorithm.is_none() {
                    connection.client.options.algorithm = Some(Algorithm::Fossil);
                    let algorithm = Algorithm::Fossil;
                    self.command(ChannelCommand::EnableDeltas { socket: socket(n), algorithm });
                }
            }
            Step::Resync(n) => {
                if let Some(connection) = self.connections.get_mut(&n) {
                    connection.client.bases.clear();
                    self.command(ChannelCommand::Resync { socket: socket(n) });
                }
            }
            Step::Publish(count) => self.publish(count),
            Step::Other(n, joins) => {
                if self.setup.is_presence {
                    self.backend.other(&user(n), joins);
                }
            }
            Step::Arrive => self.arrive(1),
            Step::Repeat => self.arrive(2),
            Step::Lose => drop(self.backend.link.pop_front()),
            Step::Start(n) => self.start(n),
            Step::Execute(n) => self.execute(n),
            Step::Return(n) => self.finish(n),
            Step::Fail(n) => {
                if let Some(InFlight { job, .. }) = take(&mut self.in_flight, n) {
                    self.enter(|channel, context| channel.on_job_done(failed(job), context));
                }
            }
            Step::Fire(n) => {
                if let Some(timer) = take(&mut self.timers, n) {
                    self.fire(timer);
                }
            }
            Step::CheckHead => self.check_head(),
            Step::Flush => self.flush(),
            Step::Restart(lost) => self.restart(lost),
            Step::Full(is_full) => self.backend.is_full = is_full,
        }
    }

    fn subscribe(&mut self, n: u8, Options { deltas, positions }: Options) {
        let options = DeliveryOptions {
            event_prefix: EventPrefix::Pusher,
            algorithm: deltas.then_some(Algorithm::Fossil),
            positions,
            filter: None,
        };
        let published = self.published;
        let connection = self.connections.entry(n).or_insert_with(|| Connection {
            client: Client {
                write_buffer: Arc::default(),
                options: options.clone(),
                style: MarkerStyle::Underscore,
                bases: Default::default(),
                received: Vec::new(),
                position: 0,
            },
            is_subscribed: false,
            unconfirmed: 0,
            is_confirmed: false,
            published_before: if self.are_lost_in_flight { 0 } else { published },
            published_unconfirmed: published,
            last_event: None,
            may_miss: self.setup.log_max < 100,
            may_be_notified: self.has_lost,
            roster: BTreeSet::new(),
            attempt: 0,
            position: (0, 0),
        });
        if !connection.is_subscribed {
            connection.published_before = if self.are_lost_in_flight { 0 } else { published };
            connection.published_unconfirmed = published;
        }
        connection.is_subscribed = true;
        connection.unconfirmed += 1;
        connection.attempt += 1;
        // A command replaces the options, and the bases, of an earlier one.
        connection.client.options = options.clone();
        connection.client.bases.clear();
        let subscribe = Subscribe {
            app: self.app.clone(),
            socket: socket(n),
            write_buffer: connection.client.write_buffer.clone(),
            options,
            filter: None,
            resume: None,
            member: self.setup.is_presence.then(|| Arc::new(Member::new(user(n).into(), "null".into()))),
            confirmation: Confirmation::Subscription { deltas: None },
            attempt: connection.attempt,
            permit: SubscriptionPermits::new(self.permits.clone()).try_acquire(),
        };
        let id = self.id();
        self.channel.get_or_insert_with(|| Channel::new(id));
        self.command(ChannelCommand::Subscribe(Box::new(subscribe)));
    }

    fn publish(&mut self, count: u8) {
        let events: Vec<Event> = (0..count)
            .map(|_| {
                self.published += 1;
                let text = "x".repeat(300);
                Event::new("e", format!(r#"{{"n":{},"text":"{text}"}}"#, self.published))
            })
            .collect();
        for connection in self.connections.values_mut().filter(|connection| !connection.is_confirmed) {
            connection.published_unconfirmed = self.published;
        }
        self.backend.publish(&events);
    }

    fn arrive(&mut self, times: usize) {
        let Some(entry) = self.backend.link.pop_front() else { return };
        for _ in 0..times {
            let entry = entry.clone();
            self.enter(|channel, context| channel.on_entry(entry, context));
        }
    }

    fn start(&mut self, n: u8) {
        let Some(kind) = take(&mut self.queued, n) else { return };
        if kind == JobKind::CheckHead {
            return self.check_head();
        }
        if let Some(Some(job)) = self.enter(|channel, context| channel.prepare(kind, context)) {
            self.in_flight.push(InFlight { job, result: None });
        }
    }

    fn execute(&mut self, n: u8) {
        let count = self.in_flight.len();
        if count > 0 {
            let InFlight { job, result } = &mut self.in_flight[n as usize % count];
            if result.is_none() {
                *result = Some(self.backend.execute(job));
            }
        }
    }

    /// Returns the result of a job that was executed.
    fn finish(&mut self, n: u8) {
        let count = self.in_flight.len();
        if count == 0 || self.in_flight[n as usize % count].result.is_none() {
            return;
        }
        let InFlight { result, .. } = self.in_flight.remove(n as usize % count);
        let result = result.expect("an executed job");
        self.enter(|channel, context| channel.on_job_done(result, context));
    }

    fn fire(&mut self, timer: Timer) {
        self.now += Duration::from_secs(5);
        self.enter(|channel, context| channel.on_timer(timer, context));
    }

    fn check_head(&mut self) {
        let head = self.backend.head();
        if self.enter(|channel, context| channel.begin_head_check(context)) == Some(true) {
            let result = JobResult::HeadChecked(Ok(head));
            self.enter(|channel, context| channel.on_job_done(result, context));
        }
    }

    fn flush(&mut self) {
        self.backend.flush();
        self.lose();
        self.enter(|channel, context| channel.on_reconciliation(Reconciliation::MembersLost, context));
    }

    fn restart(&mut self, lost: u8) {
        if self.backend.restart(lost) {
            self.are_lost_in_flight = true;
            self.lose();
        }
        self.enter(|channel, context| channel.on_reconciliation(Reconciliation::MembersLost, context));
    }

    /// Redis has lost entries.
    fn lose(&mut self) {
        self.has_lost = true;
        for connection in self.connections.values_mut() {
            (connection.may_miss, connection.may_be_notified) = (true, true);
            if self.are_lost_in_flight && !connection.is_confirmed {
                connection.published_before = 0;
            }
        }
    }

    /// Everything that is in flight arrives, and nothing fails any more.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 200, "the channel does not settle: {:?} {:?}", self.queued, self.timers);
            self.check_head();
            while !self.backend.link.is_empty() {
                self.arrive(1);
            }
            while !self.queued.is_empty() {
                self.start(0);
            }
            while !self.in_flight.is_empty() {
                self.execute(0);
                self.finish(0);
            }
            let due = std::mem::take(&mut self.timers);
            let is_settled = due.iter().all(|timer| *timer == Timer::Linger);
            if is_settled && self.queued.is_empty() && self.backend.link.is_empty() {
                self.timers = due;
                return;
            }
            for timer in due {
                self.fire(timer);
            }
        }
    }

    /// Reads the frames of all clients and checks their order.
    fn read(&mut self) {
        for (n, connection) in &mut self.connections {
            for rejection in connection.client.write_buffer.take_rejections() {
                if rejection.attempt == connection.attempt {
                    connection.is_subscribed = false;
                }
            }
            connection.client.read();
            let received = std::mem::take(&mut connection.client.received);
            for (name, data) in received {
                connection.check_frame(*n, &name, &data);
            }
        }
    }

    /// Checks the final state, when everything has arrived.
    fn check(&mut self) {
        let roster: BTreeSet<String> =
            self.backend.roster().iter().map(|(user, _)| user.to_string()).collect();
        let subscribed = self.connections.values().filter(|connection| connection.is_subscribed).count();
        assert_eq!(self.backend.count, subscribed as u64, "subscriptions reported to the cluster");
        assert_eq!(self.permits.available_permits(), 1_000, "no subscription is pending");
        let connections = self.connections.iter().filter(|(_, connection)| connection.is_subscribed);
        let mut users: BTreeMap<String, u64> = BTreeMap::new();
        for (n, connection) in connections {
            assert_eq!(connection.unconfirmed, 0, "socket {n}: commands without confirmation");
            if connection.published_unconfirmed < self.published {
                assert_eq!(connection.last_event, Some(self.published), "socket {n}: the last event");
            }
            *users.entry(user(*n)).or_default() += 1;
            if self.setup.is_presence {
                assert_eq!(connection.roster, roster, "socket {n}: the roster");
            }
        }
        if self.setup.is_presence {
            let reported: BTreeMap<String, u64> =
                self.backend.users.iter().map(|(user, count)| (user.to_string(), *count)).collect();
            assert_eq!(reported, users, "users reported to the cluster");
        }
    }
}

fn take<T>(from: &mut Vec<T>, n: u8) -> Option<T> {
    let count = from.len();
    (count > 0).then(|| from.remove(n as usize % count))
}

fn run(setup: Setup, steps: &[Step]) {
    let mut world = World::new(setup);
    for step in steps {
        world.step(step);
    }
    world.settle();
    for (n, connection) in world.connections.iter().filter(|(_, connection)| connection.is_subscribed) {
        assert_eq!(connection.unconfirmed, 0, "socket {n}: commands without confirmation");
    }
    // Every subscriber is confirmed now, so this one must reach all of them.
    world.publish(1);
    world.settle();
    world.check();
    for n in 0..SOCKETS {
        world.step(&Step::Unsubscribe(n));
    }
    world.settle();
    world.check();
}

/// Promises P4 to P6 for one node and one channel: whatever arrives when, every subscriber
/// is confirmed once for each command, receives each event after its position once and in
/// order, and knows the roster; the cluster knows the node's numbers.
#[test]
fn every_interleaving_ends_in_the_same_state() {
    let seed = std::env::var("FANFARE_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("FANFARE_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&u64::to_le_bytes(seed));
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(5_000);
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let schedules = (setup(), proptest::collection::vec(step(), 1..80));
    let result = runner.run(&schedules, |(setup, steps)| {
        run(setup, &steps);
        Ok::<(), TestCaseError>(())
    });
    if let Err(error) = result {
        panic!("FANFARE_TEST_SEED={seed}\n{error}");
    }
}

/// Redis has lost the member, and the node has read the roster without it, when the subscription
/// restarts with deltas: the entry that adds the member again must reach the client.
#[test]
fn subscription_that_restarts_after_a_data_loss_receives_its_own_member() {
    let job = |queued: u8| [Step::Start(queued), Step::Execute(0), Step::Return(0)];
    let mut steps = vec![Step::Subscribe(2, Options { deltas: false, positions: false })];
    steps.extend([job(0), job(0), job(0)].into_iter().flatten());
    steps.extend([Step::Flush, Step::Fire(0)]);
    steps.extend(job(2));
    steps.push(Step::EnableDeltas(2));
    run(Setup { is_presence: true, log_max: 1_000, members_max: 100, cache_sync: false }, &steps);
}

/// A subscription that is to restart with deltas waits for the initial bases of the channel: a
/// member that joins meanwhile must reach the client.
#[test]
fn subscription_that_waits_for_initial_bases_receives_member_changes() {
    let job = [Step::Start(0), Step::Execute(0), Step::Return(0)];
    let mut steps = vec![Step::Subscribe(2, Options { deltas: false, positions: true })];
    steps.extend([job.clone(), job.clone(), job].into_iter().flatten());
    steps.extend([Step::Arrive, Step::EnableDeltas(2), Step::Other(0, true), Step::Arrive]);
    run(Setup { is_presence: true, log_max: 1_000, members_max: 100, cache_sync: true }, &steps);
}

/// The entry before which a subscription was counted has not arrived, the history cannot be read, and
/// then Redis has lost the entry.
#[test]
fn subscription_whose_position_is_lost_is_confirmed() {
    let options = Options { deltas: false, positions: true };
    let job = [Step::Start(0), Step::Execute(0), Step::Return(0)];
    let mut steps = vec![Step::Subscribe(0, options)];
    steps.extend([job.clone(), job.clone()].into_iter().flatten());
    steps.extend([Step::Arrive, Step::Subscribe(2, options)]);
    steps.extend(job);
    steps.extend([Step::Lose, Step::Fire(0), Step::Start(0), Step::Fail(0), Step::Restart(1)]);
    for log_max in [1_000, 1] {
        run(Setup { is_presence: false, log_max, members_max: 100, cache_sync: false }, &steps);
    }
}
