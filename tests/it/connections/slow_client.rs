//! Backpressure (P7): a client that stops reading is closed, and no other client is affected.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::server::Builder;
use crate::support::{Browser, Caller, Incoming, Redis, STEP_TIMEOUT, Server, TEST_TIME_MAX, within};

const SOCKETS: usize = 100;
const SLOW: usize = 5;
/// The largest `data` of an event by default, in bytes.
const DATA_BYTES: usize = 10 * 1024;
const BATCH_EVENTS: usize = 10;
/// The kernel buffers some megabytes per socket before the write buffer fills.
const BATCHES_MAX: usize = 300;
const MARK: &str = "IT_SLOW_CLIENT";

/// The data of event `number`: 8 digits and padding.
fn data(number: usize) -> String {
    format!("{number:0>8}{}", "x".repeat(DATA_BYTES - 8))
}

/// A client with a confirmed subscription to `news`. Its receive buffer is small, so that
/// unread data stays in the server's write buffer.
async fn connect(server: &Server) -> Browser {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let stream = socket.connect(server.addr()).await.unwrap();
    let client = Browser::upgrade(stream, "/app/key1?protocol=7", server.app("1").clone()).await;
    let mut client = client.expect("an upgrade");
    client.expect_greeting().await;
    client.subscribe("news").await;
    client
}

/// Reads until the connection ends; expects every event in order and without a gap. Sends
/// the number of received events to `read`.
async fn read(mut client: Browser, read: watch::Sender<usize>) -> (usize, Incoming) {
    let mut next = 0;
    loop {
        match client.incoming_within(TEST_TIME_MAX).await {
            Incoming::Frame(frame) if frame.event == "pusher:ping" => {}
            Incoming::Frame(frame) => {
                assert_eq!(frame.event, "e");
                let seen = frame.data_text();
                assert!(seen == data(next), "event {next} was expected, not {seen:.30}");
                next += 1;
                read.send_replace(next);
            }
            end => return (next, end),
        }
    }
}

/// A socket that reads continuously.
struct Reader {
    seen: watch::Receiver<usize>,
    task: JoinHandle<(usize, Incoming)>,
}

impl Reader {
    fn start(client: Browser) -> Reader {
        let (sender, seen) = watch::channel(0);
        Reader { seen, task: tokio::spawn(read(client, sender)) }
    }

    /// Waits until `count` events have been received.
    async fn reaches(&mut self, count: usize) {
        let reached = tokio::time::timeout(STEP_TIMEOUT, self.seen.wait_for(|seen| *seen >= count)).await;
        let is_open = reached.expect("events in time").is_ok();
        assert!(is_open && !self.task.is_finished(), "a reading client was closed before {count} events");
    }
}

/// Resident memory, in bytes, of the process with this mark in its environment.
fn resident_bytes(mark: &str) -> u64 {
    let wanted = format!("{MARK}={mark}");
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(environment) = std::fs::read(process.path().join("environ")) else { continue };
        if !environment.split(|byte| *byte == 0).any(|pair| pair == wanted.as_bytes()) {
            continue;
        }
        let status = std::fs::read_to_string(process.path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        return line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    }
    panic!("no process has {wanted}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_clients_are_closed_without_affecting_others() {
    within(Duration::from_secs(120), run(None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_slow_clients_are_closed_without_affecting_others() {
    let redis = Redis::start().await;
    within(Duration::from_secs(120), run(Some(&redis))).await;
}

/// Publishes to all clients, at the pace of the readers.
struct Publisher<'a> {
    server: &'a Server,
    caller: Caller,
    readers: Vec<Reader>,
    published: usize,
    mark: &'a str,
    /// The largest resident memory so far.
    peak: u64,
}

impl Publisher<'_> {
    async fn publish(&mut self) {
        let event = |at| json!({ "name": "e", "channel": "news", "data": data(self.published + at) });
        self.caller.post_batch((0..BATCH_EVENTS).map(event).collect()).await.expect_ok();
        self.published += BATCH_EVENTS;
        // Waits for the readers: they would overflow too otherwise.
        for reader in &mut self.readers {
            reader.reaches(self.published).await;
        }
        self.peak = self.peak.max(resident_bytes(self.mark));
    }

    async fn publish_until_slow_clients_overflow(&mut self) {
        let overflows =
            async || self.server.metrics().await.sum("fanfare_write_buffer_overflows_total") as usize;
        let mut batches = 0;
        while overflows().await < SLOW {
            assert!(batches < BATCHES_MAX, "{} overflows after {batches} batches", overflows().await);
            self.publish().await;
            batches += 1;
        }
        println!("all {SLOW} slow clients overflowed after {batches} batches of {BATCH_EVENTS}");
    }

    async fn publish_until_slow_clients_are_closed(&mut self) {
        let series = r#"fanfare_connections_closed_total{reason="slow_client"}"#;
        let deadline = tokio::time::Instant::now() + 3 * STEP_TIMEOUT;
        loop {
            let closed = self.server.metrics().await.0.get(series).copied();
            if closed == Some(SLOW as f64) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "closed as slow: {closed:?}");
            self.publish().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn run(redis: Option<&Redis>) {
    let mark = format!("{:016x}", rand::random::<u64>());
    let builder = redis.into_iter().fold(Server::builder().env(MARK, &mark), Builder::redis);
    let server = &builder.start().await;
    let caller = server.caller("1");
    let mut slow = join_all((0..SLOW).map(|_| connect(server))).await;
    let readers = join_all((SLOW..SOCKETS).map(|_| connect(server))).await;
    let readers = readers.into_iter().map(Reader::start).collect();
    assert_eq!(caller.subscription_count("news").await, SOCKETS);
    let before = resident_bytes(&mark);
    let mut publisher = Publisher { server, caller, readers, published: 0, mark: &mark, peak: before };
    publisher.publish_until_slow_clients_overflow().await;

    // Two slow clients read again: the data in flight without a gap, then the close frame.
    let read_on = slow.split_off(SLOW - 2).into_iter().map(|socket| read(socket, watch::Sender::new(0)));
    for (seen, end) in tokio::time::timeout(STEP_TIMEOUT, join_all(read_on)).await.expect("an end in time") {
        println!("read {seen} events, then {end:?}");
        assert!(matches!(end, Incoming::Closed(4100)), "{end:?}");
    }
    // The other slow clients never read again. The server closes them too while events are
    // published.
    publisher.publish_until_slow_clients_are_closed().await;
    publisher.publish().await;
    let Publisher { caller, mut readers, published, peak, .. } = publisher;
    for socket in slow {
        let end = tokio::time::timeout(STEP_TIMEOUT, read(socket, watch::Sender::new(0))).await;
        let (seen, end) = end.expect("an end in time");
        println!("read {seen} events late, then {end:?}");
        assert!(seen < published, "{seen}");
        assert!(matches!(end, Incoming::Closed(4100) | Incoming::Lost(_)), "{end:?}");
    }

    caller.count_becomes("news", SOCKETS - SLOW).await;
    let metrics = server.metrics().await;
    assert_eq!(metrics.sum("fanfare_write_buffer_overflows_total"), SLOW as f64, "a reader overflowed");
    for reader in &mut readers {
        reader.reaches(published).await;
        assert_eq!(*reader.seen.borrow(), published);
    }
    let growth = peak - before;
    println!(
        "{published} events of 10 KB to each of {SOCKETS}; resident memory grew by {} KiB",
        growth / 1024
    );
    assert!(growth < 48 * 1024 * 1024, "resident memory grew by {growth} bytes");
}
