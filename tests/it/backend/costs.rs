//! The costs of a batch, counted and not timed (design.md 9): a test fails when a
//! change loses the structure that keeps batches cheap.

use std::sync::Arc;

use parking_lot::Mutex;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::support::{AppSpec, Backend, Browser, Cluster, Redis, Server, bounded};

const CONFIG: &str = "[delta_compression]\nfull_message_interval = 0\n";
const CHANNELS: [&str; 2] = ["red", "blue"];
const BATCHES: usize = 12;
const BATCH_EVENTS: usize = 10;
/// Of each kind, on each node.
const SOCKETS: usize = 10;
/// The subscribers' deltas: none, and each format.
const KINDS: [Option<&str>; 3] = [None, Some("fossil"), Some("xdelta3")];
const FORMATS: usize = 2;

/// The commands that Redis executes for these events, by name.
struct Monitor {
    lines: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
}

impl Monitor {
    async fn start(redis: &Redis) -> Monitor {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", redis.port())).await.unwrap());
        stream.get_mut().write_all(b"MONITOR\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        assert_eq!(answer, "+OK\r\n");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let received = lines.clone();
        let reading = tokio::spawn(async move {
            let mut line = String::new();
            while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
                received.lock().push(std::mem::take(&mut line));
            }
        });
        Monitor { lines, reading }
    }

    fn count(&self, command: &str) -> usize {
        let command = format!("\"{command}\" ");
        let lines = self.lines.lock();
        lines.iter().filter(|line| line.contains(&command) && line.contains("counted-event")).count()
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

async fn subscribers(server: &Server) -> Vec<Browser> {
    let mut subscribers = Vec::new();
    for kind in KINDS {
        for _ in 0..SOCKETS {
            let mut browser = server.browser("key1").await;
            for channel in CHANNELS {
                let members = kind.map_or(json!({}), |format| json!({ "delta": format }));
                browser.subscribe_with(channel, members).await;
                if kind.is_some() {
                    browser.expect_event(channel, "pusher:delta_compression_enabled").await;
                }
            }
            subscribers.push(browser);
        }
    }
    subscribers
}

/// Events for both channels in turn.
fn batch(number: usize) -> Value {
    let event = |at: usize| {
        let data = json!({ "number": number * BATCH_EVENTS + at, "same": "all the same ".repeat(20) });
        json!({ "name": "counted-event", "channel": CHANNELS[at % CHANNELS.len()], "data": data.to_string() })
    };
    (0..BATCH_EVENTS).map(event).collect()
}

/// The server's counters so far.
async fn counted(server: &Server) -> [f64; 5] {
    let metrics = server.metrics().await;
    ["writes", "deltas_encoded", "entries_received", "deliveries", "batches_published"]
        .map(|name| metrics.sum(&format!("fanfare_{name}_total")))
}

#[tokio::test]
async fn cluster_batch_costs_one_encoding_per_format_and_one_write_per_socket() {
    bounded(async {
        let app = AppSpec::new("1").set("max_event_batch_size", 100);
        let cluster = Cluster::builder(Backend::Redis).config(CONFIG).app(app.clone()).start().await;
        // This node has no subscribers.
        let idle = Server::builder().config(CONFIG).app(app).redis(cluster.redis()).start().await;
        let mut all_subscribers = Vec::new();
        for node in &cluster.nodes {
            all_subscribers.extend(subscribers(node).await);
        }
        let caller = idle.caller("1");
        let mut before = Vec::new();
        for node in cluster.nodes.iter().chain([&idle]) {
            before.push(counted(node).await);
        }
        let monitor = Monitor::start(cluster.redis()).await;
        for number in 0..BATCHES {
            caller.post_batch(batch(number)).await.expect_ok();
            // A node would combine an unsent batch and the next one in one write.
            for browser in &mut all_subscribers {
                for _ in 0..BATCH_EVENTS {
                    let name = browser.next().await.event;
                    assert!(name == "counted-event" || name == "pusher:delta", "{name}");
                }
            }
        }
        for (node, before) in cluster.nodes.iter().zip(&before) {
            let after = counted(node).await;
            let [writes, encoded, entries, deliveries, _] = std::array::from_fn(|at| after[at] - before[at]);
            let sockets = SOCKETS * KINDS.len();
            // Except where Redis's two messages arrived apart, on a busy machine.
            let apart = writes - (sockets * BATCHES) as f64;
            assert!(
                (0.0..=(2 * sockets) as f64).contains(&apart),
                "{writes}: one write per socket and batch"
            );
            // The first event of each chain is not a delta.
            let encodings = (BATCHES * BATCH_EVENTS - CHANNELS.len()) * FORMATS;
            assert_eq!(encoded, encodings as f64, "one encoding per event and format");
            assert_eq!(entries, (BATCHES * CHANNELS.len()) as f64, "one entry per batch and channel");
            assert_eq!(deliveries, (sockets * BATCHES * BATCH_EVENTS) as f64);
        }
        let after = counted(&idle).await;
        let published: [f64; 5] = std::array::from_fn(|at| after[at] - before[2][at]);
        assert_eq!(
            published,
            [0.0, 0.0, 0.0, 0.0, BATCHES as f64],
            "a node without subscribers receives no entries"
        );
        for (command, per_batch) in [("EVALSHA", 1), ("RPUSH", CHANNELS.len()), ("PUBLISH", CHANNELS.len())] {
            assert_eq!(monitor.count(command), per_batch * BATCHES, "{command}");
        }
    })
    .await;
}
