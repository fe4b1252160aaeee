//! A subscriber whose connection is cut again and again, and who comes back through
//! HAProxy to another node each time, while hundreds of events per second are
//! published: it gets every event that is meant for it once, in order.
//!
//! `FANFARE_RESUME_RECONNECTS` says how often (30 where it is not set, 200 for the
//! full run).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::RngExt;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use crate::support::browser::Incoming;
use crate::support::delta_client::Came;
use crate::support::haproxy::Site;
use crate::support::{AppSpec, Browser, Caller, Heard, Memory, PATIENCE, Seed};
use crate::witness::within;

const CHANNEL: &str = "market";
const BATCHES_PER_SECOND: u64 = 50;
const BATCH: usize = 10;
const DELAY_MAX: Duration = Duration::from_secs(1);
const LAST: &str = "last";
/// What all events have in common. They are as long as they may be for the log to
/// hold five seconds of them in its megabyte.
const NOTE: &str = "a quotation that is mostly the same each time it is sent, like all of those that came before it \
    and all that will come after it: the name of the paper, the exchange that it is traded at, its currency, the \
    hours of trading, and the terms under which all of this may be shown to others";

#[tokio::test]
async fn cluster_behind_haproxy_is_resumed_on_another_node_again_and_again() {
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
        let is_over = Arc::new(AtomicBool::new(false));
        let publisher =
            tokio::spawn(publish(site.haproxy.addr(), site.app(), socket.clone(), is_over.clone()));
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
        is_over.store(true, Ordering::Relaxed);
        let published = publisher.await.unwrap();
        reader.read_to_the_end(&mut browser).await;
        tally.check(&published, &reader, lasted);
    })
    .await;
}

/// What was published, in order.
struct Published {
    data: String,
    tag: &'static str,
    except: Option<String>,
}

/// Publishes at an even pace until it is told to end, the last event for everyone.
/// Each batch has a connection of its own: HAProxy sends all requests of one
/// connection to the same node.
async fn publish(
    haproxy: SocketAddr,
    app: AppSpec,
    socket: Arc<Mutex<String>>,
    is_over: Arc<AtomicBool>,
) -> Vec<Published> {
    let caller = || Caller::new(haproxy, app.clone());
    let mut published = Vec::new();
    let mut pace = tokio::time::interval(Duration::from_secs(1) / BATCHES_PER_SECOND as u32);
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !is_over.load(Ordering::Relaxed) {
        pace.tick().await;
        let first = published.len();
        published.extend((first..first + BATCH).map(|number| event(number, &socket)));
        let batch = published[first..].iter().map(Published::body).collect();
        caller().post_batch(batch).await.expect_ok();
    }
    let last = Published { data: LAST.into(), tag: "goal", except: None };
    caller().post_events(last.body()).await.expect_ok();
    published.push(last);
    published
}

/// A third is filtered out, and the reader has sent a tenth of the rest itself.
fn event(number: usize, socket: &Mutex<String>) -> Published {
    let data = json!({
        "number": number,
        "bid": number * 7 % 1_000,
        "note": NOTE,
    });
    Published {
        data: data.to_string(),
        tag: ["goal", "card", "shot"][number % 3],
        except: (number % 10 == 3).then(|| socket.lock().clone()),
    }
}

impl Published {
    fn body(&self) -> Value {
        let mut body = json!({
            "name": "e", "channel": CHANNEL, "data": self.data, "tags": { "kind": self.tag },
        });
        if let Some(except) = &self.except {
            body["socket_id"] = except.as_str().into();
        }
        body
    }
}

/// The node that the only subscriber is on.
async fn node_of(site: &Site) -> usize {
    let sockets = async || {
        let sockets = site.sockets().await;
        match sockets.iter().sum() {
            1_usize => Ok(sockets.iter().position(|count| *count == 1).expect("one of them has it")),
            _ => Err(format!("{sockets:?}")),
        }
    };
    crate::support::eventually("one socket on one node", PATIENCE, sockets).await
}

#[derive(Default)]
struct Reader {
    memory: Memory,
    /// How each event came, and what was published.
    received: Vec<(Came, String)>,
    bytes: usize,
    full_bytes: usize,
    has_subscribed: bool,
}

impl Reader {
    /// Whether it is resumed.
    async fn subscribe(&mut self, browser: &mut Browser) -> bool {
        let resume = match std::mem::replace(&mut self.has_subscribed, true) {
            true => self.memory.resume(),
            false => json!(true),
        };
        self.memory.sockets.push(browser.socket_id().to_owned());
        let filter = json!({ "key": "kind", "cmp": "in", "vals": ["goal", "card"] });
        let members = json!({ "delta": true, "filter": filter, "resume": resume });
        let succeeded = browser.subscribe_with(CHANNEL, members).await;
        self.memory.stand(&succeeded)
    }

    async fn read_for(&mut self, browser: &mut Browser, time: Duration) {
        let end = tokio::time::Instant::now() + time;
        while let Ok(incoming) = tokio::time::timeout_at(end, browser.next_kept_within(PATIENCE)).await {
            let Incoming::Frame(frame) = incoming else { panic!("cut by the server: {incoming:?}") };
            self.hear(&frame);
        }
    }

    async fn read_to_the_end(&mut self, browser: &mut Browser) {
        while self.received.last().is_none_or(|(_, data)| data != LAST) {
            let frame = browser.next().await;
            self.hear(&frame);
        }
    }

    fn hear(&mut self, frame: &crate::support::Frame) {
        match self.memory.hear(frame) {
            Heard::Event(told) => {
                self.bytes += told.bytes;
                self.full_bytes += told.text.len();
                self.received.push((told.came, told.data));
            }
            Heard::Position { missed } => assert!(!missed, "{}", frame.text),
            Heard::Other(frame) if frame.event == "pusher:delta_compression_enabled" => {}
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
            event.except.as_ref().is_some_and(|except| reader.memory.sockets.contains(except))
        };
        let own = published.iter().filter(|event| is_own(event)).count();
        let meant: Vec<&str> = published
            .iter()
            .filter(|event| event.tag != "shot" && !is_own(event))
            .map(|event| event.data.as_str())
            .collect();
        let received: Vec<&str> = reader.received.iter().map(|(_, data)| data.as_str()).collect();
        let distinct: std::collections::HashSet<&str> = received.iter().copied().collect();
        let lost = meant.iter().filter(|data| !distinct.contains(*data)).count();
        let deltas = reader.received.iter().filter(|(came, _)| *came == Came::Delta).count();
        let share = 100.0 * deltas as f64 / received.len() as f64;
        println!(
            "{} reconnects, {} of them to another node; nodes visited {:?}; delay at most {:?}",
            self.reconnects, self.moves, self.visits, self.delay_max
        );
        println!(
            "{} events in {lasted:?} ({:.0}/s), {own} of them the reader's own; {} meant for it, {} received",
            published.len(),
            published.len() as f64 / lasted.as_secs_f64(),
            meant.len(),
            received.len(),
        );
        println!(
            "{deltas} deltas ({share:.1} %), {} bytes for {}; lost {lost}, duplicates {}",
            reader.bytes,
            reader.full_bytes,
            received.len() - distinct.len(),
        );
        let differs = meant.iter().zip(&received).position(|(meant, received)| meant != received);
        assert!(differs.is_none(), "out of order at {differs:?}");
        assert_eq!((received.len(), lost), (meant.len(), 0));
        assert!(self.visits.iter().all(|visits| *visits > 0), "{:?}", self.visits);
        assert!(own > 0 && share > 60.0, "mostly deltas: {share} %");
    }
}
