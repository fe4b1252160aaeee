//! Deltas as real clients see them: rebuilt by npm `fossil-delta` and
//! `@ably/vcdiff-decoder` after stripping by the JavaScript client's own patterns (protocol.md 3.5), none of
//! it ours. What comes out is, byte for byte, what was published.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::support::json_lines::{Client, Launch};
use crate::support::{AppSpec, Backend, Browser, Caller, Cluster, Seed, Server, on_both_backends};

on_both_backends![clients_of_a_cluster_rebuild_what_was_published];

const CHANNELS: [&str; 3] = ["prices", "news", "private-room"];
/// This one has a chain for each feed.
const KEYED: &str = "prices";
const EVENTS: usize = 1_000;
const PROGRAMS: usize = 2;
const SOCKETS_MAX: usize = 16;
/// Between two moments at which everybody must have everything.
const ROUNDS_BETWEEN_MARKERS: usize = 20;

/// Sockets join, leave, come back, are excluded, while events are published
/// through all nodes. Each sees, from its confirmation on, one gapless run of
/// what was published to it.
async fn clients_of_a_cluster_rebuild_what_was_published(backend: Backend) {
    let mut scene = Scene::open(backend, Seed::new().rng()).await;
    for round in 1.. {
        for _ in 0..scene.rng.random_range(0..5) {
            scene.move_somebody().await;
        }
        scene.publish_something(round).await;
        scene.read_what_is_here();
        if round % ROUNDS_BETWEEN_MARKERS == 0 {
            scene.everybody_has_everything().await;
            if scene.events >= EVENTS {
                break;
            }
        }
    }
    scene.tally.print();
    scene.tally.check();
}

// --- what was published -------------------------------------------------------------

#[derive(Clone)]
struct Published {
    name: String,
    data: String,
    /// The socket that must not get it.
    except: Option<String>,
}

impl Published {
    /// Pusher's frame, as a socket without deltas must get it.
    fn plain(&self, channel: &str) -> String {
        let (name, data) = (Value::from(self.name.as_str()), Value::from(self.data.as_str()));
        format!(r#"{{"event":{name},"channel":"{channel}","data":{data}}}"#)
    }

    /// Such an event would be spoiled by the clients' patterns: it is in no chain.
    fn has_marker(&self) -> bool {
        let has = |text: &str| text.contains("__delta_seq") || text.contains("__conflation_key");
        has(&self.name) || has(&self.data)
    }

    /// Where chains have keys it has none, and is in none of them.
    fn lacks_key(&self, channel: &str) -> bool {
        let data: Value = serde_json::from_str(&self.data).unwrap_or_default();
        channel == KEYED && !data["feed"].is_string()
    }

    /// An object or array stands in the envelope as it is.
    fn is_container(&self) -> bool {
        self.data.trim_start().starts_with(['{', '['])
            && serde_json::from_str::<serde::de::IgnoredAny>(&self.data).is_ok()
    }
}

/// Per channel, in the order in which it was published.
#[derive(Default)]
struct History(BTreeMap<&'static str, Vec<Published>>);

impl History {
    fn of(&self, channel: &str) -> &[Published] {
        self.0.get(channel).map_or(&[], Vec::as_slice)
    }
}

// --- who listens ----------------------------------------------------------------------

/// When and how a socket asks for deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OptIn {
    Global,
    /// Globally, once it has subscribed to something.
    Late,
    PerSubscription,
}

/// What a subscription must be sent, as far as it is certain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Plain,
    Chained,
    Either,
}

/// One subscription of a socket, from the moment it was asked for.
struct Room {
    form: Form,
    /// What comes with confirmations that are still to come.
    asked: VecDeque<Form>,
    /// Confirmed, and no event of a chain since: the next is full.
    fresh: bool,
    joined: bool,
    leaving: bool,
    /// It sees a run of the history that begins between these two.
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
    /// The front is the one that is there; behind it is what it comes back to.
    rooms: BTreeMap<&'static str, VecDeque<Room>>,
    closing: bool,
}

impl Room {
    fn asked_for(at: usize, form: Form) -> Room {
        let (asked, seen) = (VecDeque::from([form]), Vec::new());
        Room { form, asked, fresh: true, joined: false, leaving: false, from: at, to: at, seen }
    }

    fn is_settled(&self) -> bool {
        self.joined && self.asked.is_empty() && !self.leaving
    }

    /// Where in the history its run begins: `None` if what it saw is no run.
    /// `whole`: it must have seen all to the end.
    fn begins(&self, history: &[Published], socket_id: &str, whole: bool) -> Option<usize> {
        (self.from..=self.to).find(|start| {
            let mut meant =
                history[*start..].iter().filter(|event| event.except.as_deref() != Some(socket_id));
            let is_prefix = self.seen.iter().all(|seen| {
                meant.next().is_some_and(|event| event.name == seen.name && event.data == seen.data)
            });
            is_prefix && (!whole || meant.next().is_none())
        })
    }

    #[track_caller]
    fn check(&self, channel: &str, history: &[Published], socket_id: &str, whole: bool) {
        if !self.joined || self.begins(history, socket_id, whole).is_some() {
            return;
        }
        let published = history[self.from..].iter().map(|event| (&event.name, &event.data, &event.except));
        let seen = self.seen.iter().map(|seen| (&seen.name, &seen.data));
        let (seen, published) = (lines(seen), lines(published));
        let (from, to) = (self.from, self.to);
        panic!(
            "{socket_id} on {channel} saw no run of what was published, beginning {from}..={to}\n\
             seen:\n{seen}\npublished:\n{published}"
        );
    }
}

fn lines(items: impl Iterator<Item = impl std::fmt::Debug>) -> String {
    items.map(|item| format!("{item:?}").chars().take(160).chain(['\n']).collect::<String>()).collect()
}

impl Socket {
    /// Subscriptions that a random move may touch.
    fn settled(&self) -> Vec<&'static str> {
        let is_settled = |rooms: &VecDeque<Room>| rooms.len() == 1 && rooms[0].is_settled();
        self.rooms.iter().filter(|(_, rooms)| is_settled(rooms)).map(|(channel, _)| *channel).collect()
    }

    fn is_settled(&self) -> bool {
        !self.closing && self.settled().len() == self.rooms.len()
    }
}

// --- what it cost -----------------------------------------------------------------------

#[derive(Default)]
struct Tally {
    events: usize,
    chained: usize,
    deltas: usize,
    /// Of the deltas.
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
        assert!(self.deltas * 4 > self.chained, "many events come as deltas");
        assert!(self.vcdiff > 0 && self.keyed > 0, "of both formats, and with keys");
        assert!(self.wire_bytes * 4 < self.full_bytes * 3, "deltas save a quarter at least");
    }
}

/// Of the event's full frame: its envelope and the marker.
fn full_bytes(report: &Value) -> u64 {
    let seq = format!(r#","__delta_seq":{}"#, report["seq"]);
    let key = report["key"].as_str().map(|key| format!(r#","__conflation_key":"{key}""#)).unwrap_or_default();
    report["envelope_bytes"].as_u64().unwrap() + (seq.len() + key.len()) as u64
}

// --- the scene -----------------------------------------------------------------------------

struct Scene {
    rng: StdRng,
    cluster: Cluster,
    callers: Vec<Caller>,
    programs: Vec<Client>,
    sockets: BTreeMap<u64, Socket>,
    sockets_opened: u64,
    /// Sockets without deltas, one on each node, and what each has read.
    plain: Vec<(Browser, BTreeMap<String, usize>)>,
    history: History,
    payloads: Payloads,
    events: usize,
    tally: Tally,
}

impl Scene {
    async fn open(backend: Backend, rng: StdRng) -> Scene {
        let pattern = format!(r#"{{ "{KEYED}" = {{ conflation_key = "feed" }} }}"#);
        let app = AppSpec::new("1").set("channel_delta_compression", pattern);
        let cluster = Cluster::builder(backend).app(app).start().await;
        let app = cluster.first().app("1");
        let program = |_| {
            let launch = Launch::node("delta_browser.js");
            launch.env("APP_KEY", &app.key).env("APP_SECRET", &app.secret).start()
        };
        let programs = (0..PROGRAMS).map(program).collect();
        let plain = cluster.listeners(&CHANNELS).await.0;
        let mut scene = Scene {
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
            scene.open_socket().await;
        }
        for _ in 0..SOCKETS_MAX {
            scene.join_a_channel().await;
        }
        scene
    }

    // --- moves

    async fn move_somebody(&mut self) {
        match self.rng.random_range(0..20) {
            0 | 1 if self.sockets.len() < SOCKETS_MAX => self.open_socket().await,
            2 if self.sockets.len() > SOCKETS_MAX / 4 => self.close_socket(),
            3..=12 => self.join_a_channel().await,
            13 | 14 => self.leave_a_channel(false),
            15..=17 => self.leave_a_channel(true),
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
        self.programs[program].tell(&json!({ "cmd": "open", "id": id, "url": url, "optin": word }));
        let connects = |report: &Value| report["id"] == id && report["type"] == "connected";
        let connected = self.programs[program].find("connection", connects).await;
        let socket_id = connected["socket_id"].as_str().unwrap().to_owned();
        let socket = Socket { program, opt_in, socket_id, rooms: BTreeMap::new(), closing: false };
        self.sockets.insert(id, socket);
    }

    fn close_socket(&mut self) {
        let Some(id) = self.some_socket() else { return };
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.closing = true;
        self.programs[socket.program].tell(&json!({ "cmd": "close", "id": id }));
    }

    fn some_socket(&mut self) -> Option<u64> {
        let open: Vec<u64> = self.sockets.iter().filter(|(_, it)| !it.closing).map(|(id, _)| *id).collect();
        (!open.is_empty()).then(|| open[self.rng.random_range(0..open.len())])
    }

    /// Half of the joiners are waited for: their run begins right here.
    async fn join_a_channel(&mut self) {
        let Some(id) = self.some_socket() else { return };
        let channel = CHANNELS[self.rng.random_range(0..CHANNELS.len())];
        if self.sockets[&id].rooms.contains_key(channel) {
            return;
        }
        self.ask_for(id, channel);
        let socket = &self.sockets[&id];
        let program = socket.program;
        if socket.opt_in == OptIn::Late && self.rng.random() {
            self.programs[program].tell(&json!({ "cmd": "enable", "id": id }));
        }
        while self.rng.random() && !self.sockets[&id].rooms[channel][0].joined {
            let report = self.programs[program].next().await;
            self.take(&report);
        }
    }

    fn ask_for(&mut self, id: u64, channel: &'static str) {
        let (delta, form) = self.some_request(self.sockets[&id].opt_in);
        let at = self.history.of(channel).len();
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.rooms.entry(channel).or_default().push_back(Room::asked_for(at, form));
        let command = json!({ "cmd": "subscribe", "id": id, "channel": channel, "delta": delta });
        self.programs[socket.program].tell(&command);
    }

    /// What a subscription says of deltas, and what must come of it. (`null` is
    /// left out by the client.)
    fn some_request(&mut self, opt_in: OptIn) -> (Value, Form) {
        let asks = opt_in == OptIn::PerSubscription || self.rng.random_ratio(1, 6);
        let unsaid = match opt_in {
            OptIn::Global => Form::Chained,
            OptIn::Late => Form::Either,
            OptIn::PerSubscription => Form::Plain,
        };
        match self.rng.random_range(0..8) {
            0 => (json!(false), Form::Plain),
            1 if asks => (json!("fossil"), Form::Chained),
            2 if asks => (json!({ "enabled": true }), Form::Chained),
            3 | 4 if asks => (json!("xdelta3"), Form::Chained),
            _ if asks => (json!(true), Form::Chained),
            _ => (Value::Null, unsaid),
        }
    }

    fn leave_a_channel(&mut self, comes_back: bool) {
        let Some((id, channel)) = self.some_subscription() else { return };
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.rooms.get_mut(channel).unwrap()[0].leaving = true;
        let command = json!({ "cmd": "unsubscribe", "id": id, "channel": channel });
        self.programs[socket.program].tell(&command);
        if comes_back {
            self.ask_for(id, channel);
        }
    }

    /// While subscribed: the run goes on, perhaps in another form.
    fn subscribe_again(&mut self) {
        let Some((id, channel)) = self.some_subscription() else { return };
        let (delta, form) = self.some_request(self.sockets[&id].opt_in);
        let socket = self.sockets.get_mut(&id).unwrap();
        socket.rooms.get_mut(channel).unwrap()[0].asked.push_back(form);
        let command = json!({ "cmd": "subscribe", "id": id, "channel": channel, "delta": delta });
        self.programs[socket.program].tell(&command);
    }

    fn some_subscription(&mut self) -> Option<(u64, &'static str)> {
        let open = self.sockets.iter().filter(|(_, socket)| !socket.closing);
        let all: Vec<(u64, &'static str)> = open
            .flat_map(|(id, socket)| socket.settled().into_iter().map(|channel| (*id, channel)))
            .collect();
        (!all.is_empty()).then(|| all[self.rng.random_range(0..all.len())])
    }

    // --- publishing

    /// A batch or a single event, through one node and then another.
    async fn publish_something(&mut self, round: usize) {
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
        let except = self.some_except();
        let first = self.rng.random_range(0..CHANNELS.len());
        let count = if self.rng.random_ratio(1, 10) { CHANNELS.len() } else { 1 };
        let channels: Vec<&'static str> =
            (0..count).map(|more| CHANNELS[(first + more) % CHANNELS.len()]).collect();
        let event = Published { name, data, except };
        for channel in &channels {
            self.history.0.entry(channel).or_default().push(event.clone());
        }
        // Text, not a Value: what is not a string must go out as it is.
        let as_it_is = event.is_container() && event.data.trim() == event.data && self.rng.random_ratio(1, 3);
        let data = if as_it_is { event.data } else { Value::from(event.data).to_string() };
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

    fn some_except(&mut self) -> Option<String> {
        let id = self.some_socket().filter(|_| self.rng.random_ratio(1, 5))?;
        Some(self.sockets[&id].socket_id.clone())
    }

    // --- reading

    fn read_what_is_here(&mut self) {
        for program in 0..PROGRAMS {
            while let Some(report) = self.programs[program].try_next() {
                self.take(&report);
            }
        }
    }

    fn take(&mut self, report: &Value) {
        let id = report["id"].as_u64().unwrap_or_else(|| panic!("a report of nobody: {report}"));
        let kind = report["type"].as_str().unwrap();
        let channel = CHANNELS.into_iter().find(|channel| report["channel"] == *channel);
        match (kind, channel) {
            ("subscribed", Some(channel)) => self.subscribed(id, channel),
            ("unsubscribed", Some(channel)) => {
                let room = self.rooms(id, channel).pop_front().unwrap();
                self.end(id, channel, &room);
            }
            ("event", Some(channel)) => self.event_read(id, channel, report),
            ("stray", Some(_)) => self.tally.strays += 1,
            ("delta_enabled", _) => assert_eq!(report["data"]["enabled"], true, "{report}"),
            ("closed", None) => self.closed(id),
            _ => panic!("not expected: {report}"),
        }
    }

    fn rooms(&mut self, id: u64, channel: &'static str) -> &mut VecDeque<Room> {
        self.sockets.get_mut(&id).unwrap().rooms.get_mut(channel).unwrap()
    }

    fn subscribed(&mut self, id: u64, channel: &'static str) {
        let to = self.history.of(channel).len();
        let room = &mut self.rooms(id, channel)[0];
        room.form = room.asked.pop_front().expect("a subscription is confirmed once");
        room.fresh = true;
        if !std::mem::replace(&mut room.joined, true) {
            room.to = to;
        }
    }

    fn event_read(&mut self, id: u64, channel: &'static str, report: &Value) {
        let room = &mut self.rooms(id, channel)[0];
        assert!(room.joined, "before its confirmation: {report}");
        let text = |name: &str| report[name].as_str().unwrap().to_owned();
        let seen = Seen { name: text("event"), data: text("data") };
        check_form(room.form, channel, &seen, report);
        if !report["seq"].is_null() {
            let is_first = std::mem::replace(&mut room.fresh, false);
            assert!(!is_first || report["via"] == "full", "a delta without a full event: {report}");
        }
        room.seen.push(seen);
        self.tally.add(report);
    }

    fn closed(&mut self, id: u64) {
        assert!(self.sockets[&id].closing, "socket {id} was closed");
        let socket = self.sockets.remove(&id).unwrap();
        for (channel, rooms) in socket.rooms {
            let front = rooms.front().into_iter();
            front.for_each(|room| {
                room.check(channel, self.history.of(channel), &socket.socket_id, false);
            });
        }
    }

    fn end(&mut self, id: u64, channel: &'static str, room: &Room) {
        self.tally.runs += 1;
        let socket = self.sockets.get_mut(&id).unwrap();
        room.check(channel, self.history.of(channel), &socket.socket_id, false);
        if socket.rooms[channel].is_empty() {
            socket.rooms.remove(channel);
        }
    }

    // --- at times

    /// Publishes a last event on each channel and waits until all who are
    /// subscribed have read it, and everything before.
    async fn everybody_has_everything(&mut self) {
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
            socket.rooms.iter().all(|(channel, rooms)| {
                rooms[0].seen.last().is_some_and(|seen| seen.name == "marker" && is_last(seen, channel))
            })
        })
        .await;
        for socket in self.sockets.values() {
            for (channel, rooms) in &socket.rooms {
                rooms[0].check(channel, self.history.of(channel), &socket.socket_id, true);
            }
        }
        self.read_plain().await;
    }

    async fn read_until(&mut self, is_done: impl Fn(&Socket, &History) -> bool) {
        loop {
            self.read_what_is_here();
            let waits = self.sockets.values().find(|socket| !is_done(socket, &self.history));
            let Some(program) = waits.map(|socket| socket.program) else { return };
            let report = self.programs[program].next().await;
            self.take(&report);
        }
    }

    /// The sockets without deltas have seen nothing but Pusher's frames.
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

/// Markers only for who asked, and the publisher's JSON inline only with them.
fn check_form(form: Form, channel: &str, seen: &Seen, report: &Value) {
    let event = Published { name: seen.name.clone(), data: seen.data.clone(), except: None };
    let is_marked = !report["seq"].is_null();
    let may_be_marked = !event.has_marker() && !event.lacks_key(channel);
    let expected = match form {
        Form::Plain => false,
        Form::Chained => may_be_marked,
        Form::Either => is_marked && may_be_marked,
    };
    assert_eq!(is_marked, expected, "{form:?}: {report}");
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

/// What a feed sends for a while, before it sends something else.
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

/// Events of a feed, and everything that could upset a client.
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

    /// Most of it is as it was.
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

    /// About nine kilobytes, a little of it new.
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

/// Like nothing that came before.
fn noise(rng: &mut StdRng) -> String {
    let length = rng.random_range(0..9_000);
    (0..length).map(|_| char::from(rng.random_range(b' '..=b'~'))).collect()
}

// --- one socket --------------------------------------------------------------------------------

/// A socket in a program of its own.
struct Reader(Client);

/// Connected as `pusher-js`, or as whoever the query says.
const JS: &str = "client=js&version=8.6.0";

impl Reader {
    async fn open(server: &Server, client: &str, optin: &str) -> Reader {
        let app = server.app("1");
        let program =
            Launch::node("delta_browser.js").env("APP_KEY", &app.key).env("APP_SECRET", &app.secret);
        let mut reader = Reader(program.start());
        let url = format!("ws://{}/app/{}?protocol=7&{client}", server.addr(), app.key);
        reader.tell(json!({ "cmd": "open", "url": url, "optin": optin }));
        reader.expect("connected").await;
        reader
    }

    fn tell(&mut self, mut command: Value) {
        command["id"] = 1.into();
        self.0.tell(&command);
    }

    /// The next report, which must be of this type.
    async fn expect(&mut self, kind: &str) -> Value {
        let report = self.0.next().await;
        assert_eq!(report["type"], kind, "{report}");
        report
    }

    /// The global opt-in's answer.
    async fn expect_enabled(&mut self, enabled: bool) {
        let report = self.expect("delta_enabled").await;
        assert_eq!((&report["channel"], &report["data"]["enabled"]), (&Value::Null, &enabled.into()));
    }

    async fn subscribe(&mut self, channel: &str, delta: Value) {
        self.tell(json!({ "cmd": "subscribe", "channel": channel, "delta": delta }));
        self.expect("subscribed").await;
    }

    /// The next report, which must be the event with this data: how it came.
    async fn read(&mut self, data: &str) -> Came {
        let report = self.expect("event").await;
        assert_eq!(report["data"], data, "{report}");
        match (report["via"].as_str(), report["seq"].is_null()) {
            (Some("delta"), false) => Came::Delta,
            (Some("full"), false) => Came::Full,
            (Some("full"), true) => Came::Plain,
            _ => panic!("{report}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    Plain,
    Full,
    Delta,
}

/// No full event but where one is needed, so that tests can tell.
const NO_INTERVAL: &str = "[delta_compression]\nfull_message_interval = 0";

async fn server(config: &str) -> Server {
    Server::builder().config(config).start().await
}

/// Something worth a delta against its like, of about `size` bytes.
fn tick(number: usize, size: usize) -> String {
    // Not one letter again and again: that could be copied from any base.
    let mut rng = StdRng::seed_from_u64(1);
    let same: String = (0..size).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect();
    json!({ "number": number, "same": same }).to_string()
}

/// How a run of events came, each published and read in turn.
async fn run(reader: &mut Reader, caller: &Caller, channel: &str, texts: &[String]) -> Vec<Came> {
    let mut came = Vec::new();
    for text in texts {
        caller.publish(channel, "e", text).await;
        came.push(reader.read(text).await);
    }
    came
}

fn ticks(count: usize, size: usize) -> Vec<String> {
    (0..count).map(|number| tick(number, size)).collect()
}

use Came::{Delta, Full, Plain};

#[tokio::test]
async fn a_client_without_a_base_is_sent_a_full_event_next() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "global").await;
    reader.expect_enabled(true).await;
    reader.subscribe("news", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(3, 300)).await, [Full, Delta, Delta]);

    reader.tell(json!({ "cmd": "forget", "channel": "news" }));
    // Commands are read in turn: now the base is gone.
    reader.subscribe("other", Value::Null).await;
    caller.publish("news", "e", &tick(3, 300)).await;
    let failure = reader.expect("failure").await;
    assert_eq!(failure["reason"], "no base", "{failure}");
    // The client has complained by now, and what it says next is read after that.
    reader.subscribe("another", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(2, 300)).await, [Full, Delta]);
}

#[tokio::test]
async fn a_socket_may_ask_after_it_has_subscribed() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "none").await;
    reader.subscribe("news", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(2, 300)).await, [Plain, Plain]);
    reader.tell(json!({ "cmd": "enable", "algorithms": ["xdelta3", "fossil"] }));
    reader.expect_enabled(true).await;
    // What a socket says is heard in turn.
    reader.subscribe("other", Value::Null).await;
    assert_eq!(run(&mut reader, &caller, "news", &ticks(3, 300)).await, [Full, Delta, Delta]);
}

#[tokio::test]
async fn encrypted_events_are_never_marked() {
    let server = server(NO_INTERVAL).await;
    let caller = server.caller("1");
    let mut reader = Reader::open(&server, JS, "global").await;
    reader.expect_enabled(true).await;
    reader.subscribe("private-encrypted-room", json!("fossil")).await;
    let sealed: Vec<String> = (0..5).map(|number| sealed(number, 400)).collect();
    let came = run(&mut reader, &caller, "private-encrypted-room", &sealed).await;
    // And nothing confirmed the channel's own opt-in in between.
    assert_eq!(came, [Plain; 5]);
}

/// As Pusher's libraries seal events, as far as anybody without the key can see.
fn sealed(number: usize, size: usize) -> String {
    json!({ "nonce": format!("{number:032}"), "ciphertext": "c".repeat(size) }).to_string()
}

/// protocol.md 3.6: it says that it decodes deltas, and would lose them.
#[tokio::test]
async fn the_python_client_is_confirmed_and_sent_full_events() {
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
async fn a_server_without_deltas_marks_nothing() {
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
async fn full_events_come_at_the_interval() {
    let server = server("[delta_compression]\nfull_message_interval = 4").await;
    let mut reader = Reader::open(&server, JS, "subscription").await;
    reader.subscribe("news", Value::Null).await;
    reader.expect("delta_enabled").await;
    let came = run(&mut reader, &server.caller("1"), "news", &ticks(24, 300)).await;
    // Where the first one falls is up to the channel's numbers.
    let deltas: Vec<usize> = came.split(|came| *came != Delta).map(<[Came]>::len).collect();
    let whole: &[usize] = &deltas[2..deltas.len() - 1];
    assert_eq!(whole, vec![4; whole.len()], "{came:?}");
    assert!(deltas.iter().all(|count| *count <= 4), "{came:?}");
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

    // Whoever publishes may insist.
    let event = json!({ "name": "e", "channel": "news", "data": small(6), "delta": true });
    caller.post_events(event).await.expect_ok();
    assert_eq!(reader.read(&small(6)).await, Delta);
}

#[tokio::test]
async fn a_delta_that_saves_too_little_is_not_sent() {
    let config = "[delta_compression]\nfull_message_interval = 0\nmin_compression_ratio = 0.4";
    let server = server(config).await;
    let mut reader = Reader::open(&server, JS, "subscription").await;
    reader.subscribe("news", Value::Null).await;
    reader.expect("delta_enabled").await;
    // The frame around a delta has about 160 bytes.
    let texts = [tick(0, 150), tick(1, 150), tick(2, 1_500), tick(3, 1_500), tick(4, 150)];
    let came = run(&mut reader, &server.caller("1"), "news", &texts).await;
    assert_eq!(came, [Full, Full, Full, Delta, Full]);
}

/// protocol.md 3.2, the table, with what each form must come to.
#[tokio::test]
async fn a_subscription_may_ask_in_every_form() {
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
        let came = run(&mut reader, &caller, &channel, &ticks(2, 300)).await;
        assert_eq!(came, [Full, Delta], "{delta}");
    }
    let off = [json!("disabled"), json!("false"), json!("None"), json!({ "enabled": false }), json!(false)];
    for (number, delta) in off.iter().enumerate() {
        // The channel's own word is stronger than the socket's, which comes last here.
        let channel = format!("off-{number}");
        reader.subscribe(&channel, delta.clone()).await;
        reader.tell(json!({ "cmd": "enable" }));
        reader.expect_enabled(true).await;
        let came = run(&mut reader, &caller, &channel, &ticks(2, 300)).await;
        assert_eq!(came, [Plain; 2], "{delta}");
    }
}

#[tokio::test]
async fn what_means_nothing_leaves_the_socket_to_decide() {
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
