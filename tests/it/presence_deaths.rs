//! Members of a node that dies are gone within ten seconds (P5): rosters and counts
//! on all other nodes, one `member_removed` for each user, one webhook for each
//! user and each channel vacated; and a node that was only paused brings its
//! members back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::receiver::Call;
use crate::support::{
    AppSpec, Browser, Caller, Change, Observer, Receiver, Redis, Server, Signal, View, eventually,
};
use crate::witness::within;

/// The promise, on default settings.
const HEALED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);
const CHANNELS: usize = 100;
const USERS: usize = 10;
/// The first channels are watched on both other nodes.
const OBSERVED: usize = 60;
/// In the first channels some users, in the next ones one, has a tab elsewhere.
const SHARED: usize = 30;
const SHARED_ONE: usize = 70;
/// The node that dies.
const DYING: usize = 2;

fn channel(at: usize) -> String {
    format!("presence-{at}")
}

fn user(channel: usize, at: usize) -> String {
    format!("user-{channel}-{at}")
}

/// Users of the dying node in this channel who have a tab on another node.
fn shared(channel: usize) -> usize {
    match channel {
        ..SHARED => 3,
        OBSERVED..SHARED_ONE => 1,
        _ => 0,
    }
}

fn gone(channel: usize) -> BTreeSet<String> {
    (shared(channel)..USERS).map(|at| user(channel, at)).collect()
}

/// Of a channel: its users and how many subscriptions they have.
type Members = BTreeMap<String, (BTreeSet<String>, usize)>;

/// Everyone's, with or without those of the dying node. Vacated ones are not listed.
fn members(with_dying: bool) -> Members {
    let mut members = Members::new();
    for at in 0..CHANNELS {
        let observers = if at < OBSERVED { 2 } else { 0 };
        let mut users: BTreeSet<String> = (0..observers).map(|node| format!("observer-{node}")).collect();
        users.extend((0..shared(at)).map(|user_at| user(at, user_at)));
        let mut subscriptions = users.len();
        if with_dying {
            users.extend((0..USERS).map(|user_at| user(at, user_at)));
            subscriptions += USERS;
        }
        if subscriptions > 0 {
            members.insert(channel(at), (users, subscriptions));
        }
    }
    members
}

struct Stage {
    // Dropped in this order: sockets, nodes, Redis.
    observers: Vec<Observer>,
    /// Elsewhere, of users whom the dying node has as well.
    _tabs: Vec<Browser>,
    dying: Vec<(usize, Browser, View)>,
    nodes: Vec<Server>,
    receiver: Receiver,
    _redis: Redis,
    asides: usize,
}

async fn join(server: &Server, channel_at: usize, user_at: usize) -> (usize, Browser, View) {
    let mut browser = server.browser("key1").await;
    let user = user(channel_at, user_at);
    let presence = browser.join(&channel(channel_at), &user).await;
    (channel_at, browser, View::of_joining(&presence, &user).unwrap_or_else(|why| panic!("{why}")))
}

impl Stage {
    async fn set() -> Stage {
        let receiver = Receiver::start().await;
        let types = ["channel_occupied", "channel_vacated", "member_added", "member_removed"];
        let hook = format!("[{{ url = \"{}\", event_types = {} }}]", receiver.url(), json!(types));
        let redis = Redis::start().await;
        let node = Server::builder().app(AppSpec::new("1").set("webhooks", hook)).redis(&redis);
        let nodes = join_all((0..3).map(|n| node.clone().name(&format!("node {n}")).start())).await;
        let observed: Vec<String> = (0..OBSERVED).map(channel).collect();
        let mut observers = Vec::new();
        for (at, node) in nodes[..2].iter().enumerate() {
            observers.push(Observer::join(node, &observed, &format!("observer-{at}")).await);
        }
        let all = (0..CHANNELS).flat_map(|at| (0..USERS).map(move |user_at| (at, user_at)));
        let shared: Vec<_> = all.clone().filter(|(at, user_at)| *user_at < shared(*at)).collect();
        // Not all at once: the backlog of a listener is finite.
        let tabs = futures_util::stream::iter(shared).map(|(at, user_at)| join(&nodes[at % 2], at, user_at));
        let tabs = tabs.buffer_unordered(64).map(|(_, tab, _)| tab).collect().await;
        let dying = futures_util::stream::iter(all).map(|(at, user_at)| join(&nodes[DYING], at, user_at));
        let dying = dying.buffer_unordered(64).collect().await;
        let mut stage = Stage { observers, _tabs: tabs, dying, nodes, receiver, _redis: redis, asides: 0 };
        stage.members_become(&[0, 1, 2], &members(true), Instant::now() + HEALED).await;
        stage.observers_are_told().await;
        stage
    }

    /// These nodes say in time that exactly these are there. The time is that of the
    /// counts: reading so many rosters takes a while, and all of them are right then.
    async fn members_become(&self, nodes: &[usize], members: &Members, deadline: Instant) {
        let counts = |(channel, (users, subscriptions)): (&String, &(BTreeSet<String>, usize))| {
            (channel.clone(), json!({ "user_count": users.len(), "subscription_count": subscriptions }))
        };
        let counts = Value::Object(members.iter().map(counts).collect());
        let patience = deadline.saturating_duration_since(Instant::now());
        let waits = nodes.iter().map(async |node: &usize| {
            let caller = self.nodes[*node].caller("1");
            eventually(&format!("the counts of node {node}"), patience, async || {
                match counted(&caller).await {
                    now if now == counts => Ok(()),
                    now => Err(now.to_string()),
                }
            })
            .await;
            caller
        });
        let callers = join_all(waits).await;
        assert!(Instant::now() <= deadline, "{:?} late", deadline.elapsed());
        for (node, caller) in nodes.iter().zip(callers) {
            for at in 0..CHANNELS {
                let expected = members.get(&channel(at)).map(|(users, _)| users.clone()).unwrap_or_default();
                assert_eq!(roster(&caller, &channel(at)).await, expected, "{} at node {node}", channel(at));
            }
        }
    }

    /// What has been announced so far, observers have heard.
    async fn observers_are_told(&mut self) {
        self.asides += 1;
        let event = format!("aside-{}", self.asides);
        self.publish_to_all(&event).await;
        for observer in &self.observers {
            for at in 0..OBSERVED {
                observer.heard(&channel(at), &event).await;
            }
        }
    }

    async fn publish_to_all(&self, event: &str) {
        let event = |at| json!({ "name": event, "channel": channel(at), "data": "" });
        let events: Vec<Value> = (0..CHANNELS).map(event).collect();
        for some in events.chunks(10) {
            self.nodes[0].caller("1").post_batch(some.into()).await.expect_ok();
        }
    }

    /// What each observer was told of a channel, after so many changes.
    fn told_since(&self, before: &[Vec<usize>]) -> Vec<Vec<Vec<Change>>> {
        let told = |(observer, before): (&Observer, &Vec<usize>)| {
            (0..OBSERVED).map(|at| observer.changes(&channel(at)).split_off(before[at])).collect()
        };
        self.observers.iter().zip(before).map(told).collect()
    }

    fn told_so_far(&self) -> Vec<Vec<usize>> {
        let told =
            |observer: &Observer| (0..OBSERVED).map(|at| observer.changes(&channel(at)).len()).collect();
        self.observers.iter().map(told).collect()
    }

    /// Someone joins each channel: webhooks of a channel come in order, so that what
    /// is told of him comes after everything that was decided before. Then it is
    /// compared with what should have been told.
    async fn webhooks_are(&self, expected: &BTreeMap<(String, String), usize>, last: &str) {
        let mut sentinel = self.nodes[0].browser("key1").await;
        for at in 0..CHANNELS {
            sentinel.join(&channel(at), last).await;
        }
        let is_last = |event: &&Value| event["user_id"] == last && event["name"] == "member_added";
        let what = "the last webhook of each channel";
        self.receiver
            .until(what, |calls| {
                let channels: BTreeSet<String> =
                    taken(calls).iter().filter(is_last).map(|event| event["channel"].to_string()).collect();
                channels.len() == CHANNELS
            })
            .await;
        assert_eq!(&told_of(&self.receiver.events()), expected);
    }
}

/// Counts of all channels of presence.
async fn counted(caller: &Caller) -> Value {
    let query = [("filter_by_prefix", "presence-"), ("info", "user_count,subscription_count")];
    caller.get("/channels", &query).await.expect_ok()["channels"].take()
}

async fn roster(caller: &Caller, channel: &str) -> BTreeSet<String> {
    let users = caller.get(&format!("/channels/{channel}/users"), &[]).await.expect_ok();
    let users = users["users"].as_array().expect("users are an array");
    users.iter().map(|user| user["id"].as_str().expect("an id is a string").to_owned()).collect()
}

/// Events of all calls that were answered with 2xx.
fn taken(calls: &[Call]) -> Vec<Value> {
    calls.iter().filter(|call| call.is_taken()).flat_map(Call::events).collect()
}

/// How often it was told that a user is gone, or a channel vacated; what came twice
/// with one id was told once.
fn told_of(events: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut ids = BTreeSet::new();
    let mut told = BTreeMap::new();
    for event in events {
        let name = event["name"].as_str().expect("a name");
        let is_new = ids.insert(event["id"].as_str().expect("an id").to_owned());
        if is_new && ["member_removed", "channel_vacated"].contains(&name) {
            let user = event["user_id"].as_str().unwrap_or(name);
            *told
                .entry((event["channel"].as_str().expect("a channel").to_owned(), user.to_owned()))
                .or_default() += 1;
        }
    }
    told
}

/// Once for each user gone and each channel vacated.
fn all_gone() -> BTreeMap<(String, String), usize> {
    let mut told = BTreeMap::new();
    for at in 0..CHANNELS {
        told.extend(gone(at).into_iter().map(|user| ((channel(at), user), 1)));
    }
    let vacated = (SHARED_ONE..CHANNELS).map(|at| ((channel(at), "channel_vacated".to_owned()), 1));
    told.extend(vacated);
    told
}

fn removed(changes: &[Change]) -> BTreeSet<String> {
    let removed = |change: &Change| match change {
        Change::Removed(user) => Some(user.clone()),
        Change::Added(_) => None,
    };
    changes.iter().filter_map(removed).collect()
}

fn added(changes: &[Change]) -> BTreeSet<String> {
    let added = |change: &Change| match change {
        Change::Added(user) => Some(user.clone()),
        Change::Removed(_) => None,
    };
    changes.iter().filter_map(added).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_loses_the_members_of_a_killed_node_once() {
    within(LIMIT, async {
        let mut stage = Stage::set().await;
        let before = stage.told_so_far();
        stage.nodes[DYING].kill9();
        let killed = Instant::now();
        stage.members_become(&[0, 1], &members(false), killed + HEALED).await;
        println!("counts and rosters exact on both survivors {:?} after the kill", killed.elapsed());
        stage.observers_are_told().await;
        for told in stage.told_since(&before) {
            for (at, changes) in told.iter().enumerate() {
                assert_eq!(changes.len(), USERS - shared(at), "{}: {changes:?}", channel(at));
                assert_eq!(removed(changes), gone(at), "{}", channel(at));
            }
        }
        let expected = all_gone();
        let all = |calls: &[Call]| told_of(&taken(calls)).len() >= expected.len();
        stage.receiver.until("a webhook for each user gone and channel vacated", all).await;
        println!("{} webhooks came {:?} after the kill", expected.len(), killed.elapsed());
        stage.webhooks_are(&expected, "sentinel").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_gets_the_members_of_a_paused_node_back_once() {
    within(LIMIT, async {
        let mut stage = Stage::set().await;
        let before = stage.told_so_far();
        stage.nodes[DYING].signal(Signal::Stop);
        let stopped = Instant::now();
        stage.members_become(&[0, 1], &members(false), stopped + HEALED).await;
        println!("counts and rosters exact on both survivors {:?} after the stop", stopped.elapsed());
        let expected = all_gone();
        let all = |calls: &[Call]| told_of(&taken(calls)).len() >= expected.len();
        stage.receiver.until("a webhook for each user gone and channel vacated", all).await;

        stage.nodes[DYING].signal(Signal::Continue);
        let resumed = Instant::now();
        stage.members_become(&[0, 1, 2], &members(true), resumed + HEALED).await;
        println!("counts and rosters exact on all nodes {:?} after it went on", resumed.elapsed());
        stage.observers_are_told().await;
        for told in stage.told_since(&before) {
            for (at, changes) in told.iter().enumerate() {
                let (went, came) = changes.split_at(gone(at).len());
                assert_eq!(removed(went), gone(at), "{}: {changes:?}", channel(at));
                assert_eq!((came.len(), added(came)), (went.len(), gone(at)), "{}: {changes:?}", channel(at));
            }
        }
        // Its sockets never knew, and see who is there.
        let members = members(true);
        stage.publish_to_all("end").await;
        for (at, browser, view) in &mut stage.dying {
            loop {
                let frame = browser.next().await;
                if frame.event == "end" {
                    break;
                }
                view.take(&frame).unwrap_or_else(|why| panic!("{}: {why}", channel(*at)));
            }
            assert_eq!(view.ids, members[&channel(*at)].0, "{}", channel(*at));
        }
        stage.webhooks_are(&expected, "sentinel").await;
        let lost = stage.nodes[DYING].metrics().await.sum("fanfare_leases_lost_total");
        assert_eq!(lost, 1.0);
        // They are its members under its new name alone.
        stage.dying.clear();
        stage.observers.clear();
        let caller = stage.nodes[0].caller("1");
        for at in [0, SHARED, OBSERVED, SHARED_ONE] {
            caller.count_becomes(&channel(at), shared(at)).await;
        }
    })
    .await;
}
