//! One user is one member, on whatever nodes the tabs are and in whatever order
//! they come and go (protocol.md 2.6): one `member_added` from 0 to 1 tabs and one
//! `member_removed` from 1 to 0, the same on all nodes, and nobody is shown a
//! channel that disagrees with what follows.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::{Browser, Change, Observer, PATIENCE, Redis, Seed, Server, View, eventually};
use crate::witness::within;

const NODES: usize = 3;
const TABS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// Of one seed: a channel of its own on the nodes of all.
struct Room<'a> {
    nodes: &'a [Server],
    channel: String,
    /// One on each node, each a user of its own.
    observers: Vec<Observer>,
    quiet_moments: usize,
}

/// A place for a tab of one user, which may be open on any node.
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

    async fn open(&mut self, room: &Room<'_>) {
        let mut browser = room.nodes[self.rng.random_range(0..NODES)].browser("key1").await;
        let presence = browser.join(&room.channel, &self.user_id).await;
        let view = View::of_joining(&presence, &self.user_id).unwrap_or_else(|why| panic!("{why}"));
        self.open = Some(Open { browser, view });
    }

    /// As tabs are closed: the channel is left, with a goodbye, or neither.
    async fn close(&mut self, room: &Room<'_>) {
        let mut open = self.open.take().expect("it is open");
        match self.rng.random_range(0..3) {
            0 => open.browser.close().await,
            1 => {
                open.browser.unsubscribe(&room.channel).await;
                open.browser.close().await;
            }
            _ => drop(open),
        }
    }

    async fn toggle(&mut self, room: &Room<'_>) {
        match self.open {
            Some(_) => self.close(room).await,
            None => self.open(room).await,
        }
    }

    /// Reads what has come until this event.
    async fn hear(&mut self, event: &str) {
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

impl<'a> Room<'a> {
    async fn new(nodes: &'a [Server], name: &str) -> Room<'a> {
        let channel = format!("presence-{name}");
        let mut observers = Vec::new();
        for (at, node) in nodes.iter().enumerate() {
            observers
                .push(Observer::join(node, std::slice::from_ref(&channel), &format!("observer-{at}")).await);
        }
        let room = Room { nodes, channel, observers, quiet_moments: 0 };
        // Those who came first were told of those who came later.
        for (at, observer) in room.observers.iter().enumerate() {
            observer.has_changes(&room.channel, NODES - 1 - at).await;
        }
        room
    }

    /// Whom all nodes have told of, observers aside: the same on each.
    fn changes(&self) -> Vec<Change> {
        let of_tabs =
            |observer: &Observer, at: usize| observer.changes(&self.channel).split_off(NODES - 1 - at);
        let first = of_tabs(&self.observers[0], 0);
        for (at, observer) in self.observers.iter().enumerate().skip(1) {
            assert_eq!(of_tabs(observer, at), first, "{} and {}", observer.name, self.observers[0].name);
        }
        first
    }

    /// Waits until all that was done has taken effect, and compares everyone's view
    /// with the truth.
    async fn be_quiet(&mut self, tabs: &mut [Tab]) {
        let open: Vec<&Tab> = tabs.iter().filter(|tab| tab.open.is_some()).collect();
        let subscriptions = NODES + open.len();
        let mut users: BTreeSet<String> = open.iter().map(|tab| tab.user_id.clone()).collect();
        users.extend(self.observers.iter().map(|observer| observer.name.clone()));
        // Who has left is told by no event where another tab is left.
        self.nodes[0].caller("1").count_becomes(&self.channel, subscriptions).await;
        self.quiet_moments += 1;
        let event = format!("quiet-{}", self.quiet_moments);
        self.nodes[self.quiet_moments % NODES].caller("1").publish(&self.channel, &event, "").await;
        for node in self.nodes {
            let (counts, roster) = asked(node, &self.channel).await;
            let expected =
                json!({ "occupied": true, "user_count": users.len(), "subscription_count": subscriptions });
            assert_eq!(counts, expected, "{} at {event}", self.channel);
            assert_eq!(roster, users, "{} at {event}", self.channel);
        }
        for observer in &self.observers {
            observer.heard(&self.channel, &event).await;
            assert_eq!(observer.view(&self.channel).ids, users, "{} at {event}", observer.name);
        }
        for tab in tabs {
            tab.hear(&event).await;
            if let Some(open) = &tab.open {
                assert_eq!(open.view.ids, users, "a tab of {} at {event}", tab.user_id);
            }
        }
    }
}

/// What a node says of the channel: its counts, and its users.
async fn asked(node: &Server, channel: &str) -> (Value, BTreeSet<String>) {
    let caller = node.caller("1");
    let path = format!("/channels/{channel}");
    let counts = caller.get(&path, &[("info", "user_count,subscription_count")]).await.expect_ok();
    let users = caller.get(&format!("{path}/users"), &[]).await.expect_ok();
    let users = users["users"].as_array().expect("users are an array");
    (counts, users.iter().map(|user| user["id"].as_str().expect("an id is a string").to_owned()).collect())
}

async fn three_nodes(redis: &Redis) -> Vec<Server> {
    let node = |n: usize| Server::builder().name(&format!("node {n}")).redis(redis).start();
    join_all((0..NODES).map(node)).await
}

/// Nobody was cut off: what was told was told by entries alone.
async fn nothing_was_repaired(nodes: &[Server]) {
    for node in nodes {
        let metrics = node.metrics().await;
        for name in ["gaps", "members_refused", "leases_lost"] {
            assert_eq!(metrics.sum(&format!("fanfare_{name}_total")), 0.0, "{name}");
        }
    }
}

/// One tab moves after the other: how often the user comes and goes is known.
async fn move_one_by_one(nodes: &[Server], seed: Seed) {
    const MOVES: usize = 500;
    let mut room = Room::new(nodes, &format!("one-{}", seed.0)).await;
    let mut rng = seed.rng();
    let mut tabs: Vec<Tab> = (0..TABS).map(|at| Tab::new("ann", seed.rng_of(at as u64 + 1))).collect();
    let (mut expected, mut openness) = (Vec::new(), 0.5);
    for number in 1..=MOVES {
        let are_open = tabs.iter().filter(|tab| tab.open.is_some()).count();
        let opens = are_open == 0 || (are_open < TABS && rng.random_bool(openness));
        let candidates: Vec<usize> = (0..TABS).filter(|at| tabs[*at].open.is_none() == opens).collect();
        let tab = &mut tabs[candidates[rng.random_range(0..candidates.len())]];
        tab.toggle(&room).await;
        match (opens, are_open) {
            (true, 0) => expected.push(Change::Added("ann".into())),
            (false, 1) => {
                expected.push(Change::Removed("ann".into()));
                // Until that is told, she may come back and was never away.
                for (at, observer) in room.observers.iter().enumerate() {
                    observer.has_changes(&room.channel, NODES - 1 - at + expected.len()).await;
                }
            }
            _ => {}
        }
        if number % 25 == 0 {
            room.be_quiet(&mut tabs).await;
            assert_eq!(room.changes(), expected, "after {number} moves");
            // Few tabs, so that she comes and goes, and many by turns.
            openness = [0.35, 0.5, 0.65][rng.random_range(0..3)];
        }
    }
    assert!(expected.len() >= 20, "she came and went {} times only", expected.len());
    println!("{}: {MOVES} moves, {} times come or gone", room.channel, expected.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_shows_a_user_once_whatever_the_tabs_do() {
    within(LIMIT, async {
        const SEEDS: u64 = 4;
        let seed = Seed::new();
        let redis = Redis::start().await;
        let nodes = three_nodes(&redis).await;
        join_all((0..SEEDS).map(|n| move_one_by_one(&nodes, Seed(seed.0.wrapping_add(n))))).await;
        nothing_was_repaired(&nodes).await;
    })
    .await;
}

/// Nobody waits for anybody between two quiet moments.
async fn move_at_once(nodes: &[Server], seed: Seed) {
    const USERS: u64 = 4;
    const ROUNDS: usize = 20;
    let mut room = Room::new(nodes, &format!("many-{}", seed.0)).await;
    let tab = |at: u64| Tab::new(&format!("user-{}", at % USERS), seed.rng_of(at));
    let mut tabs: Vec<Tab> = (0..USERS * TABS as u64).map(tab).collect();
    let mut opened: usize = 0;
    for _ in 0..ROUNDS {
        let moves = tabs.iter_mut().map(async |tab| {
            let mut opened = 0;
            for _ in 0..tab.rng.random_range(0..4) {
                tab.toggle(&room).await;
                opened += usize::from(tab.open.is_some());
            }
            opened
        });
        opened += join_all(moves).await.into_iter().sum::<usize>();
        room.be_quiet(&mut tabs).await;
        room.changes();
    }
    let changes = room.changes();
    let added = changes.iter().filter(|change| matches!(change, Change::Added(_))).count();
    assert!(added <= opened && added > ROUNDS, "{added} times come, {opened} tabs opened");
    println!("{}: {opened} tabs opened, {} times come or gone", room.channel, changes.len());
    for tab in &mut tabs {
        tab.open = None;
    }
    room.be_quiet(&mut tabs).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_shows_users_once_when_all_move_at_once() {
    within(LIMIT, async {
        const SEEDS: u64 = 3;
        let seed = Seed::new();
        let redis = Redis::start().await;
        let nodes = three_nodes(&redis).await;
        join_all((0..SEEDS).map(|n| move_at_once(&nodes, Seed(seed.0.wrapping_add(n))))).await;
        nothing_was_repaired(&nodes).await;
    })
    .await;
}

/// Redis loses everything while users come: whoever joins is shown himself, and in
/// the end all know of all again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_shows_who_joins_himself_when_redis_loses_its_data() {
    within(LIMIT, async {
        const ROUNDS: usize = 2;
        const USERS: u64 = 12;
        let seed = Seed::new();
        let redis = Redis::start().await;
        let nodes = three_nodes(&redis).await;
        let mut room = Room::new(&nodes, "flushed").await;
        let mut tabs: Vec<Tab> =
            (0..USERS).map(|at| Tab::new(&format!("user-{at}"), seed.rng_of(at))).collect();
        for round in 0..ROUNDS {
            let flush = async { drop(redis.command(&["FLUSHALL"]).await) };
            let moves = join_all(tabs.iter_mut().map(async |tab| {
                for _ in 0..3 {
                    tab.toggle(&room).await;
                }
            }));
            tokio::join!(moves, flush);
            let users = NODES + tabs.iter().filter(|tab| tab.open.is_some()).count();
            for node in &nodes {
                eventually(&format!("all users in round {round}"), PATIENCE, async || {
                    match asked(node, &room.channel).await.1.len() {
                        now if now == users => Ok(()),
                        now => Err(now.to_string()),
                    }
                })
                .await;
            }
            for observer in &room.observers {
                let what = format!("{} knows all in round {round}", observer.name);
                eventually(&what, PATIENCE, async || match observer.view(&room.channel).ids.len() {
                    now if now == users => Ok(()),
                    now => Err(now.to_string()),
                })
                .await;
            }
            room.be_quiet(&mut tabs).await;
        }
    })
    .await;
}
