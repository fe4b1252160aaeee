//! `clients/js` as applications use it: stock `pusher-js` with `withDeltas`, in
//! Node and on the example's page in Chromium. The application receives the
//! published events, whatever their encoding.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::json_lines::{BROWSER_TIMEOUT, Client, Launch};
use crate::support::web_app::ProcessGroup;
use crate::support::{Caller, Server, bounded};

/// A screenshot of a page with text is larger than this.
const SCREENSHOT_BYTES_MIN: u64 = 20_000;

const CHANNELS: [&str; 2] = ["prices", "news"];
const BATCHES: usize = 30;
const BATCH_EVENTS: usize = 10;

/// `tests/clients/fanfare_js.js`, and the browser that it has opened.
struct Program {
    client: Client,
    chromium: Option<ProcessGroup>,
}

impl Program {
    fn start(server: &Server) -> Program {
        let app = server.app("1");
        let launch = Launch::node("fanfare_js.js").addr(server.addr()).timeout(BROWSER_TIMEOUT);
        let client = launch.arg(&app.id).arg(&app.key).arg(&app.secret).start();
        Program { client, chromium: None }
    }

    /// In Node, connected and subscribed, with these options of `withDeltas`.
    async fn subscribed(server: &Server, options: Value, channels: &[&str]) -> Program {
        let mut program = Program::start(server);
        program.client.send(&json!({ "cmd": "connect", "options": options }));
        program.report("connected").await;
        for channel in channels {
            program.subscribe(channel).await;
        }
        program
    }

    async fn subscribe(&mut self, channel: &str) {
        self.client.send(&json!({ "cmd": "subscribe", "channel": channel }));
        self.subscription_succeeded(channel).await;
    }

    async fn subscription_succeeded(&mut self, channel: &str) {
        let report = self.report("event").await;
        let (name, of) = (&report["event"], &report["channel"]);
        assert_eq!((name, of), (&"pusher:subscription_succeeded".into(), &channel.into()), "{report}");
    }

    /// Opens the page of the example; from then on it reports the market's ticks.
    async fn browse(&mut self, profile: &Path) {
        self.client.send(&json!({ "cmd": "browse", "profile": profile }));
        let chromium = self.report("chromium").await;
        self.chromium = chromium["pid"].as_u64().map(ProcessGroup);
        self.report("done").await;
    }

    async fn report(&mut self, kind: &str) -> Value {
        let report = self.client.next().await;
        assert_eq!(report["type"], kind, "{report}");
        report
    }

    async fn expect_events(&mut self, published: &[Event]) {
        for event in published {
            let expected = json!({
                "type": "event", "channel": event.channel, "event": event.name, "data": event.seen(),
            });
            assert_eq!(self.report("event").await, expected);
        }
    }

    /// Makes the client lose the next delta.
    async fn lose(&mut self) {
        self.client.send(&json!({ "cmd": "lose" }));
        self.report("done").await;
    }

    async fn expect_restart(&mut self) {
        assert_eq!(self.report("event").await["event"], "fanfare:restart");
    }

    async fn stats(&mut self) -> Value {
        self.client.send(&json!({ "cmd": "stats" }));
        self.client.find("stats", |report| report["type"] == "stats").await
    }

    /// Waits until the client has requested a resync and the server has handled the
    /// request.
    async fn wait_for_resync(&mut self) {
        while self.stats().await["resyncs"] != 1 {}
        // The server handles the frames of a socket in order.
        self.subscribe("other").await;
    }
}

impl Drop for Program {
    /// Node ends its browser by itself, unless it is killed first.
    fn drop(&mut self) {
        if let Some(chromium) = self.chromium.take() {
            chromium.kill();
        }
    }
}

struct Event {
    channel: &'static str,
    name: String,
    data: String,
}

impl Event {
    /// Similar to its neighbours, of two names, and at intervals not JSON.
    fn new(channel: &'static str, number: usize) -> Event {
        let name = if number.is_multiple_of(3) { "trade" } else { "quote" };
        let text = "čeština \"🎺\" and more of the same, ".repeat(8);
        let data = match number % 11 {
            7 => format!("not JSON, number {number}: {text}"),
            _ => json!({ "number": number, "text": text, "list": [number / 7, "x", null] }).to_string(),
        };
        Event { channel, name: name.into(), data }
    }

    /// As pusher-js passes it on.
    fn seen(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| self.data.as_str().into())
    }

    fn json(&self) -> Value {
        json!({ "channel": self.channel, "name": self.name, "data": self.data })
    }
}

fn events(channel: &'static str, numbers: std::ops::Range<usize>) -> Vec<Event> {
    numbers.map(|number| Event::new(channel, number)).collect()
}

async fn publish(caller: &Caller, events: &[Event]) {
    let batch: Vec<Value> = events.iter().map(Event::json).collect();
    caller.post_batch(batch.into()).await.expect_ok();
}

/// Full events only where one is needed.
const NO_INTERVAL: &str = "[delta_compression]\nfull_message_interval = 0";

async fn server() -> Server {
    Server::builder().config(NO_INTERVAL).start().await
}

/// Batches to two channels in turn.
async fn run(server: &Server, program: &mut Program) -> Value {
    let caller = server.caller("1");
    for batch in 0..BATCHES {
        let first = batch * BATCH_EVENTS;
        let events = events(CHANNELS[batch % CHANNELS.len()], first..first + BATCH_EVENTS);
        publish(&caller, &events).await;
        program.expect_events(&events).await;
    }
    let stats = program.stats().await;
    println!("{stats}");
    assert_eq!(stats["events"], BATCHES * BATCH_EVENTS, "{stats}");
    // The first event of each channel is full.
    assert_eq!(stats["deltas"], BATCHES * BATCH_EVENTS - CHANNELS.len(), "{stats}");
    assert_eq!((&stats["resyncs"], &stats["restarted"]), (&0.into(), &0.into()), "{stats}");
    let (saved, full) = (stats["saved"].as_f64().unwrap(), stats["fullBytes"].as_f64().unwrap());
    assert!(saved > 0.3 * full, "{stats}");
    stats
}

#[tokio::test]
async fn pusher_js_in_node_receives_every_event_of_batches() {
    bounded(async {
        let server = server().await;
        let mut program = Program::subscribed(&server, json!({}), &CHANNELS).await;
        let stats = run(&server, &mut program).await;
        assert_eq!(stats["algorithms"], json!({ "fossil": stats["deltas"] }), "{stats}");
    })
    .await;
}

#[tokio::test]
async fn pusher_js_decodes_vcdiff() {
    bounded(async {
        let server = server().await;
        let mut program = Program::subscribed(&server, json!({ "algorithm": "xdelta3" }), &CHANNELS).await;
        let stats = run(&server, &mut program).await;
        assert_eq!(stats["algorithms"], json!({ "xdelta3": stats["deltas"] }), "{stats}");
    })
    .await;
}

#[tokio::test]
async fn laravel_echo_receives_every_event() {
    bounded(async {
        let server = server().await;
        let mut program = Program::subscribed(&server, json!({}), &[]).await;
        program.client.send(&json!({ "cmd": "echo", "channel": "news", "events": ["quote", "trade"] }));
        assert_eq!(program.report("event").await["event"], "subscribed");
        publish(&server.caller("1"), &events("news", 0..10)).await;
        program.expect_events(&events("news", 0..10)).await;
        assert_eq!(program.stats().await["deltas"], 9);
    })
    .await;
}

/// Without resume, the application receives an event that reports the loss.
#[tokio::test]
async fn pusher_js_without_resume_reports_lost_event() {
    bounded(async {
        let server = server().await;
        let caller = server.caller("1");
        let mut program = Program::subscribed(&server, json!({ "resume": false }), &["news"]).await;
        publish(&caller, &events("news", 0..1)).await;
        program.expect_events(&events("news", 0..1)).await;
        program.lose().await;
        publish(&caller, &events("news", 1..3)).await;
        program.expect_restart().await;
        program.wait_for_resync().await;
        publish(&caller, &events("news", 3..6)).await;
        program.expect_events(&events("news", 3..6)).await;
        let stats = program.stats().await;
        assert_eq!((&stats["events"], &stats["deltas"]), (&4.into(), &2.into()), "{stats}");
    })
    .await;
}

/// With resume, no event is lost.
#[tokio::test]
async fn pusher_js_with_resume_recovers_lost_event() {
    bounded(async {
        let server = server().await;
        let caller = server.caller("1");
        publish(&caller, &events("news", 0..1)).await;
        let mut program = Program::subscribed(&server, json!({}), &["news"]).await;
        publish(&caller, &events("news", 1..2)).await;
        program.expect_events(&events("news", 1..2)).await;
        program.lose().await;
        publish(&caller, &events("news", 2..7)).await;
        program.expect_events(&events("news", 2..7)).await;
        publish(&caller, &events("news", 7..10)).await;
        program.expect_events(&events("news", 7..10)).await;
        let stats = program.stats().await;
        let counts = ["resyncs", "resumed", "restarted"].map(|name| stats[name].clone());
        assert_eq!(counts, [1, 1, 0].map(Value::from), "{stats}");
    })
    .await;
}

#[tokio::test]
async fn pusher_js_recovers_events_published_while_disconnected() {
    bounded(async {
        let server = server().await;
        publish(&server.caller("1"), &events("news", 0..10)).await;
        let program = Program::subscribed(&server, json!({}), &["news"]).await;
        resume_five_times(&server, program).await;
    })
    .await;
}

/// The channel had no events when the client subscribed.
#[tokio::test]
async fn pusher_js_resumes_channel_without_events_at_subscription() {
    bounded(async {
        let server = server().await;
        let program = Program::subscribed(&server, json!({}), &["news"]).await;
        resume_five_times(&server, program).await;
    })
    .await;
}

async fn resume_five_times(server: &Server, mut program: Program) {
    let caller = server.caller("1");
    publish(&caller, &events("news", 0..10)).await;
    program.expect_events(&events("news", 0..10)).await;
    for round in 1..=5 {
        let missed = events("news", round * 10..round * 10 + 10);
        program.client.send(&json!({ "cmd": "leave" }));
        caller.count_becomes("news", 0).await;
        publish(&caller, &missed).await;
        program.client.send(&json!({ "cmd": "come_back" }));
        program.report("connected").await;
        program.subscription_succeeded("news").await;
        program.expect_events(&missed).await;
    }
    let stats = program.stats().await;
    let counts = ["events", "deltas", "resumed", "restarted"].map(|name| stats[name].clone());
    // Also the first event after each reconnect: the client still has the base.
    assert_eq!(counts, [60, 59, 5, 0].map(Value::from), "{stats}");
}

/// Names of the protocol, which no backend may publish: their meaning to the
/// client, or to `withDeltas`, would corrupt its state.
const RESERVED: [&str; 16] = [
    "pusher:",
    "pusher:delta",
    "pusher:delta_cache_sync",
    "pusher:delta_compression_enabled",
    "pusher:error",
    "pusher:ping",
    "pusher:position",
    "pusher:subscription_error",
    "pusher:subscription_succeeded",
    "pusher_internal:",
    "pusher_internal:member_removed",
    "pusher_internal:subscription_succeeded",
    "sockudo:",
    "sockudo:delta",
    "sockudo_internal:",
    "sockudo_internal:subscription_succeeded",
];

/// Names that resemble them.
const LEGAL: [&str; 10] = [
    "pusher",
    "pusher-notification",
    "pusher_internal",
    "xpusher:delta",
    "Pusher:delta",
    "pusherx:delta",
    "sockudo",
    "sockudo-x",
    "sockudo_internal",
    "Sockudo:delta",
];

#[tokio::test]
async fn reserved_event_names_are_refused_and_similar_names_arrive_as_deltas() {
    bounded(async {
        let server = server().await;
        let caller = server.caller("1");
        let mut program = Program::subscribed(&server, json!({}), &["news"]).await;
        for (round, reserved) in RESERVED.iter().enumerate() {
            // A refused batch publishes none of its events.
            let mut refused = events("news", 0..2);
            refused[1].name = (*reserved).into();
            let single = caller.post_events(refused[1].json()).await;
            single.expect_error(400, "invalid_input").of_field("name").without_index();
            let batch = caller.post_batch(refused.iter().map(Event::json).collect()).await;
            batch.expect_error(400, "invalid_input").of_field("name").at_index(1);

            let first = round * LEGAL.len();
            let mut legal = events("news", first..first + LEGAL.len());
            for (at, event) in legal.iter_mut().enumerate() {
                event.name = LEGAL[(round + at) % LEGAL.len()].into();
            }
            publish(&caller, &legal).await;
            program.expect_events(&legal).await;
        }
        let stats = program.stats().await;
        let events = RESERVED.len() * LEGAL.len();
        let counts = ["events", "deltas", "resyncs", "restarted"].map(|name| stats[name].clone());
        assert_eq!(counts, [events, events - 1, 0, 0].map(Value::from), "{stats}");
    })
    .await;
}

/// The screenshot is in `target/tmp`.
#[tokio::test]
async fn example_page_in_chromium_shows_bytes_saved_by_deltas() {
    bounded(async {
        let server = Server::builder().start().await;
        let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("deltas.png");
        // The screenshot checked below must be from this run.
        let _ = std::fs::remove_file(&screenshot);
        let profile = TempDir::new().unwrap();
        let mut program = Program::start(&server);
        program.browse(profile.path()).await;

        program.client.send(&json!({ "cmd": "publish", "count": 5, "batches": 20 }));
        let (mut published, mut seen) = (Vec::new(), Vec::new());
        while published.len() < 100 || seen.len() < 100 {
            let mut report = program.client.next().await;
            match report["type"].as_str() {
                Some("published") => published.append(report["data"].as_array_mut().unwrap()),
                Some("event") => seen.push(report["data"].take()),
                _ => panic!("{report}"),
            }
        }
        assert_eq!(seen, published);

        let stats = program.stats().await;
        println!("{stats}");
        assert_eq!(stats["events"], 100, "{stats}");
        assert!(stats["deltas"].as_u64() > Some(80), "{stats}");
        assert!(2 * stats["saved"].as_u64().unwrap() > stats["fullBytes"].as_u64().unwrap(), "{stats}");
        program.client.send(&json!({ "cmd": "screenshot", "file": screenshot }));
        program.report("done").await;
        program.chromium = None;
        println!("screenshot: {}", screenshot.display());
        let size = std::fs::metadata(&screenshot).unwrap().len();
        assert!(size > SCREENSHOT_BYTES_MIN, "{} has only {size} bytes", screenshot.display());
    })
    .await;
}
