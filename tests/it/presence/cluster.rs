//! One user is one member, for any number of tabs on any nodes, in any order of opening
//! and closing (protocol.md 2.6): one `member_added` from 0 to 1 tabs and one
//! `member_removed` from 1 to 0, in the same order on all nodes. The roster of each
//! confirmation is consistent with the changes that follow it.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::{
    Backend, Browser, Change, Cluster, Observer, STEP_TIMEOUT, Seed, Server, View, eventually, within,
};

const NODES: usize = 3;
const TABS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// The presence channel of one seed, on nodes that all seeds share.
struct PresenceChannel<'a> {
    nodes: &'a [Server],
    name: String,
    /// One per node, each a different user.
    observers: Vec<Observer>,
    /// Calls of [`PresenceChannel::check`] so far.
    checks: usize,
}

/// A tab of one user: closed, or open on any node.
struct Tab {
    user_id: String,
    open: Option<Open>,
    rng: StdRng,
}

struct Open {
    browser: Browser,
    view: View,
}

impl Tab {
    fn new(user_id: &str, rng: StdRng) -> Tab {
        Tab { user_id: user_id.to_owned(), open: None, rng }
    }

    async fn open(&mut self, channel: &PresenceChannel<'_>) {
        let mut browser = channel.nodes[self.rng.random_range(0..NODES)].browser("key1").await;
        let presence = browser.join(&channel.name, &self.user_id).await;
        let view = View::of_joining(&presence, &self.user_id).unwrap_or_else(|why| panic!("{why}"));
        self.open = Some(Open { browser, view });
    }

    /// Ends the tab in one of three ways: a close frame, an unsubscription before it, or a
    /// lost connection.
    async fn close(&mut self, channel: &PresenceChannel<'_>) {
        let mut open = self.open.take().expect("the tab is open");
        match self.rng.random_range(0..3) {
            0 => open.browser.close().await,
            1 => {
                open.browser.unsubscribe(&channel.name).await;
                open.browser.close().await;
            }
            _ => drop(open),
        }
    }

    async fn toggle(&mut self, channel: &PresenceChannel<'_>) {
        match self.open {
            Some(_) => self.close(channel).await,
            None => self.open(channel).await,
        }
    }

    /// Processes frames up to this event.
    async fn read_until(&mut self, event: &str) {
        let Some(Open { browser, view }) = &mut self.open else { return };
        loop {
            let frame = browser.next().await;
            if frame.event == event {
                return;
            }
            view.take(&frame).unwrap_or_else(|why| panic!("a tab of {}: {why}", self.user_id));
        }
    }
}

impl<'a> PresenceChannel<'a> {
    async fn new(nodes: &'a [Server], name: &str) -> PresenceChannel<'a> {
        let channel = format!("presence-{name}");
        let mut observers = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            observers
                .push(Observer::join(node, std::slice::from_ref(&channel), &format!("observer-{at}")).await);
        }
        let channel = PresenceChannel { nodes, name: channel, observers, checks: 0 };
        // Each observer receives a `member_added` for every observer that joined after it.
        for (at, observer) in channel.observers.iter().enumerate() {
            observer.wait_for_changes(&channel.name, NODES - 1 - at).await;
        }
        channel
    }

    /// The member changes that all nodes have sent, without those of observers; checks
    /// that they are equal on all nodes.
    fn changes(&self) -> Vec<Change> {
        let of_tabs = |observer: &Observer, at: usize| observer.changes(&self.name).split_off(NODES - 1 - at);
        let first = of_tabs(&self.observers[0], 0);
        for (at, observer) in self.observers.iter().enumerate().skip(1) {
            assert_eq!(of_tabs(observer, at), first, "{} and {}", observer.name, self.observers[0].name);
        }
        first
    }

    /// Waits until all toggles have taken effect, and compares the roster of every node,
    /// observer and tab with the open tabs.
    async fn check(&mut self, tabs: &mut [Tab]) {
        let open: Vec<&Tab> = tabs.iter().filter(|tab| tab.open.is_some()).collect();
        let subscriptions = NODES + open.len();
        let mut users: BTreeSet<String> = open.iter().map(|tab| tab.user_id.clone()).collect();
        users.extend(self.observers.iter().map(|observer| observer.name.clone()));
        // Closing one of several tabs of a user sends no event: only the subscription count
        // shows that it has taken effect.
        self.nodes[0].caller("1").count_becomes(&self.name, subscriptions).await;
        self.checks += 1;
        let event = format!("check-{}", self.checks);
        self.nodes[self.checks % NODES].caller("1").publish(&self.name, &event, "").await;
        for node in self.nodes {
            let (counts, roster) = query(node, &self.name).await;
            let expected =
                json!({ "occupied": true, "user_count": users.len(), "subscription_count": subscriptions });
            assert_eq!(counts, expected, "{} at {event}", self.name);
            assert_eq!(roster, users, "{} at {event}", self.name);
        }
        for observer in &self.observers {
            observer.wait_for(&self.name, &event).await;
            assert_eq!(observer.view(&self.name).ids, users, "{} at {event}", observer.name);
        }
        for tab in tabs {
            tab.read_until(&event).await;
            if let Some(open) = &tab.open {
                assert_eq!(open.view.ids, users, "a tab of {} at {event}", tab.user_id);
            }
        }
    }
}

/// The counts and the users of the channel, as a node returns them.
async fn query(node: &Server, channel: &str) -> (Value, BTreeSet<String>) {
    let caller = node.caller("1");
    let path = format!("/channels/{channel}");
    let counts = caller.get(&path, &[("info", "user_count,subscription_count")]).await.expect_ok();
    let users = caller.get(&format!("{path}/users"), &[]).await.expect_ok();
    let users = users["users"].as_array().expect("users are an array");
    (counts, users.iter().map(|user| user["id"].as_str().expect("an id is a string").to_owned()).collect())
}

async fn start() -> Cluster {
    Cluster::builder(Backend::Redis).nodes(NODES).quick_detection().start().await
}

/// All changes were delivered as entries: no gap was repaired, and no lease was lost.
async fn expect_no_repairs(cluster: &Cluster) {
    for name in ["gaps", "members_refused", "leases_lost"] {
        assert_eq!(cluster.metric(&format!("fanfare_{name}_total")).await, [0.0; NODES], "{name}");
    }
}

/// Tabs open and close one after another, so the number of member changes is known.
async fn toggle_one_by_one(nodes: &[Server], seed: Seed) {
    const TOGGLES: usize = 500;
    let mut channel = PresenceChannel::new(nodes, &format!("one-{}", seed.0)).await;
    let mut rng = seed.rng();
    let mut tabs: Vec<Tab> = (0..TABS).map(|at| Tab::new("ann", seed.rng_of(at as u64 + 1))).collect();
    let (mut expected, mut open_probability) = (Vec::new(), 0.5);
    for number in 1..=TOGGLES {
        let open_count = tabs.iter().filter(|tab| tab.open.is_some()).count();
        let opens = open_count == 0 || (open_count < TABS && rng.random_bool(open_probability));
        let candidates: Vec<usize> = (0..TABS).filter(|at| tabs[*at].open.is_none() == opens).collect();
        let tab = &mut tabs[candidates[rng.random_range(0..candidates.len())]];
        tab.toggle(&channel).await;
        match (opens, open_count) {
            (true, 0) => expected.push(Change::Added("ann".into())),
            (false, 1) => {
                expected.push(Change::Removed("ann".into()));
                // A tab opened before this change was sent would cancel the change.
                for (at, observer) in channel.observers.iter().enumerate() {
                    observer.wait_for_changes(&channel.name, NODES - 1 - at + expected.len()).await;
                }
            }
            _ => {}
        }
        if number % 25 == 0 {
            channel.check(&mut tabs).await;
            assert_eq!(channel.changes(), expected, "after {number} toggles");
            // Varies the number of open tabs. With few, the user often joins and leaves.
            open_probability = [0.35, 0.5, 0.65][rng.random_range(0..3)];
        }
    }
    assert!(expected.len() >= 20, "only {} member changes", expected.len());
    println!("{}: {TOGGLES} toggles, {} member changes", channel.name, expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_presence_sends_one_change_per_user_when_tabs_toggle_in_turn() {
    within(LIMIT, async {
        const SEEDS: u64 = 4;
        let seed = Seed::new();
        let cluster = start().await;
        join_all((0..SEEDS).map(|n| toggle_one_by_one(&cluster.nodes, Seed(seed.0.wrapping_add(n))))).await;
        expect_no_repairs(&cluster).await;
    })
    .await;
}

/// All tabs open and close concurrently between two checks.
async fn toggle_concurrently(nodes: &[Server], seed: Seed) {
    const USERS: u64 = 4;
    const ROUNDS: usize = 20;
    let mut channel = PresenceChannel::new(nodes, &format!("many-{}", seed.0)).await;
    let tab = |at: u64| Tab::new(&format!("user-{}", at % USERS), seed.rng_of(at));
    let mut tabs: Vec<Tab> = (0..USERS * TABS as u64).map(tab).collect();
    let mut opened: usize = 0;
    for _ in 0..ROUNDS {
        let toggles = tabs.iter_mut().map(async |tab| {
            let mut opened = 0;
            for _ in 0..tab.rng.random_range(0..4) {
                tab.toggle(&channel).await;
                opened += usize::from(tab.open.is_some());
            }
            opened
        });
        opened += join_all(toggles).await.into_iter().sum::<usize>();
        channel.check(&mut tabs).await;
        channel.changes();
    }
    let changes = channel.changes();
    let added = changes.iter().filter(|change| matches!(change, Change::Added(_))).count();
    assert!(added <= opened && added > ROUNDS, "{added} members added, {opened} tabs opened");
    println!("{}: {opened} tabs opened, {} member changes", channel.name, changes.len());
    for tab in &mut tabs {
        tab.open = None;
    }
    channel.check(&mut tabs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_presence_sends_one_change_per_user_when_tabs_toggle_concurrently() {
    within(LIMIT, async {
        const SEEDS: u64 = 3;
        let seed = Seed::new();
        let cluster = start().await;
        join_all((0..SEEDS).map(|n| toggle_concurrently(&cluster.nodes, Seed(seed.0.wrapping_add(n))))).await;
        expect_no_repairs(&cluster).await;
    })
    .await;
}

/// Redis loses its data while users join: the roster of each confirmation contains the
/// joining user, and all rosters become complete again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_presence_roster_contains_the_new_member_after_redis_data_loss() {
    within(LIMIT, async {
        const ROUNDS: usize = 2;
        const USERS: u64 = 12;
        let seed = Seed::new();
        let cluster = start().await;
        let mut channel = PresenceChannel::new(&cluster.nodes, "flushed").await;
        let mut tabs: Vec<Tab> =
            (0..USERS).map(|at| Tab::new(&format!("user-{at}"), seed.rng_of(at))).collect();
        for round in 0..ROUNDS {
            let flush = async { drop(cluster.redis().command(&["FLUSHALL"]).await) };
            let toggles = join_all(tabs.iter_mut().map(async |tab| {
                for _ in 0..3 {
                    tab.toggle(&channel).await;
                }
            }));
            tokio::join!(toggles, flush);
            let users = NODES + tabs.iter().filter(|tab| tab.open.is_some()).count();
            for node in &cluster.nodes {
                eventually(&format!("all users in round {round}"), STEP_TIMEOUT, async || {
                    match query(node, &channel.name).await.1.len() {
                        now if now == users => Ok(()),
                        now => Err(now.to_string()),
                    }
                })
                .await;
            }
            for observer in &channel.observers {
                let what = format!("the complete roster of {} in round {round}", observer.name);
                eventually(&what, STEP_TIMEOUT, async || match observer.view(&channel.name).ids.len() {
                    now if now == users => Ok(()),
                    now => Err(now.to_string()),
                })
                .await;
            }
            channel.check(&mut tabs).await;
        }
    })
    .await;
}
