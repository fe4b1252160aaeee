//! The receiver of webhooks is down while a node is killed (protocol.md 5): every webhook
//! event is delivered at least once, always with the same id, and in order per channel. A
//! user that reconnects within the grace period causes no event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fanfare::limits;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::receiver::Call;
use crate::support::{AppSpec, Backend, Browser, Cluster, Receiver, Reply, Server, within};

/// Duration of the outage: by default longer than the detection of a dead node takes. The
/// environment variable `OUTAGE_SECONDS` (for example 60) sets a longer one.
fn outage() -> Duration {
    let seconds = std::env::var("OUTAGE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// Rounds of client events: the receiver accepts the first, refuses the second, and is down
/// for the others.
const ROUNDS: usize = 8;
const CHANNELS: usize = 20;
/// Index of the node that is killed.
const DYING: usize = 0;

/// A test case: how the only user of a presence channel disconnects or reconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// The user's node is killed.
    Killed,
    /// The user leaves shortly before its node is killed.
    Left,
    /// The user's node is killed, and the user connects to another node at once.
    Moved,
    /// The user reloads the page.
    Reloads,
}

const CASES: [Case; 4] = [Case::Killed, Case::Left, Case::Moved, Case::Reloads];
const USERS_PER_CASE: usize = 5;

/// The channels and browsers of one case.
type Tabs = Vec<(String, Browser)>;

/// The connections that cause the webhook events, on three nodes.
struct Clients {
    // Dropped in this order: sockets, then the cluster.
    sender: Browser,
    tabs: BTreeMap<Case, Tabs>,
    cluster: Cluster,
    receiver: Receiver,
    rounds: usize,
}

fn private(at: usize) -> String {
    format!("private-{at}")
}

fn presence_channels(case: Case) -> impl Iterator<Item = String> {
    (0..USERS_PER_CASE).map(move |at| format!("presence-{case:?}-{at}"))
}

async fn join(node: &Server, channel: String) -> (String, Browser) {
    let mut browser = node.browser("key1").await;
    browser.join(&channel, "ann").await;
    (channel, browser)
}

async fn join_all_channels(node: &Server, case: Case) -> Tabs {
    let mut tabs = Tabs::new();
    for channel in presence_channels(case) {
        tabs.push(join(node, channel).await);
    }
    tabs
}

impl Clients {
    async fn start() -> Clients {
        let receiver = Receiver::start().await;
        let types = ["client_event", "channel_occupied", "channel_vacated", "member_added", "member_removed"];
        let hook = format!("[{{ url = \"{}\", event_types = {} }}]", receiver.url(), json!(types));
        let app = AppSpec::new("1").set("enable_client_messages", true);
        let app = app.set("max_client_events_per_second", 1_000).set("webhooks", hook);
        let cluster = Cluster::builder(Backend::Redis).nodes(3).app(app).start().await;
        let nodes = &cluster.nodes;
        let mut sender = nodes[1].browser("key1").await;
        for at in 0..CHANNELS {
            sender.subscribe(&private(at)).await;
        }
        let mut tabs = BTreeMap::new();
        for case in CASES {
            let node = if case == Case::Reloads { 1 } else { DYING };
            tabs.insert(case, join_all_channels(&nodes[node], case).await);
        }
        Clients { sender, tabs, cluster, receiver, rounds: 0 }
    }

    /// Sends one client event on each private channel.
    async fn send_round(&mut self) {
        for at in 0..CHANNELS {
            self.sender.trigger(&private(at), "client-round", json!(self.rounds.to_string())).await;
        }
        self.sender.settle().await;
        self.rounds += 1;
    }

    /// Closes the tab and waits until the subscription count is 0.
    async fn leave(&self, channel: &str, browser: Browser) {
        browser.close().await;
        self.cluster.nodes[1].caller("1").count_becomes(channel, 0).await;
    }

    async fn close(&mut self, case: Case) {
        for (channel, browser) in self.tabs.remove(&case).expect("open tabs") {
            self.leave(&channel, browser).await;
        }
    }

    async fn open(&mut self, case: Case, node: usize) {
        let tabs = join_all_channels(&self.cluster.nodes[node], case).await;
        self.tabs.insert(case, tabs);
    }

    /// Reloads all tabs of `Reloads`, one after another, on node 1 and then on node 2.
    async fn reload(&mut self) {
        for node in [1, 2] {
            let mut reloaded = Tabs::new();
            for (channel, browser) in self.tabs.remove(&Case::Reloads).expect("open tabs") {
                let closed = Instant::now();
                self.leave(&channel, browser).await;
                reloaded.push(join(&self.cluster.nodes[node], channel).await);
                assert!(
                    closed.elapsed() < limits::WEBHOOK_GRACE,
                    "the reload took longer than the grace period"
                );
            }
            self.tabs.insert(Case::Reloads, reloaded);
        }
    }

    async fn fail_for(&mut self, outage: Duration) {
        self.send_round().await;
        let has = |calls: &[Call], round: usize| channels_in_round(calls, round) == CHANNELS;
        self.receiver.until("the first round", |calls| has(calls, 0)).await;
        self.receiver.answer(|_| Reply::Status(503));
        self.send_round().await;
        self.receiver.until("the second round", |calls| has(calls, 1)).await;
        self.receiver.down().await;
        let down = Instant::now();
        self.send_round().await;
        self.close(Case::Left).await;
        self.cluster.nodes[DYING].kill9();
        self.open(Case::Moved, 1).await;
        while self.rounds < ROUNDS {
            self.send_round().await;
            self.reload().await;
            // Spreads the rounds evenly over the outage.
            let next = outage.mul_f64((self.rounds - 2) as f64 / (ROUNDS - 2) as f64);
            tokio::time::sleep_until(down + next).await;
        }
        self.receiver.answer(|_| Reply::Status(200));
        self.receiver.up().await;
        println!("the receiver was down for {:?}", down.elapsed());
    }

    /// Joins each presence channel as the user `last` and waits for the webhook event of
    /// that. All earlier events of the channel have been delivered by then.
    async fn finish(&mut self, timeout: Duration) -> Vec<Call> {
        let up = Instant::now();
        // The removals of `Killed` and `Left` must come first: a join within the grace period
        // would cancel them.
        let removed = |calls: &[Call]| {
            let delivered = delivered(calls);
            [Case::Killed, Case::Left].into_iter().flat_map(presence_channels).all(|channel| {
                let names: BTreeSet<String> = events_of(&delivered, &channel).into_iter().collect();
                names.contains("member_removed ann") && names.contains("channel_vacated")
            })
        };
        self.receiver.until_within("the removal of lost members", timeout, removed).await;
        let mut last = self.cluster.nodes[2].browser("key1").await;
        for channel in CASES.into_iter().flat_map(presence_channels) {
            last.join(&channel, "last").await;
        }
        let everything = |calls: &[Call]| {
            let delivered = delivered(calls);
            let has_rounds = |at| events_of(&delivered, &private(at)).len() > ROUNDS;
            let has_last = |channel: String| {
                events_of(&delivered, &channel).iter().any(|event| event == "member_added last")
            };
            (0..CHANNELS).all(has_rounds) && CASES.into_iter().flat_map(presence_channels).all(has_last)
        };
        let calls = self.receiver.until_within("every event", timeout, everything).await;
        println!("every event was delivered within {:?}", up.elapsed());
        calls
    }
}

/// Events of calls answered with 2xx, each id once.
fn delivered(calls: &[Call]) -> Vec<Value> {
    let mut ids = BTreeSet::new();
    let delivered = calls.iter().filter(|call| call.is_accepted()).flat_map(Call::events);
    delivered.filter(|event| ids.insert(id(event))).collect()
}

fn id(event: &Value) -> String {
    event["id"].as_str().expect("an id").to_owned()
}

/// An event as text: its name, and its user id or data.
fn summary(event: &Value) -> String {
    let more = [&event["user_id"], &event["data"]].into_iter().filter_map(Value::as_str);
    [event["name"].as_str().expect("a name")].into_iter().chain(more).collect::<Vec<_>>().join(" ")
}

/// The events of a channel as text, in order of delivery.
fn events_of(events: &[Value], channel: &str) -> Vec<String> {
    events.iter().filter(|event| event["channel"] == channel).map(summary).collect()
}

/// How many channels have a call for a round, whatever the response was.
fn channels_in_round(calls: &[Call], round: usize) -> usize {
    let is_of_round = |event: &Value| summary(event) == format!("client_event {round}");
    let events = calls.iter().flat_map(Call::events).filter(is_of_round);
    events.map(|event| event["channel"].to_string()).collect::<BTreeSet<_>>().len()
}

/// The expected events of a channel, in order. The two events of a pair have no order.
fn expected(case: Case) -> Vec<[&'static str; 2]> {
    let (joined, last) =
        (["channel_occupied", "member_added ann"], ["channel_occupied", "member_added last"]);
    match case {
        Case::Killed | Case::Left => vec![joined, ["channel_vacated", "member_removed ann"], last],
        Case::Moved | Case::Reloads => vec![joined],
    }
}

async fn run(outage: Duration) {
    let mut clients = Clients::start().await;
    clients.fail_for(outage).await;
    let calls = clients.finish(Duration::from_secs(30) + 2 * outage).await;
    let events = delivered(&calls);
    for at in 0..CHANNELS {
        let mut expected = vec!["channel_occupied".to_owned()];
        expected.extend((0..ROUNDS).map(|round| format!("client_event {round}")));
        assert_eq!(events_of(&events, &private(at)), expected, "{}", private(at));
    }
    for case in CASES {
        for channel in presence_channels(case) {
            let mut of_channel = events_of(&events, &channel);
            if matches!(case, Case::Moved | Case::Reloads) {
                assert_eq!(of_channel.pop().as_deref(), Some("member_added last"), "{channel}");
            }
            let pairs =
                of_channel.chunks(2).map(|pair| pair.iter().map(String::as_str).collect::<BTreeSet<_>>());
            let expected = expected(case).into_iter().map(BTreeSet::from);
            assert!(pairs.eq(expected), "{channel}: {of_channel:?}");
        }
    }
    // Every event of a refused call was delivered later with the same id.
    let ids: BTreeSet<String> = events.iter().map(id).collect();
    for call in &calls {
        call.expect_signed(clients.cluster.nodes[1].app("1"));
        for event in call.events() {
            assert!(ids.contains(&id(&event)), "{event} was refused, and not delivered with this id");
        }
    }
    let refused = calls.iter().filter(|call| !call.is_accepted()).count();
    println!("{} events, {} calls, {refused} of them refused", events.len(), calls.len());
    assert!(refused > 0, "no call was refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_webhooks_receiver_outage_and_killed_node_lose_no_event() {
    within(outage() + Duration::from_secs(90), run(outage())).await;
}
