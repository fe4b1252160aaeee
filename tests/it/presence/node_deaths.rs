//! The members of a dead node are removed within ten seconds (P5): from rosters and
//! counts on all other nodes, with one `member_removed` per user, and one webhook event
//! per user and per vacated channel. A node that was only paused adds its members again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::receiver::Call;
use crate::support::{
    AppSpec, Backend, Browser, Caller, Change, Cluster, Observer, Receiver, Server, Signal, View, eventually,
    within,
};

/// The bound of P5 on default settings.
const REMOVED_WITHIN: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);
const CHANNELS: usize = 100;
const USERS: usize = 10;
/// Channels 0 to `OBSERVED` have an observer on each of the other nodes.
const OBSERVED: usize = 60;
/// In channels 0 to `SHARED`, three users have a tab on another node; in channels
/// `OBSERVED` to `SHARED_ONE`, one user has.
const SHARED: usize = 30;
const SHARED_ONE: usize = 70;
/// Index of the node that is killed or paused.
const DYING: usize = 2;

fn channel(at: usize) -> String {
    format!("presence-{at}")
}

fn user(channel: usize, at: usize) -> String {
    format!("user-{channel}-{at}")
}

/// How many users of the dying node have a tab on another node, in this channel.
fn shared(channel: usize) -> usize {
    match channel {
        ..SHARED => 3,
        OBSERVED..SHARED_ONE => 1,
        _ => 0,
    }
}

/// Users of the dying node without a tab on another node.
fn only_on_dying(channel: usize) -> BTreeSet<String> {
    (shared(channel)..USERS).map(|at| user(channel, at)).collect()
}

/// Users and number of subscriptions, by channel.
type Expected = BTreeMap<String, (BTreeSet<String>, usize)>;

/// The expected members of all occupied channels, with or without the dying node's.
fn members(with_dying: bool) -> Expected {
    let mut members = Expected::new();
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

/// The members of the presence channels, on three nodes.
struct Members {
    // Dropped in this order: sockets, then the cluster.
    observers: Vec<Observer>,
    /// On other nodes, of users that the dying node has as well.
    _tabs: Vec<Browser>,
    dying: Vec<(usize, Browser, View)>,
    cluster: Cluster,
    receiver: Receiver,
    markers: usize,
}

async fn join(server: &Server, channel_at: usize, user_at: usize) -> (usize, Browser, View) {
    let mut browser = server.browser("key1").await;
    let user = user(channel_at, user_at);
    let presence = browser.join(&channel(channel_at), &user).await;
    (channel_at, browser, View::of_joining(&presence, &user).unwrap_or_else(|why| panic!("{why}")))
}

impl Members {
    async fn start() -> Members {
        let receiver = Receiver::start().await;
        let types = ["channel_occupied", "channel_vacated", "member_added", "member_removed"];
        let hook = format!("[{{ url = \"{}\", event_types = {} }}]", receiver.url(), json!(types));
        let app = AppSpec::new("1").set("webhooks", hook);
        let cluster = Cluster::builder(Backend::Redis).nodes(3).app(app).quick_detection().start().await;
        let nodes = &cluster.nodes;
        let observed: Vec<String> = (0..OBSERVED).map(channel).collect();
        let mut observers = Vec::new();
        for (at, node) in nodes[..2].iter().enumerate() {
            observers.push(Observer::join(node, &observed, &format!("observer-{at}")).await);
        }
        let all = (0..CHANNELS).flat_map(|at| (0..USERS).map(move |user_at| (at, user_at)));
        let shared: Vec<_> = all.clone().filter(|(at, user_at)| *user_at < shared(*at)).collect();
        // In groups: the backlog of a listener is finite.
        let tabs = futures_util::stream::iter(shared).map(|(at, user_at)| join(&nodes[at % 2], at, user_at));
        let tabs = tabs.buffer_unordered(64).map(|(_, tab, _)| tab).collect().await;
        let dying = futures_util::stream::iter(all).map(|(at, user_at)| join(&nodes[DYING], at, user_at));
        let dying = dying.buffer_unordered(64).collect().await;
        let mut present = Members { observers, _tabs: tabs, dying, cluster, receiver, markers: 0 };
        present.members_become(&[0, 1, 2], &members(true), Instant::now() + REMOVED_WITHIN).await;
        present.observers_catch_up().await;
        present
    }

    /// Waits until these nodes return exactly these members. The deadline applies to the
    /// counts; the rosters, which take longer to read, must be right afterwards.
    async fn members_become(&self, nodes: &[usize], members: &Expected, deadline: Instant) {
        let counts = |(channel, (users, subscriptions)): (&String, &(BTreeSet<String>, usize))| {
            (channel.clone(), json!({ "user_count": users.len(), "subscription_count": subscriptions }))
        };
        let counts = Value::Object(members.iter().map(counts).collect());
        let timeout = deadline.saturating_duration_since(Instant::now());
        let waits = nodes.iter().map(async |node: &usize| {
            let caller = self.cluster.nodes[*node].caller("1");
            eventually(&format!("the counts of node {node}"), timeout, async || {
                match presence_counts(&caller).await {
                    now if now == counts => Ok(()),
                    now => Err(now.to_string()),
                }
            })
            .await;
            caller
        });
        let callers = join_all(waits).await;
        assert!(Instant::now() <= deadline, "counts {:?} after the deadline", deadline.elapsed());
        for (node, caller) in nodes.iter().zip(callers) {
            for at in 0..CHANNELS {
                let expected = members.get(&channel(at)).map(|(users, _)| users.clone()).unwrap_or_default();
                assert_eq!(roster(&caller, &channel(at)).await, expected, "{} at node {node}", channel(at));
            }
        }
    }

    /// Waits until observers have received all entries appended so far.
    async fn observers_catch_up(&mut self) {
        self.markers += 1;
        let event = format!("marker-{}", self.markers);
        self.publish_to_all(&event).await;
        for observer in &self.observers {
            for at in 0..OBSERVED {
                observer.wait_for(&channel(at), &event).await;
            }
        }
    }

    async fn publish_to_all(&self, event: &str) {
        let event = |at| json!({ "name": event, "channel": channel(at), "data": "" });
        let events: Vec<Value> = (0..CHANNELS).map(event).collect();
        for some in events.chunks(10) {
            self.cluster.nodes[0].caller("1").post_batch(some.into()).await.expect_ok();
        }
    }

    /// The changes that each observer received, by channel, after the counts in `before`.
    fn changes_since(&self, before: &[Vec<usize>]) -> Vec<Vec<Vec<Change>>> {
        let changes = |(observer, before): (&Observer, &Vec<usize>)| {
            (0..OBSERVED).map(|at| observer.changes(&channel(at)).split_off(before[at])).collect()
        };
        self.observers.iter().zip(before).map(changes).collect()
    }

    /// How many changes each observer has received, by channel.
    fn change_counts(&self) -> Vec<Vec<usize>> {
        let counts =
            |observer: &Observer| (0..OBSERVED).map(|at| observer.changes(&channel(at)).len()).collect();
        self.observers.iter().map(counts).collect()
    }

    /// Joins each channel as the user `last` and waits for the webhook event of that. The
    /// webhook events of a channel are delivered in order, so all earlier ones have arrived
    /// by then. Compares them with `expected`.
    async fn expect_webhook_events(&self, expected: &BTreeMap<(String, String), usize>, last: &str) {
        let mut sentinel = self.cluster.nodes[0].browser("key1").await;
        for at in 0..CHANNELS {
            sentinel.join(&channel(at), last).await;
        }
        let is_last = |event: &&Value| event["user_id"] == last && event["name"] == "member_added";
        let what = "the last webhook event of each channel";
        self.receiver
            .until(what, |calls| {
                let channels: BTreeSet<String> = delivered(calls)
                    .iter()
                    .filter(is_last)
                    .map(|event| event["channel"].to_string())
                    .collect();
                channels.len() == CHANNELS
            })
            .await;
        assert_eq!(&removals(&self.receiver.events()), expected);
    }
}

/// Counts of all presence channels.
async fn presence_counts(caller: &Caller) -> Value {
    let query = [("filter_by_prefix", "presence-"), ("info", "user_count,subscription_count")];
    caller.get("/channels", &query).await.expect_ok()["channels"].take()
}

async fn roster(caller: &Caller, channel: &str) -> BTreeSet<String> {
    let users = caller.get(&format!("/channels/{channel}/users"), &[]).await.expect_ok();
    let users = users["users"].as_array().expect("users are an array");
    users.iter().map(|user| user["id"].as_str().expect("an id is a string").to_owned()).collect()
}

/// Events of all calls that were answered with 2xx.
fn delivered(calls: &[Call]) -> Vec<Value> {
    calls.iter().filter(|call| call.is_accepted()).flat_map(Call::events).collect()
}

/// How often a user was removed or a channel vacated, by channel and user. Webhook
/// events with the same id count once.
fn removals(events: &[Value]) -> BTreeMap<(String, String), usize> {
    let mut ids = BTreeSet::new();
    let mut counts = BTreeMap::new();
    for event in events {
        let name = event["name"].as_str().expect("a name");
        let is_new = ids.insert(event["id"].as_str().expect("an id").to_owned());
        if is_new && ["member_removed", "channel_vacated"].contains(&name) {
            let user = event["user_id"].as_str().unwrap_or(name);
            *counts
                .entry((event["channel"].as_str().expect("a channel").to_owned(), user.to_owned()))
                .or_default() += 1;
        }
    }
    counts
}

/// The expected result of [`removals`]: 1 per removed user and per vacated channel.
fn all_removals() -> BTreeMap<(String, String), usize> {
    let mut counts = BTreeMap::new();
    for at in 0..CHANNELS {
        counts.extend(only_on_dying(at).into_iter().map(|user| ((channel(at), user), 1)));
    }
    let vacated = (SHARED_ONE..CHANNELS).map(|at| ((channel(at), "channel_vacated".to_owned()), 1));
    counts.extend(vacated);
    counts
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
async fn cluster_presence_killed_node_members_are_removed_once() {
    within(LIMIT, async {
        let mut present = Members::start().await;
        let before = present.change_counts();
        present.cluster.nodes[DYING].kill9();
        let killed = Instant::now();
        present.members_become(&[0, 1], &members(false), killed + REMOVED_WITHIN).await;
        println!("counts and rosters exact on both survivors {:?} after the kill", killed.elapsed());
        present.observers_catch_up().await;
        for by_channel in present.changes_since(&before) {
            for (at, changes) in by_channel.iter().enumerate() {
                assert_eq!(changes.len(), USERS - shared(at), "{}: {changes:?}", channel(at));
                assert_eq!(removed(changes), only_on_dying(at), "{}", channel(at));
            }
        }
        let expected = all_removals();
        let all = |calls: &[Call]| removals(&delivered(calls)).len() >= expected.len();
        present.receiver.until("a webhook event per removed user and vacated channel", all).await;
        println!("{} webhook events within {:?} of the kill", expected.len(), killed.elapsed());
        present.expect_webhook_events(&expected, "sentinel").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_presence_paused_node_members_are_added_back_once() {
    within(LIMIT, async {
        let mut present = Members::start().await;
        let before = present.change_counts();
        present.cluster.nodes[DYING].signal(Signal::Stop);
        let stopped = Instant::now();
        present.members_become(&[0, 1], &members(false), stopped + REMOVED_WITHIN).await;
        println!("counts and rosters exact on both survivors {:?} after the stop", stopped.elapsed());
        let expected = all_removals();
        let all = |calls: &[Call]| removals(&delivered(calls)).len() >= expected.len();
        present.receiver.until("a webhook event per removed user and vacated channel", all).await;

        present.cluster.nodes[DYING].signal(Signal::Continue);
        let resumed = Instant::now();
        present.members_become(&[0, 1, 2], &members(true), resumed + REMOVED_WITHIN).await;
        println!("counts and rosters exact on all nodes {:?} after the node continued", resumed.elapsed());
        present.observers_catch_up().await;
        for by_channel in present.changes_since(&before) {
            for (at, changes) in by_channel.iter().enumerate() {
                let (leaves, joins) = changes.split_at(only_on_dying(at).len());
                assert_eq!(removed(leaves), only_on_dying(at), "{}: {changes:?}", channel(at));
                assert_eq!(
                    (joins.len(), added(joins)),
                    (leaves.len(), only_on_dying(at)),
                    "{}: {changes:?}",
                    channel(at)
                );
            }
        }
        // The connections of the paused node have consistent rosters too.
        let members = members(true);
        present.publish_to_all("end").await;
        for (at, browser, view) in &mut present.dying {
            loop {
                let frame = browser.next().await;
                if frame.event == "end" {
                    break;
                }
                view.take(&frame).unwrap_or_else(|why| panic!("{}: {why}", channel(*at)));
            }
            assert_eq!(view.ids, members[&channel(*at)].0, "{}", channel(*at));
        }
        present.expect_webhook_events(&expected, "sentinel").await;
        let lost = present.cluster.nodes[DYING].metrics().await.sum("fanfare_leases_lost_total");
        assert_eq!(lost, 1.0);
        // The node holds these members under its new incarnation only: closing its
        // connections removes all of them.
        present.dying.clear();
        present.observers.clear();
        let caller = present.cluster.nodes[0].caller("1");
        for at in [0, SHARED, OBSERVED, SHARED_ONE] {
            caller.count_becomes(&channel(at), shared(at)).await;
        }
    })
    .await;
}
