//! A subscriber reconnects repeatedly through HAProxy to other nodes, while hundreds of
//! events per second are published: it receives every event for it once and in order.
//!
//! `FANFARE_RESUME_RECONNECTS` sets the number of reconnects to another node (default: 30;
//! full run: 200).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::support::browser::Incoming;
use crate::support::delta_client::Encoding;
use crate::support::haproxy::Site;
use crate::support::{AppSpec, Browser, Caller, FrameKind, ResumeState, STEP_TIMEOUT, Seed, within};

const CHANNEL: &str = "market";
const BATCHES_PER_SECOND: u64 = 50;
const BATCH: usize = 10;
const DELAY_MAX: Duration = Duration::from_secs(1);
const LAST: &str = "last";
/// The common part of all events. At this length, the history of 1 MiB holds five seconds of
/// events.
const NOTE: &str = "a quotation that is mostly the same each time it is sent, like all of those that came before it \
    and all that will come after it: the name of the paper, the exchange that it is traded at, its currency, the \
    hours of trading, and the terms under which all of this may be shown to others";

#[tokio::test]
async fn cluster_behind_haproxy_resume_on_other_nodes_loses_no_event() {
    let reconnects = std::env::var("FANFARE_RESUME_RECONNECTS").map_or(30, |text| text.parse().unwrap());
    within(Duration::from_secs(60) + 3 * DELAY_MAX * reconnects, async {
        let app = AppSpec::new("1").set("max_event_batch_size", 100);
        let site = Site::start_with(app, "[tag_filtering]\nenabled = true\n").await;
        let mut rng = Seed::new().rng();
        let mut tally = Tally::default();
        let mut reader = Reader::default();
        let mut browser = site.browser().await;
        reader.subscribe(&mut browser).await;
        let mut node = node_of(&site).await;

        let socket = Arc::new(Mutex::new(browser.socket_id().to_owned()));
        let is_finished = Arc::new(AtomicBool::new(false));
        let publisher =
            tokio::spawn(publish(site.haproxy.addr(), site.app(), socket.clone(), is_finished.clone()));
        let began = Instant::now();
        while tally.moves < reconnects {
            let stays = Duration::from_millis(rng.random_range(50..600));
            reader.read_for(&mut browser, stays).await;
            drop(browser);
            let delay = DELAY_MAX.mul_f64(rng.random());
            tally.delay_max = tally.delay_max.max(delay);
            tokio::time::sleep(delay).await;
            browser = site.browser().await;
            *socket.lock() = browser.socket_id().to_owned();
            let before = reader.received.len();
            assert!(reader.subscribe(&mut browser).await, "resumed after {delay:?}");
            assert_eq!(reader.received.len(), before);
            tally.reconnects += 1;
            let now = node_of(&site).await;
            tally.visits[now] += 1;
            tally.moves += u32::from(now != node);
            node = now;
        }
        let lasted = began.elapsed();
        is_finished.store(true, Ordering::Relaxed);
        let published = publisher.await.unwrap();
        reader.read_to_the_end(&mut browser).await;
        tally.check(&published, &reader, lasted);
    })
    .await;
}

/// A published event.
struct Published {
    data: String,
    tag: &'static str,
    excluded: Option<String>,
}

/// Publishes at a constant rate until `is_finished`, then one last event without exclusion.
/// Each batch has its own connection, because HAProxy sends all requests of one connection
/// to the same node.
async fn publish(
    haproxy: SocketAddr,
    app: AppSpec,
    socket: Arc<Mutex<String>>,
    is_finished: Arc<AtomicBool>,
) -> Vec<Published> {
    let caller = || Caller::new(haproxy, app.clone());
    let mut published = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / BATCHES_PER_SECOND as u32);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !is_finished.load(Ordering::Relaxed) {
        pace.tick().await;
        let first = published.len();
        published.extend((first..first + BATCH).map(|number| event(number, &socket)));
        let batch = published[first..].iter().map(Published::body).collect();
        caller().post_batch(batch).await.expect_ok();
    }
    let last = Published { data: LAST.into(), tag: "goal", excluded: None };
    caller().post_events(last.body()).await.expect_ok();
    published.push(last);
    published
}

/// The reader's filter drops one third of the events; one tenth exclude the reader's socket
/// id, as if it had sent them.
fn event(number: usize, socket: &Mutex<String>) -> Published {
    let data = json!({
        "number": number,
        "bid": number * 7 % 1_000,
        "note": NOTE,
    });
    Published {
        data: data.to_string(),
        tag: ["goal", "card", "shot"][number % 3],
        excluded: (number % 10 == 3).then(|| socket.lock().clone()),
    }
}

impl Published {
    fn body(&self) -> Value {
        let mut body = json!({
            "name": "e", "channel": CHANNEL, "data": self.data, "tags": { "kind": self.tag },
        });
        if let Some(excluded) = &self.excluded {
            body["socket_id"] = excluded.as_str().into();
        }
        body
    }
}

/// Index of the node with the only connection.
async fn node_of(site: &Site) -> usize {
    let sockets = async || {
        let sockets = site.sockets().await;
        match sockets.iter().sum() {
            1_usize => Ok(sockets.iter().position(|count| *count == 1).expect("a node with the connection")),
            _ => Err(format!("{sockets:?}")),
        }
    };
    crate::support::eventually("one socket on one node", STEP_TIMEOUT, sockets).await
}

#[derive(Default)]
struct Reader {
    state: ResumeState,
    /// The kind of frame and the data of each received event.
    received: Vec<(Encoding, String)>,
    bytes: usize,
    full_bytes: usize,
    has_subscribed: bool,
}

impl Reader {
    /// Returns whether the subscription was resumed.
    async fn subscribe(&mut self, browser: &mut Browser) -> bool {
        let resume = match std::mem::replace(&mut self.has_subscribed, true) {
            true => self.state.resume(),
            false => json!(true),
        };
        self.state.sockets.push(browser.socket_id().to_owned());
        let filter = json!({ "key": "kind", "cmp": "in", "vals": ["goal", "card"] });
        let members = json!({ "delta": true, "filter": filter, "resume": resume });
        let succeeded = browser.subscribe_with(CHANNEL, members).await;
        self.state.on_confirmation(&succeeded)
    }

    async fn read_for(&mut self, browser: &mut Browser, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(incoming) = tokio::time::timeout_at(end, browser.incoming_within(STEP_TIMEOUT)).await {
            let Incoming::Frame(frame) = incoming else { panic!("closed by the server: {incoming:?}") };
            self.on_frame(&frame);
        }
    }

    async fn read_to_the_end(&mut self, browser: &mut Browser) {
        while self.received.last().is_none_or(|(_, data)| data != LAST) {
            let frame = browser.next().await;
            self.on_frame(&frame);
        }
    }

    fn on_frame(&mut self, frame: &crate::support::Frame) {
        match self.state.on_frame(frame) {
            FrameKind::Event(event) => {
                self.bytes += event.bytes;
                self.full_bytes += event.text.len();
                self.received.push((event.encoding, event.data));
            }
            FrameKind::Position { missed } => assert!(!missed, "{}", frame.text),
            FrameKind::Other(frame) if frame.event == "pusher:delta_compression_enabled" => {}
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Default)]
struct Tally {
    reconnects: u32,
    /// Reconnects that led to another node.
    moves: u32,
    visits: [usize; 3],
    delay_max: Duration,
}

impl Tally {
    fn check(&self, published: &[Published], reader: &Reader, lasted: Duration) {
        let is_own = |event: &Published| {
            event.excluded.as_ref().is_some_and(|socket| reader.state.sockets.contains(socket))
        };
        let own = published.iter().filter(|event| is_own(event)).count();
        let expected: Vec<&str> = published
            .iter()
            .filter(|event| event.tag != "shot" && !is_own(event))
            .map(|event| event.data.as_str())
            .collect();
        let received: Vec<&str> = reader.received.iter().map(|(_, data)| data.as_str()).collect();
        let distinct: std::collections::HashSet<&str> = received.iter().copied().collect();
        let lost = expected.iter().filter(|data| !distinct.contains(*data)).count();
        let deltas = reader.received.iter().filter(|(encoding, _)| *encoding == Encoding::Delta).count();
        let share = 100.0 * deltas as f64 / received.len() as f64;
        println!(
            "{} reconnects, {} of them to another node; nodes visited {:?}; delay at most {:?}",
            self.reconnects, self.moves, self.visits, self.delay_max
        );
        println!(
            "{} events in {lasted:?} ({:.0}/s), {own} of them the reader's own; {} expected, {} received",
            published.len(),
            published.len() as f64 / lasted.as_secs_f64(),
            expected.len(),
            received.len(),
        );
        println!(
            "{deltas} deltas ({share:.1} %), {} bytes for {}; lost {lost}, duplicates {}",
            reader.bytes,
            reader.full_bytes,
            received.len() - distinct.len(),
        );
        let differs = expected.iter().zip(&received).position(|(expected, received)| expected != received);
        assert!(differs.is_none(), "out of order at {differs:?}");
        assert_eq!((received.len(), lost), (expected.len(), 0));
        assert!(self.visits.iter().all(|visits| *visits > 0), "{:?}", self.visits);
        assert!(own > 0 && share > 60.0, "mostly deltas: {share} %");
    }
}
