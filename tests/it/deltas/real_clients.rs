//! Deltas with real clients: npm's `fossil-delta` and `@ably/vcdiff-decoder`, with
//! markers stripped by the JavaScript client's own patterns (protocol.md 3.5),
//! without any code of ours. The decoded events are, byte for byte, the published
//! ones.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::delta_client::Encoding;
use crate::support::json_lines::{Client, Launch};
use crate::support::{AppSpec, Backend, Browser, Caller, Cluster, Seed, Server, on_both_backends};

on_both_backends![real_clients_of_a_cluster_decode_published_events];

const CHANNELS: [&str; 3] = ["prices", "news", "private-room"];
/// The channel with a chain for each feed.
const KEYED: &str = "prices";
const EVENTS: usize = 1_000;
const PROGRAMS: usize = 2;
const SOCKETS_MAX: usize = 16;
/// Rounds between two checks that every subscriber has every event.
const ROUNDS_BETWEEN_MARKERS: usize = 20;

/// Sockets subscribe, unsubscribe, resubscribe and are excluded, while events are
/// published through all nodes. From its confirmation on, each socket receives one
/// gapless run of the events published for it.
async fn real_clients_of_a_cluster_decode_published_events(backend: Backend) {
    let mut simulation = Simulation::open(backend, Seed::new().rng()).await;
    for round in 1.. {
        for _ in 0..simulation.rng.random_range(0..5) {
            simulation.random_action().await;
        }
        simulation.publish_random(round).await;
        simulation.read_pending_reports();
        if round % ROUNDS_BETWEEN_MARKERS == 0 {
            simulation.check_all_received().await;
            if simulation.events >= EVENTS {
                break;
            }
        }
    }
    simulation.tally.print();
    simulation.tally.check();
}

// --- published events ----------------------------------------------------------------

#[derive(Clone)]
struct Published {
    name: String,
    data: String,
    /// The excluded socket.
    except: Option<String>,
}

impl Published {
    /// Pusher's frame, as sent to a socket without deltas.
    fn plain(&self, channel: &str) -> String {
        let (name, data) = (Value::from(self.name.as_str()), Value::from(self.data.as_str()));
        format!(r#"{{"event":{name},"channel":"{channel}","data":{data}}}"#)
    }

    /// The clients' patterns would damage such an event: it is in no chain.
    fn has_marker(&self) -> bool {
        let has = |text: &str| text.contains("__delta_seq") || text.contains("__conflation_key");
        has(&self.name) || has(&self.data)
    }

    /// An event without a key on a channel with keys is in no chain.
    fn has_no_key(&self, channel: &str) -> bool {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        channel == KEYED && !data["feed"].is_string()
    }

    /// An object or array is embedded in the envelope unchanged.
    fn is_container(&self) -> bool {
        self.data.trim_start().starts_with(['{', '['])
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.data).is_ok()
    }
}

/// Per channel, in order of publication.
#[derive(Default)]
struct History(BTreeMap<&'static str, Vec<Published>>);

impl History {
    fn of(&self, channel: &str) -> &[Published] {
        self.0.get(channel).map_or(&[], Vec::as_slice)
    }
}

// --- subscribers ----------------------------------------------------------------------

/// When and how a socket opts in to deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OptIn {
    Global,
    /// Globally, after its first subscriptions.
    Late,
    PerSubscription,
}

/// The expected encoding of a subscription's events, as far as it is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    Plain,
    Chained,
    Either,
}

/// One subscription of a socket, from its request on.
struct SubscriptionRun {
    encoding: Expected,
    /// The encodings that pending confirmations bring.
    pending: VecDeque<Expected>,
    /// Confirmed, and no event of a chain since: the next is full.
    needs_full: bool,
    confirmed: bool,
    unsubscribing: bool,
    /// The run of the history begins between these two indexes.
    from: usize,
    to: usize,
    seen: Vec<Seen>,
}

struct Seen {
    name: String,
    data: String,
}

struct Socket {
    program: usize,
    opt_in: OptIn,
    socket_id: String,
    /// The front is the current subscription; the ones after it are
    /// resubscriptions.
    subscriptions: BTreeMap<&'static str, VecDeque<SubscriptionRun>>,
    closing: bool,
}

impl SubscriptionRun {
    fn requested(at: usize, encoding: Expected) -> SubscriptionRun {
        let (pending, seen) = (VecDeque::from([encoding]), Vec::new());
        SubscriptionRun {
            encoding,
            pending,
            needs_full: true,
            confirmed: false,
            unsubscribing: false,
            from: at,
            to: at,
            seen,
        }
    }

    fn is_settled(&self) -> bool {
        self.confirmed && self.pending.is_empty() && !self.unsubscribing
    }

    /// The history index at which the run begins: `None` if the received events are
    /// not a run. `whole`: the run must reach the end.
    fn run_start(&self, history: &[Published], socket_id: &str, whole: bool) -> Option<usize> {
        (self.from..=self.to).find(|start| {
            let mut addressed =
                history[*start..].iter().filter(|event| event.except.as_deref() != Some(socket_id));
            let is_prefix = self.seen.iter().all(|seen| {
                addressed.next().is_some_and(|event| event.name == seen.name && event.data == seen.data)
            });
            is_prefix && (!whole || addressed.next().is_none())
        })
    }

    #[track_caller]
    fn check(&self, channel: &str, history: &[Published], socket_id: &str, whole: bool) {
        if !self.confirmed || self.run_start(history, socket_id, whole).is_some() {
            return;
        }
        let published = history[self.from..].iter().map(|event| (&event.name, &event.data, &event.except));
        let seen = self.seen.iter().map(|seen| (&seen.name, &seen.data));
        let (seen, published) = (lines(seen), lines(published));
        let (from, to) = (self.from, self.to);
        panic!(
            "{socket_id} on {channel} received no run of the published events, beginning {from}..={to}\n\
             seen:\n{seen}\npublished:\n{published}"
        );
    }
}

fn lines(items: impl Iterator<Item = impl std::fmt::Debug>) -> String {
    items.map(|item| format!("{item:?}").chars().take(160).chain(['\n']).collect::<String>()).collect()
}

impl Socket {
    /// Subscriptions that a random action may change.
    fn settled(&self) -> Vec<&'static str> {
        let is_settled = |subscriptions: &VecDeque<SubscriptionRun>| {
            subscriptions.len() == 1 && subscriptions[0].is_settled()
        };
        self.subscriptions
            .iter()
            .filter(|(_, subscriptions)| is_settled(subscriptions))
            .map(|(channel, _)| *channel)
            .collect()
    }

    fn is_settled(&self) -> bool {
        !self.closing && self.settled().len() == self.subscriptions.len()
    }
}

// --- statistics -------------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    events: usize,
    chained: usize,
    deltas: usize,
    /// Counted among the deltas.
    vcdiff: usize,
    keyed: usize,
    unmarked: usize,
    wire_bytes: u64,
    full_bytes: u64,
    strays: usize,
    runs: usize,
}

impl Tally {
    fn add(&mut self, report: &Value) {
        self.events += 1;
        if report["seq"].is_null() {
            self.unmarked += 1;
            return;
        }
        self.chained += 1;
        if report["via"] == "delta" {
            self.deltas += 1;
            self.vcdiff += usize::from(report["algorithm"] == "xdelta3");
            self.keyed += usize::from(report["key"].is_string());
        }
        self.wire_bytes += report["wire_bytes"].as_u64().unwrap();
        self.full_bytes += full_bytes(report);
    }

    fn print(&self) {
        let Tally { events, chained, deltas, unmarked, wire_bytes, full_bytes, strays, runs, .. } = self;
        let Tally { vcdiff, keyed, .. } = self;
        let saved = full_bytes - wire_bytes;
        println!("{events} events read in {runs} subscriptions and those at the end, {strays} strays");
        println!("{chained} of them of a chain, {unmarked} unmarked, {deltas} deltas");
        println!("{vcdiff} of the deltas are VCDIFF, {keyed} have a key");
        println!(
            "{wire_bytes} bytes on the wire instead of {full_bytes} in full: {} % saved",
            saved * 100 / full_bytes
        );
    }

    fn check(&self) {
        assert!(self.deltas * 4 > self.chained, "many events are sent as deltas");
        assert!(self.vcdiff > 0 && self.keyed > 0, "of both formats, and with keys");
        assert!(self.wire_bytes * 4 < self.full_bytes * 3, "deltas save a quarter at least");
    }
}

/// The size of the event's full frame: its envelope and the markers.
fn full_bytes(report: &Value) -> u64 {
    let seq = format!(r#","__delta_seq":{}"#, report["seq"]);
    let key = report["key"].as_str().map(|key| format!(r#","__conflation_key":"{key}""#)).unwrap_or_default();
    report["envelope_bytes"].as_u64().unwrap() + (seq.len() + key.len()) as u64
}

// --- the run -------------------------------------------------------------------------------

struct Simulation {
    rng: StdRng,
    cluster: Cluster,
    callers: Vec<Caller>,
    programs: Vec<Client>,
    sockets: BTreeMap<u64, Socket>,
    sockets_opened: u64,
    /// Sockets without deltas, one on each node, and the number of events read per
    /// channel.
    plain: Vec<(Browser, BTreeMap<String, usize>)>,
    history: History,
    payloads: Payloads,
    events: usize,
    tally: Tally,
}

impl Simulation {
    async fn open(backend: Backend, rng: StdRng) -> Simulation {
        let pattern = format!(r#"{{ "{KEYED}" = {{ conflation_key = "feed" }} }}"#);
        let app = AppSpec::new("1").set("channel_delta_compression", pattern);
        let cluster = Cluster::builder(backend).app(app).start().await;
        let app = cluster.first().app("1");
        let program = |_| {
            let launch = Launch::node("delta_browser.js");
            launch.env("APP_KEY", &app.key).env("APP_SECRET", &app.secret).start()
        };
        let programs = (0..PROGRAMS).map(program).collect();
        let plain = cluster.subscribers(&CHANNELS).await.0;
        let mut simulation = Simulation {
            rng,
            callers: vec![cluster.first().caller("1"), cluster.second().caller("1")],
            programs,
            sockets: BTreeMap::new(),
            sockets_opened: 0,
            plain: plain.into_iter().map(|browser| (browser, BTreeMap::new())).collect(),
            history: History::default(),
            payloads: Payloads::default(),
            events: 0,
            tally: Tally::default(),
            cluster,
        };
        for _ in 0..SOCKETS_MAX / 2 {
            simulation.open_socket().await;
        }
        for _ in 0..SOCKETS_MAX {
            simulation.subscribe_random().await;
        }
        simulation
    }

    // --- actions

    async fn random_action(&mut self) {
        match self.rng.random_range(0..20) {
            0 | 1 if self.sockets.len() < SOCKETS_MAX => self.open_socket().await,
            2 if self.sockets.len() > SOCKETS_MAX / 4 => self.close_socket(),
            3..=12 => self.subscribe_random().await,
            13 | 14 => self.unsubscribe_random(false),
            15..=17 => self.unsubscribe_random(true),
            _ => self.subscribe_again(),
        }
    }

    async fn open_socket(&mut self) {
        self.sockets_opened += 1;
        let id = self.sockets_opened;
        let program = self.rng.random_range(0..PROGRAMS);
        let node = match self.rng.random() {
            true => self.cluster.first(),
            false => self.cluster.second(),
        };
        let opt_in = [OptIn::Global, OptIn::Late, OptIn::PerSubscription][self.rng.random_range(0..3)];
        let url =
            format!("ws://{}/app/{}?protocol=7&client=js&version=8.6.0", node.addr(), node.app("1").key);
        let word = if opt_in == OptIn::Global { "global" } else { "none" };
        self.programs[program].send(&json!({ "cmd": "open", "id": id, "url": url, "optin": word }));
        let connects = |report: &Value| report["id"] == id && report["type"] == "connected";
        let connected = self.programs[program].find("connection", connects).await;
        let socket_id = connected["socket_id"].as_str().unwrap().to_owned();
        let socket = Socket { program, opt_in, socket_id, subscriptions: BTreeMap::new(), closing: false };
        self.sockets.insert(id, socket);
    }

    fn close_socket(&mut self) {
        let Some(id) = self.random_socket() else { return };
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.closing = true;
        self.programs[socket.program].send(&json!({ "cmd": "close", "id": id }));
    }

    fn random_socket(&mut self) -> Option<u64> {
        let open: Vec<u64> = self.sockets.iter().filter(|(_, it)| !it.closing).map(|(id, _)| *id).collect();
        (!open.is_empty()).then(|| open[self.rng.random_range(0..open.len())])
    }

    /// Waits for the confirmation in half of the cases: then the run begins right
    /// here.
    async fn subscribe_random(&mut self) {
        let Some(id) = self.random_socket() else { return };
        let channel = CHANNELS[self.rng.random_range(0..CHANNELS.len())];
        if self.sockets[&id].subscriptions.contains_key(channel) {
            return;
        }
        self.ask_for(id, channel);
        let socket = &self.sockets[&id];
        let program = socket.program;
        if socket.opt_in == OptIn::Late && self.rng.random() {
            self.programs[program].send(&json!({ "cmd": "enable", "id": id }));
        }
        while self.rng.random() && !self.sockets[&id].subscriptions[channel][0].confirmed {
            let report = self.programs[program].next().await;
            self.take(&report);
        }
    }

    fn ask_for(&mut self, id: u64, channel: &'static str) {
        let (delta, encoding) = self.random_request(self.sockets[&id].opt_in);
        let at = self.history.of(channel).len();
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.subscriptions.entry(channel).or_default().push_back(SubscriptionRun::requested(at, encoding));
        let command = json!({ "cmd": "subscribe", "id": id, "channel": channel, "delta": delta });
        self.programs[socket.program].send(&command);
    }

    /// A random `delta` member of a subscription, and the expected encoding. (The
    /// client omits `null`.)
    fn random_request(&mut self, opt_in: OptIn) -> (Value, Expected) {
        let sets_delta = opt_in == OptIn::PerSubscription || self.rng.random_ratio(1, 6);
        let socket_encoding = match opt_in {
            OptIn::Global => Expected::Chained,
            OptIn::Late => Expected::Either,
            OptIn::PerSubscription => Expected::Plain,
        };
        match self.rng.random_range(0..8) {
            0 => (json!(false), Expected::Plain),
            1 if sets_delta => (json!("fossil"), Expected::Chained),
            2 if sets_delta => (json!({ "enabled": true }), Expected::Chained),
            3 | 4 if sets_delta => (json!("xdelta3"), Expected::Chained),
            _ if sets_delta => (json!(true), Expected::Chained),
            _ => (Value::Null, socket_encoding),
        }
    }

    fn unsubscribe_random(&mut self, resubscribes: bool) {
        let Some((id, channel)) = self.random_subscription() else { return };
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.subscriptions.get_mut(channel).unwrap()[0].unsubscribing = true;
        let command = json!({ "cmd": "unsubscribe", "id": id, "channel": channel });
        self.programs[socket.program].send(&command);
        if resubscribes {
            self.ask_for(id, channel);
        }
    }

    /// Resubscribes a live subscription: the run continues, perhaps with another
    /// encoding.
    fn subscribe_again(&mut self) {
        let Some((id, channel)) = self.random_subscription() else { return };
        let (delta, encoding) = self.random_request(self.sockets[&id].opt_in);
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.subscriptions.get_mut(channel).unwrap()[0].pending.push_back(encoding);
        let command = json!({ "cmd": "subscribe", "id": id, "channel": channel, "delta": delta });
        self.programs[socket.program].send(&command);
    }

    fn random_subscription(&mut self) -> Option<(u64, &'static str)> {
        let open = self.sockets.iter().filter(|(_, socket)| !socket.closing);
        let all: Vec<(u64, &'static str)> = open
            .flat_map(|(id, socket)| socket.settled().into_iter().map(|channel| (*id, channel)))
            .collect();
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len())])
    }

    // --- publishing

    /// Publishes a batch or a single event, through the nodes in turn.
    async fn publish_random(&mut self, round: usize) {
        let caller = round % self.callers.len();
        if self.rng.random_ratio(1, 4) {
            let body = self.event();
            let request = self.callers[caller].request("POST", "/events").body(body);
            request.send().await.expect_ok();
        } else {
            let events: Vec<String> = (0..self.rng.random_range(1..=10)).map(|_| self.event()).collect();
            let body = format!(r#"{{"batch":[{}]}}"#, events.join(","));
            let request = self.callers[caller].request("POST", "/batch_events").body(body);
            request.send().await.expect_ok();
        }
    }

    /// An event's JSON; it is in the history already.
    fn event(&mut self) -> String {
        self.events += 1;
        let Payload { name, data } = self.payloads.next(&mut self.rng);
        let except = self.random_exclusion();
        let first = self.rng.random_range(0..CHANNELS.len());
        let count = if self.rng.random_ratio(1, 10) { CHANNELS.len() } else { 1 };
        let channels: Vec<&'static str> =
            (0..count).map(|more| CHANNELS[(first + more) % CHANNELS.len()]).collect();
        let event = Published { name, data, except };
        for channel in &channels {
            self.history.0.entry(channel).or_default().push(event.clone());
        }
        // Text, not a Value: inline JSON must go out unchanged.
        let is_inline =
            event.is_container() && event.data.trim() == event.data && self.rng.random_ratio(1, 3);
        let data = if is_inline { event.data } else { Value::from(event.data).to_string() };
        let name = Value::from(event.name);
        let mut text = format!(r#"{{"name":{name},"channels":{},"data":{data}"#, json!(channels));
        if let Some(except) = event.except {
            text.push_str(&format!(r#","socket_id":"{except}""#));
        }
        match self.rng.random_range(0..20) {
            0 | 1 => text.push_str(r#","delta":false"#),
            2 => text.push_str(r#","delta":true"#),
            _ => {}
        }
        text + "}"
    }

    fn random_exclusion(&mut self) -> Option<String> {
        let id = self.random_socket().filter(|_| self.rng.random_ratio(1, 5))?;
        Some(self.sockets[&id].socket_id.clone())
    }

    // --- reading

    fn read_pending_reports(&mut self) {
        for program in 0..PROGRAMS {
            while let Some(report) = self.programs[program].try_next() {
                self.take(&report);
            }
        }
    }

    fn take(&mut self, report: &Value) {
        let id = report["id"].as_u64().unwrap_or_else(|| panic!("a report without an id: {report}"));
        let kind = report["type"].as_str().unwrap();
        let channel = CHANNELS.into_iter().find(|channel| report["channel"] == *channel);
        match (kind, channel) {
            ("subscribed", Some(channel)) => self.subscribed(id, channel),
            ("unsubscribed", Some(channel)) => {
                let subscription = self.subscriptions(id, channel).pop_front().unwrap();
                self.end(id, channel, &subscription);
            }
            ("event", Some(channel)) => self.event_read(id, channel, report),
            ("stray", Some(_)) => self.tally.strays += 1,
            ("delta_enabled", _) => assert_eq!(report["data"]["enabled"], true, "{report}"),
            ("closed", None) => self.closed(id),
            _ => panic!("unexpected report: {report}"),
        }
    }

    fn subscriptions(&mut self, id: u64, channel: &'static str) -> &mut VecDeque<SubscriptionRun> {
        self.sockets.get_mut(&id).unwrap().subscriptions.get_mut(channel).unwrap()
    }

    fn subscribed(&mut self, id: u64, channel: &'static str) {
        let to = self.history.of(channel).len();
        let subscription = &mut self.subscriptions(id, channel)[0];
        subscription.encoding = subscription.pending.pop_front().expect("each confirmation has a request");
        subscription.needs_full = true;
        if !std::mem::replace(&mut subscription.confirmed, true) {
            subscription.to = to;
        }
    }

    fn event_read(&mut self, id: u64, channel: &'static str, report: &Value) {
        let subscription = &mut self.subscriptions(id, channel)[0];
        assert!(subscription.confirmed, "before its confirmation: {report}");
        let text = |name: &str| report[name].as_str().unwrap().to_owned();
        let seen = Seen { name: text("event"), data: text("data") };
        check_encoding(subscription.encoding, channel, &seen, report);
        if !report["seq"].is_null() {
            let is_first = std::mem::replace(&mut subscription.needs_full, false);
            assert!(!is_first || report["via"] == "full", "a delta without a full event: {report}");
        }
        subscription.seen.push(seen);
        self.tally.add(report);
    }

    fn closed(&mut self, id: u64) {
        assert!(self.sockets[&id].closing, "socket {id} was closed");
        let socket = self.sockets.remove(&id).unwrap();
        for (channel, subscriptions) in socket.subscriptions {
            let front = subscriptions.front().into_iter();
            front.for_each(|subscription| {
                subscription.check(channel, self.history.of(channel), &socket.socket_id, false);
            });
        }
    }

    fn end(&mut self, id: u64, channel: &'static str, subscription: &SubscriptionRun) {
        self.tally.runs += 1;
        let socket = self.sockets.get_mut(&id).unwrap();
        subscription.check(channel, self.history.of(channel), &socket.socket_id, false);
        if socket.subscriptions[channel].is_empty() {
            socket.subscriptions.remove(channel);
        }
    }

    // --- checks

    /// Publishes a last event on each channel, and waits until all subscribers have
    /// read it and everything before it.
    async fn check_all_received(&mut self) {
        self.read_until(|socket, _| socket.is_settled()).await;
        for (number, channel) in CHANNELS.into_iter().enumerate() {
            let data = format!("marker {}", self.history.of(channel).len());
            let event = Published { name: "marker".into(), data, except: None };
            let caller = &self.callers[number % self.callers.len()];
            caller.publish(channel, &event.name, &event.data).await;
            self.history.0.entry(channel).or_default().push(event);
        }
        self.read_until(|socket, history| {
            let is_last = |seen: &Seen, channel: &str| seen.data == history.of(channel).last().unwrap().data;
            socket.subscriptions.iter().all(|(channel, subscriptions)| {
                subscriptions[0]
                    .seen
                    .last()
                    .is_some_and(|seen| seen.name == "marker" && is_last(seen, channel))
            })
        })
        .await;
        for socket in self.sockets.values() {
            for (channel, subscriptions) in &socket.subscriptions {
                subscriptions[0].check(channel, self.history.of(channel), &socket.socket_id, true);
            }
        }
        self.read_plain().await;
    }

    async fn read_until(&mut self, is_done: impl Fn(&Socket, &History) -> bool) {
        loop {
            self.read_pending_reports();
            let waits = self.sockets.values().find(|socket| !is_done(socket, &self.history));
            let Some(program) = waits.map(|socket| socket.program) else { return };
            let report = self.programs[program].next().await;
            self.take(&report);
        }
    }

    /// The sockets without deltas have received Pusher's frames only.
    async fn read_plain(&mut self) {
        for (browser, read) in &mut self.plain {
            let total: usize = CHANNELS.iter().map(|channel| self.history.of(channel).len()).sum();
            while read.values().sum::<usize>() < total {
                let frame = browser.next().await;
                let channel = frame.channel.clone().unwrap_or_else(|| panic!("no channel: {}", frame.text));
                let at = read.entry(channel.clone()).or_default();
                assert_eq!(frame.text, self.history.of(&channel)[*at].plain(&channel));
                *at += 1;
            }
        }
    }
}

/// Markers only with deltas, and the publisher's JSON inline only with them.
fn check_encoding(encoding: Expected, channel: &str, seen: &Seen, report: &Value) {
    let event = Published { name: seen.name.clone(), data: seen.data.clone(), except: None };
    let is_marked = !report["seq"].is_null();
    let may_be_marked = !event.has_marker() && !event.has_no_key(channel);
    let expected = match encoding {
        Expected::Plain => false,
        Expected::Chained => may_be_marked,
        Expected::Either => is_marked && may_be_marked,
    };
    assert_eq!(is_marked, expected, "{encoding:?}: {report}");
    assert_eq!(report["key"].is_string(), is_marked && channel == KEYED, "{report}");
    assert!(!is_marked || report["inline"] == event.is_container(), "{report}");
    if report["via"] == "delta" {
        let (wire, full) = (report["wire_bytes"].as_u64().unwrap(), full_bytes(report));
        assert!(wire * 10 <= full * 9, "a delta of {wire} bytes for {full}: {report}");
    }
}

// --- payloads ------------------------------------------------------------------------------

struct Payload {
    name: String,
    data: String,
}

/// The kind of payloads that a feed sends for a while.
#[derive(Debug, Clone, Copy, Default)]
enum Mood {
    #[default]
    Prices,
    Unicode,
    Large,
    Odd,
    Noise,
}

const MOODS: [Mood; 8] = [
    Mood::Prices,
    Mood::Prices,
    Mood::Unicode,
    Mood::Unicode,
    Mood::Large,
    Mood::Large,
    Mood::Odd,
    Mood::Noise,
];

/// Events of a feed, and payloads that are difficult for clients.
#[derive(Default)]
struct Payloads {
    mood: Mood,
    prices: [u32; 24],
    last: String,
}

const NAMES: [&str; 5] = ["tick", "trade", "čeština 🎺", "a \"quoted\" \\ name", "t"];

const FEEDS: [&str; 3] = ["BTC", "čeština 🎺", "7"];

const ODD: [&str; 22] = [
    "x",
    "",
    "7",
    "null",
    "true",
    "\"a string\"",
    "{}",
    "[]",
    "[1,2,3]",
    " { \"spaced\" : [ 1.0 , 1e5 , -0 , 12345678901234567890123 ] }\n",
    "{\"pretty\":\n\t[\r\n\t\t\"yes\"\n\t]\n}",
    "{not json}",
    "{\"a\":1}{\"b\":2}",
    "{\"twice\":1,\"twice\":2,\"data\":\"x\",\"event\":\"y\"}",
    "{\"half a pair\":\"\\ud83d\",\"zero\":\"\\u0000\",\"escaped\":\"\\u005f_delta_seq\"}",
    "\u{feff}{\"with\":\"a byte order mark\"}",
    "control \u{0} \u{1} \u{7f} \u{2028} \u{2029} characters",
    "{\"note\":1,\"__delta_seq\":84,\"more\":2}",
    "{\"__delta_seq\":84,\"note\":1}",
    "{\"a\":1,\"__conflation_key\":\"BTC\"}",
    "a text that says ,\"__delta_seq\":7 and goes on",
    "{\"note\":\"__delta_seq\"}",
];

impl Payloads {
    fn next(&mut self, rng: &mut StdRng) -> Payload {
        let mut name = NAMES[rng.random_range(0..NAMES.len())].to_owned();
        if rng.random_ratio(1, 50) {
            name.push_str(r#","__delta_seq":3,"#);
        }
        if rng.random_ratio(1, 10) {
            self.mood = MOODS[rng.random_range(0..MOODS.len())];
        }
        let data = match (rng.random_range(0..20), self.mood) {
            (0 | 1, _) => self.last.clone(),
            (2, _) | (_, Mood::Odd) => ODD[rng.random_range(0..ODD.len())].to_owned(),
            (3..=9, Mood::Noise) => noise(rng),
            (_, Mood::Large) => self.large(rng),
            (_, Mood::Unicode) => self.unicode(rng),
            (_, Mood::Prices | Mood::Noise) => self.feed(rng, ""),
        };
        self.last.clone_from(&data);
        Payload { name, data }
    }

    /// Most of it is unchanged.
    fn feed(&mut self, rng: &mut StdRng, note: &str) -> String {
        for _ in 0..rng.random_range(1..4) {
            let one = rng.random_range(0..self.prices.len());
            self.prices[one] = rng.random_range(0..1_000_000);
        }
        let prices: BTreeMap<String, u32> = self
            .prices
            .iter()
            .enumerate()
            .map(|(number, price)| (format!("asset-{number}"), *price))
            .collect();
        let feed = FEEDS[rng.random_range(0..FEEDS.len())];
        json!({ "feed": feed, "prices": prices, "note": note }).to_string()
    }

    fn unicode(&mut self, rng: &mut StdRng) -> String {
        let words =
            ["čeština", "日本語", "🎺🎻", "עברית", "e\u{301}", "\u{10ffff}", "\"quoted\\\"", "</script>"];
        let note: Vec<&str> =
            (0..rng.random_range(1..30)).map(|_| words[rng.random_range(0..words.len())]).collect();
        self.feed(rng, &note.join(" "))
    }

    /// About nine kilobytes, with a small change.
    fn large(&mut self, rng: &mut StdRng) -> String {
        let mut note = "all the same ž ".repeat(520);
        for _ in 0..rng.random_range(0..5) {
            let at = rng.random_range(0..note.len());
            if note.is_char_boundary(at) {
                note.insert(at, char::from(rng.random_range(b'a'..=b'z')));
            }
        }
        self.feed(rng, &note)
    }
}

/// Unlike any earlier payload.
fn noise(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..9_000);
    (0..length).map(|_| char::from(rng.random_range(b' '..=b'~'))).collect()
}

// --- one socket --------------------------------------------------------------------------------

/// A socket in a program of its own.
struct Reader(Client);

/// The query of `pusher-js`.
const JS: &str = "client=js&version=8.6.0";

impl Reader {
    async fn open(server: &Server, client: &str, optin: &str) -> Reader {
        let app = server.app("1");
        let program =
            Launch::node("delta_browser.js").env("APP_KEY", &app.key).env("APP_SECRET", &app.secret);
        let mut reader = Reader(program.start());
        let url = format!("ws://{}/app/{}?protocol=7&{client}", server.addr(), app.key);
        reader.send(json!({ "cmd": "open", "url": url, "optin": optin }));
        reader.expect("connected").await;
        reader
    }

    fn send(&mut self, mut command: Value) {
        command["id"] = 1.into();
        self.0.send(&command);
    }

    /// The next report, which must be of this type.
    async fn expect(&mut self, kind: &str) -> Value {
        let report = self.0.next().await;
        assert_eq!(report["type"], kind, "{report}");
        report
    }

    /// Expects the answer to the global opt-in.
    async fn expect_enabled(&mut self, enabled: bool) {
        let report = self.expect("delta_enabled").await;
        assert_eq!((&report["channel"], &report["data"]["enabled"]), (&Value::Null, &enabled.into()));
    }

    async fn subscribe(&mut self, channel: &str, delta: Value) {
        self.send(json!({ "cmd": "subscribe", "channel": channel, "delta": delta }));
        self.expect("subscribed").await;
    }

    /// The next report, which must be the event with this data. Returns how it was
    /// encoded.
    async fn read(&mut self, data: &str) -> Encoding {
        let report = self.expect("event").await;
        assert_eq!(report["data"], data, "{report}");
        match (report["via"].as_str(), report["seq"].is_null()) {
            (Some("delta"), false) => Encoding::Delta,
            (Some("full"), false) => Encoding::Full,
            (Some("full"), true) => Encoding::Plain,
            _ => panic!("{report}"),
        }
    }
}
/// Full events only where one is needed, so that tests can distinguish them.
const NO_INTERVAL: &str = "[delta_compression]\nfull_message_interval = 0";

async fn server(config: &str) -> Server {
    Server::builder().config(config).start().await
}

/// A payload of about `size` bytes that compresses well against another one.
fn tick(number: usize, size: usize) -> String {
    // Not a repeated letter: a delta could copy that from any base.
    let mut rng = StdRng::seed_from_u64(1);
    let same: String = (0..size).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    json!({ "number": number, "same": same }).to_string()
}

/// How each of these events was encoded, published and read in turn.
async fn run(reader: &mut Reader, caller: &Caller, channel: &str, texts: &[String]) -> Vec<Encoding> {
    let mut encoding = Vec::new();
    for text in texts {
        caller.publish(channel, "e", text).await;
        encoding.push(reader.read(text).await);
    }
    encoding
}

fn ticks(count: usize, size: usize) -> Vec<String> {
    (0..count).map(|number| tick(number, size)).collect()
}

use Encoding::{Delta, Full, Plain};

#[tokio::test]
async fn delta_sync_error_is_followed_by_full_event() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "global").await;
    reader.expect_enabled(true).await;
    reader.subscribe("news", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(3, 300)).await, [Full, Delta, Delta]);

    reader.send(json!({ "cmd": "forget", "channel": "news" }));
    // The program handles commands in order: now the base is gone.
    reader.subscribe("other", Value::Null).await;
    caller.publish("news", "e", &tick(3, 300)).await;
    let failure = reader.expect("failure").await;
    assert_eq!(failure["reason"], "no base", "{failure}");
    // The client has sent its sync error by now, and its next frame is handled
    // after that.
    reader.subscribe("another", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(2, 300)).await, [Full, Delta]);
}

#[tokio::test]
async fn delta_opt_in_after_subscription_applies_to_next_events() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "none").await;
    reader.subscribe("news", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(2, 300)).await, [Plain, Plain]);
    reader.send(json!({ "cmd": "enable", "algorithms": ["xdelta3", "fossil"] }));
    reader.expect_enabled(true).await;
    // The server handles the frames of a socket in order.
    reader.subscribe("other", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(3, 300)).await, [Full, Delta, Delta]);
}

#[tokio::test]
async fn encrypted_channel_events_have_no_delta_markers() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "global").await;
    reader.expect_enabled(true).await;
    reader.subscribe("private-encrypted-room", json!("fossil")).await;
    let sealed: Vec<String> = (0..5).map(|number| sealed(number, 400)).collect();
    let encoding = run(&mut reader, &caller, "private-encrypted-room", &sealed).await;
    // And no confirmation of the channel's own opt-in came in between.
    assert_eq!(encoding, [Plain; 5]);
}

/// A payload of the same shape as those that Pusher's libraries encrypt.
fn sealed(number: usize, size: usize) -> String {
    json!({ "nonce": format!("{number:032}"), "ciphertext": "c".repeat(size) }).to_string()
}

/// protocol.md 3.6: this client announces delta support, but would lose every
/// delta.
#[tokio::test]
async fn python_client_opt_in_is_confirmed_and_events_stay_plain() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, "client=python&version=2.2.0", "global").await;
    reader.expect_enabled(true).await;
    reader.subscribe("news", json!({ "enabled": true, "algorithm": "fossil" })).await;
    let confirmed = reader.expect("delta_enabled").await;
    assert_eq!((&confirmed["channel"], &confirmed["data"]["enabled"]), (&"news".into(), &true.into()));
    assert_eq!(run(&mut reader, &caller, "news", &ticks(4, 300)).await, [Plain; 4]);
}

#[tokio::test]
async fn server_with_deltas_disabled_sends_plain_events() {
    let server = server("[delta_compression]\nenabled = false").await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "global").await;
    reader.expect_enabled(false).await;
    reader.subscribe("news", json!(true)).await;
    let answer = reader.expect("delta_enabled").await;
    assert_eq!((&answer["channel"], &answer["data"]["enabled"]), (&"news".into(), &false.into()));
    assert_eq!(run(&mut reader, &caller, "news", &ticks(4, 300)).await, [Plain; 4]);
}

#[tokio::test]
async fn full_events_are_sent_at_the_interval() {
    let server = server("[delta_compression]\nfull_message_interval = 4").await;
    let mut reader = Reader::open(&server, JS, "subscription").await;
    reader.subscribe("news", Value::Null).await;
    reader.expect("delta_enabled").await;
    let encoding = run(&mut reader, &server.caller("1"), "news", &ticks(24, 300)).await;
    // The index of the first one depends on the channel's sequence numbers.
    let deltas: Vec<usize> = encoding.split(|encoding| *encoding != Delta).map(<[Encoding]>::len).collect();
    let whole: &[usize] = &deltas[2..deltas.len() - 1];
    assert_eq!(whole, vec![4; whole.len()], "{encoding:?}");
    assert!(deltas.iter().all(|count| *count <= 4), "{encoding:?}");
}

#[tokio::test]
async fn small_events_are_sent_in_full() {
    let config = "[delta_compression]\nfull_message_interval = 0\nmin_message_size = 1000";
    let server = server(config).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "subscription").await;
    reader.subscribe("news", Value::Null).await;
    reader.expect("delta_enabled").await;
    let (small, large) = (|number| tick(number, 800), |number| tick(number, 1_000));
    let texts = [small(0), small(1), large(2), large(3), small(4), large(5)];
    assert_eq!(run(&mut reader, &caller, "news", &texts).await, [Full, Full, Delta, Delta, Full, Delta]);

    // `delta: true` overrides the size.
    let event = json!({ "name": "e", "channel": "news", "data": small(6), "delta": true });
    caller.post_events(event).await.expect_ok();
    assert_eq!(reader.read(&small(6)).await, Delta);
}

#[tokio::test]
async fn delta_above_compression_ratio_is_not_sent() {
    let config = "[delta_compression]\nfull_message_interval = 0\nmin_compression_ratio = 0.4";
    let server = server(config).await;
    let mut reader = Reader::open(&server, JS, "subscription").await;
    reader.subscribe("news", Value::Null).await;
    reader.expect("delta_enabled").await;
    // The frame around a delta has about 160 bytes.
    let texts = [tick(0, 150), tick(1, 150), tick(2, 1_500), tick(3, 1_500), tick(4, 150)];
    let encoding = run(&mut reader, &server.caller("1"), "news", &texts).await;
    assert_eq!(encoding, [Full, Full, Full, Delta, Full]);
}

/// protocol.md 3.2, the table, with the expected result of each form.
#[tokio::test]
async fn subscription_member_delta_accepts_every_documented_form() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "none").await;
    let on = [
        json!(true),
        json!("fossil"),
        json!("FOSSIL"),
        json!("whatever"),
        json!({}),
        json!({ "enabled": true }),
        json!({ "algorithm": "fossil" }),
        json!({ "enabled": true, "algorithm": "fossil" }),
        json!({ "enabled": true, "algorithms": ["fossil"] }),
    ];
    for (number, delta) in on.iter().enumerate() {
        let channel = format!("on-{number}");
        reader.subscribe(&channel, delta.clone()).await;
        let confirmed = reader.expect("delta_enabled").await;
        let expected = json!({ "enabled": true, "algorithm": "fossil", "channel": channel });
        assert_eq!((&confirmed["channel"], &confirmed["data"]), (&channel.as_str().into(), &expected));
        let encoding = run(&mut reader, &caller, &channel, &ticks(2, 300)).await;
        assert_eq!(encoding, [Full, Delta], "{delta}");
    }
    let off = [json!("disabled"), json!("false"), json!("None"), json!({ "enabled": false }), json!(false)];
    for (number, delta) in off.iter().enumerate() {
        // The channel's setting takes precedence over the socket's, which comes
        // last here.
        let channel = format!("off-{number}");
        reader.subscribe(&channel, delta.clone()).await;
        reader.send(json!({ "cmd": "enable" }));
        reader.expect_enabled(true).await;
        let encoding = run(&mut reader, &caller, &channel, &ticks(2, 300)).await;
        assert_eq!(encoding, [Plain; 2], "{delta}");
    }
}

#[tokio::test]
async fn invalid_delta_member_falls_back_to_socket_opt_in() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    for (optin, expected) in [("none", [Plain, Plain]), ("global", [Full, Delta])] {
        let mut reader = Reader::open(&server, JS, optin).await;
        if optin == "global" {
            reader.expect_enabled(true).await;
        }
        for (number, delta) in [json!(7), json!(["fossil"]), json!(1.5)].into_iter().enumerate() {
            let channel = format!("{optin}-{number}");
            reader.subscribe(&channel, delta).await;
            assert_eq!(run(&mut reader, &caller, &channel, &ticks(2, 300)).await, expected);
        }
    }
}
