//! The receiver of webhooks is down, and meanwhile a node is killed (protocol.md
//! 5): everything that was decided comes at least once, always with the same id, in
//! order per channel; and who was away for a moment only was never away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::limits;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::receiver::Call;
use crate::support::{AppSpec, Browser, Receiver, Redis, Reply, Server};
use crate::witness::within;

/// Longer than it takes to find that a node is dead. `OUTAGE_SECONDS=60` is a
/// receiver that is down in earnest.
fn outage() -> Duration {
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Rounds of client events: one taken, one refused, the others in the outage.
const ROUNDS: usize = 8;
const CHANNELS: usize = 20;
/// The node that is killed.
const DYING: usize = 0;

/// What becomes of the one user of a presence channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Is killed with its node.
    Killed,
    /// Has left a moment before its node is killed.
    Left,
    /// Is killed with its node, and connects to another at once.
    Moved,
    /// Reloads the page.
    Reloads,
}

const FATES: [Fate; 4] = [Fate::Killed, Fate::Left, Fate::Moved, Fate::Reloads];
const USERS_OF_EACH: usize = 5;

/// Of one fate.
type Tabs = Vec<(String, Browser)>;

struct Stage {
    // Dropped in this order: sockets, nodes, Redis.
    speaker: Browser,
    tabs: BTreeMap<Fate, Tabs>,
    nodes: Vec<Server>,
    receiver: Receiver,
    _redis: Redis,
    rounds: usize,
}

fn private(at: usize) -> String {
    format!("private-{at}")
}

fn rooms(fate: Fate) -> impl Iterator<Item = String> {
    (0..USERS_OF_EACH).map(move |at| format!("presence-{fate:?}-{at}"))
}

async fn enter(node: &Server, room: String) -> (String, Browser) {
    let mut browser = node.browser("key1").await;
    browser.join(&room, "ann").await;
    (room, browser)
}

async fn enter_all(node: &Server, fate: Fate) -> Tabs {
    let mut tabs = Tabs::new();
    for room in rooms(fate) {
        tabs.push(enter(node, room).await);
    }
    tabs
}

impl Stage {
    async fn set() -> Stage {
        let receiver = Receiver::start().await;
        let types = ["client_event", "channel_occupied", "channel_vacated", "member_added", "member_removed"];
        let hook = format!("[{{ url = \"{}\", event_types = {} }}]", receiver.url(), json!(types));
        let app = AppSpec::new("1").set("enable_client_messages", true);
        let app = app.set("max_client_events_per_second", 1_000).set("webhooks", hook);
        let redis = Redis::start().await;
        let node = Server::builder().app(app).redis(&redis);
        let nodes = join_all((0..3).map(|n| node.clone().name(&format!("node {n}")).start())).await;
        let mut speaker = nodes[1].browser("key1").await;
        for at in 0..CHANNELS {
            speaker.subscribe(&private(at)).await;
        }
        let mut tabs = BTreeMap::new();
        for fate in FATES {
            let node = if fate == Fate::Reloads { 1 } else { DYING };
            tabs.insert(fate, enter_all(&nodes[node], fate).await);
        }
        Stage { speaker, tabs, nodes, receiver, _redis: redis, rounds: 0 }
    }

    /// One client event in each channel.
    async fn speak(&mut self) {
        for at in 0..CHANNELS {
            self.speaker.trigger(&private(at), "client-said", json!(self.rounds.to_string())).await;
        }
        self.speaker.settle().await;
        self.rounds += 1;
    }

    /// The tab closes, and is known to be gone.
    async fn leave(&self, room: &str, browser: Browser) {
        browser.close().await;
        self.nodes[1].caller("1").count_becomes(room, 0).await;
    }

    async fn close(&mut self, fate: Fate) {
        for (room, browser) in self.tabs.remove(&fate).expect("they are open") {
            self.leave(&room, browser).await;
        }
    }

    async fn open(&mut self, fate: Fate, node: usize) {
        let tabs = enter_all(&self.nodes[node], fate).await;
        self.tabs.insert(fate, tabs);
    }

    /// Everyone reloads, one after another, also to another node.
    async fn reload(&mut self) {
        for node in [1, 2] {
            let mut reloaded = Tabs::new();
            for (room, browser) in self.tabs.remove(&Fate::Reloads).expect("they are open") {
                let closed = Instant::now();
                self.leave(&room, browser).await;
                reloaded.push(enter(&self.nodes[node], room).await);
                assert!(closed.elapsed() < limits::WEBHOOK_GRACE, "this took too long to prove anything");
            }
            self.tabs.insert(Fate::Reloads, reloaded);
        }
    }

    async fn fail_for(&mut self, outage: Duration) {
        self.speak().await;
        let said = |calls: &[Call], round: usize| said_in(calls, round) == CHANNELS;
        self.receiver.until("the first round", |calls| said(calls, 0)).await;
        self.receiver.answer(|_| Reply::Status(503));
        self.speak().await;
        self.receiver.until("the second round", |calls| said(calls, 1)).await;
        self.receiver.down().await;
        let down = Instant::now();
        self.speak().await;
        self.close(Fate::Left).await;
        self.nodes[DYING].kill9();
        self.open(Fate::Moved, 1).await;
        while self.rounds < ROUNDS {
            self.speak().await;
            self.reload().await;
            // The outage itself is what is waited for.
            let next = outage.mul_f64((self.rounds - 2) as f64 / (ROUNDS - 2) as f64);
            tokio::time::sleep_until(down + next).await;
        }
        self.receiver.answer(|_| Reply::Status(200));
        self.receiver.up().await;
        println!("the receiver was down for {:?}", down.elapsed());
    }

    /// Someone comes to each presence channel: what is told of him comes after
    /// everything that was decided there before.
    async fn end(&mut self, patience: Duration) -> Vec<Call> {
        let up = Instant::now();
        // Those who were killed are to be gone, and to stay away, before.
        let gone = |calls: &[Call]| {
            let taken = taken(calls);
            [Fate::Killed, Fate::Left].into_iter().flat_map(rooms).all(|room| {
                let names: BTreeSet<String> = told(&taken, &room).into_iter().collect();
                names.contains("member_removed ann") && names.contains("channel_vacated")
            })
        };
        self.receiver.until_within("who was killed is gone", patience, gone).await;
        let mut last = self.nodes[2].browser("key1").await;
        for room in FATES.into_iter().flat_map(rooms) {
            last.join(&room, "last").await;
        }
        let everything = |calls: &[Call]| {
            let taken = taken(calls);
            let is_said = |at| told(&taken, &private(at)).len() > ROUNDS;
            let is_last = |room: String| told(&taken, &room).iter().any(|what| what == "member_added last");
            (0..CHANNELS).all(is_said) && FATES.into_iter().flat_map(rooms).all(is_last)
        };
        let calls = self.receiver.until_within("everything", patience, everything).await;
        println!("everything came within {:?}", up.elapsed());
        calls
    }
}

/// Events that were taken, each id once.
fn taken(calls: &[Call]) -> Vec<Value> {
    let mut ids = BTreeSet::new();
    let taken = calls.iter().filter(|call| call.is_taken()).flat_map(Call::events);
    taken.filter(|event| ids.insert(id(event))).collect()
}

fn id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}

/// What an event says of its channel.
fn what(event: &Value) -> String {
    let more = [&event["user_id"], &event["data"]].into_iter().filter_map(Value::as_str);
    [event["name"].as_str().expect("a name")].into_iter().chain(more).collect::<Vec<_>>().join(" ")
}

/// What was told of a channel, in order.
fn told(events: &[Value], channel: &str) -> Vec<String> {
    events.iter().filter(|event| event["channel"] == channel).map(what).collect()
}

/// How many channels were told of a round, whether the answer was good or not.
fn said_in(calls: &[Call], round: usize) -> usize {
    let is_said = |event: &Value| what(event) == format!("client_event {round}");
    let events = calls.iter().flat_map(Call::events).filter(is_said);
    events.map(|event| event["channel"].to_string()).collect::<BTreeSet<_>>().len()
}

/// All of it, in its order; two things of one instant in either.
fn expected(fate: Fate) -> Vec<[&'static str; 2]> {
    let (came, last) = (["channel_occupied", "member_added ann"], ["channel_occupied", "member_added last"]);
    match fate {
        Fate::Killed | Fate::Left => vec![came, ["channel_vacated", "member_removed ann"], last],
        Fate::Moved | Fate::Reloads => vec![came],
    }
}

async fn everything_arrives_after(outage: Duration) {
    let mut stage = Stage::set().await;
    stage.fail_for(outage).await;
    let calls = stage.end(Duration::from_secs(30) + 2 * outage).await;
    let events = taken(&calls);
    for at in 0..CHANNELS {
        let mut said = vec!["channel_occupied".to_owned()];
        said.extend((0..ROUNDS).map(|round| format!("client_event {round}")));
        assert_eq!(told(&events, &private(at)), said, "{}", private(at));
    }
    for fate in FATES {
        for room in rooms(fate) {
            let mut told = told(&events, &room);
            if matches!(fate, Fate::Moved | Fate::Reloads) {
                assert_eq!(told.pop().as_deref(), Some("member_added last"), "{room}");
            }
            let pairs = told.chunks(2).map(|pair| pair.iter().map(String::as_str).collect::<BTreeSet<_>>());
            let expected = expected(fate).into_iter().map(BTreeSet::from);
            assert!(pairs.eq(expected), "{room}: {told:?}");
        }
    }
    // What was refused came again with the same id, and nothing has two.
    let ids: BTreeSet<String> = events.iter().map(id).collect();
    for call in &calls {
        call.expect_signed(stage.nodes[1].app("1"));
        for event in call.events() {
            assert!(ids.contains(&id(&event)), "{event} was refused, and came with another id");
        }
    }
    let refused = calls.iter().filter(|call| !call.is_taken()).count();
    println!("{} events, {} calls, {refused} of them refused", events.len(), calls.len());
    assert!(refused > 0, "nothing had to be told again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_delivers_everything_after_an_outage_in_which_a_node_is_killed() {
    within(outage() + Duration::from_secs(90), everything_arrives_after(outage())).await;
}
