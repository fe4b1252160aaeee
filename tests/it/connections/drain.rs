//! SIGTERM: the node becomes unready first, then closes its sockets over a window,
//! then the process exits; nothing else is affected.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use crate::support::browser::Incoming;
use crate::support::haproxy::Site;
use crate::support::json_lines::{Client, Launch};
use crate::support::server::Builder;
use crate::support::{Backend, Browser, Caller, Cluster, STEP_TIMEOUT, Server, Signal, bounded};

const SOCKETS: usize = 100;
const DELAY: Duration = Duration::from_secs(3);
const WINDOW: Duration = Duration::from_secs(2);

fn node() -> Builder {
    Server::builder().config(&format!(
        "drain_delay = {}\ndrain_window = {}",
        DELAY.as_secs(),
        WINDOW.as_secs()
    ))
}

/// Sends SIGTERM; returns when the drain has begun.
async fn begin_drain(server: &Server) {
    server.signal(Signal::Terminate);
    server.logged("\"draining\"").await;
}

async fn subscribers(server: &Server, count: usize, channel: &str) -> Vec<Browser> {
    let mut subscribers = Vec::new();
    for _ in 0..count {
        let mut browser = server.browser("key1").await;
        browser.subscribe(channel).await;
        subscribers.push(browser);
    }
    subscribers
}

/// How a socket ended.
struct End {
    code: u16,
    at: Instant,
    /// Events received before the end.
    read: usize,
}

/// Reads the run of events `0, 1, 2, …` until the server closes.
fn read_until_closed(mut browser: Browser, ended: Arc<AtomicUsize>) -> JoinHandle<End> {
    tokio::spawn(async move {
        let mut read = 0;
        loop {
            match browser.incoming().await {
                Incoming::Frame(frame) => {
                    assert_eq!(frame.event, read.to_string(), "{}", frame.text);
                    read += 1;
                }
                Incoming::Closed(code) => {
                    let at = Instant::now();
                    ended.fetch_add(1, Ordering::Relaxed);
                    return End { code, at, read };
                }
                Incoming::Lost(how) => panic!("closed without a close frame: {how}"),
            }
        }
    })
}

#[tokio::test]
async fn drain_closes_sockets_over_window() {
    bounded(async {
        let mut server = node().start().await;
        let caller = server.caller("1");
        let mut subscribers = subscribers(&server, SOCKETS, "news").await;
        begin_drain(&server).await;

        // Unready at once, and otherwise unchanged.
        let ready = server.get("/ready").await;
        assert_eq!((ready.status, &ready.json()["reason"]), (503, &"draining".into()));
        assert_eq!(server.get("/up").await.status, 503);
        assert_eq!(server.get("/live").await.status, 200);
        let refusal = server.try_connect("/app/key1?protocol=7").await.err().expect("no new sockets");
        refusal.expect_error(503, "draining");
        caller.publish("news", "while unready", "x").await;
        for browser in &mut subscribers {
            browser.expect_event("news", "while unready").await;
        }

        let ended = Arc::new(AtomicUsize::new(0));
        let sockets: Vec<_> =
            subscribers.into_iter().map(|browser| read_until_closed(browser, ended.clone())).collect();
        let mut published = 0;
        // While sockets remain, the process stays.
        while ended.load(Ordering::Relaxed) < SOCKETS * 9 / 10 {
            caller.publish("news", &published.to_string(), "x").await;
            published += 1;
        }
        let mut ends = Vec::new();
        for socket in sockets {
            ends.push(socket.await.unwrap());
        }
        assert!(ends.iter().all(|end| end.code == 4200));
        check_steps(&mut ends);
        assert!(ends.iter().map(|end| end.read).max() <= Some(published));
        assert_eq!(server.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
    })
    .await;
}

/// Clients reconnect at once: closing all sockets together would cause a
/// reconnection storm. The number of events before the close is more precise than
/// the time at which the close was read here, which is late on a busy machine.
fn check_steps(ends: &mut [End]) {
    ends.sort_by_key(|end| end.at);
    let (first, last) = (ends[0].at, ends[ends.len() - 1].at);
    let spread = last.duration_since(first);
    assert!(spread > WINDOW / 4, "{spread:?} is less than a quarter of the window");
    let mut reads: Vec<usize> = ends.iter().map(|end| end.read).collect();
    assert!(reads[0] < reads[reads.len() - 1], "sockets closed later have read more: {reads:?}");
    reads.sort_unstable();
    let (least, most) = (reads[0], reads[reads.len() - 1]);
    let moments: BTreeSet<usize> = reads.iter().map(|read| (read - least) * 20 / (most - least)).collect();
    assert!(moments.len() >= 8, "closed at {moments:?} twentieths of the events sent during the drain only");
}

/// The same when all sockets close at the same moment, and the process right after
/// them.
#[tokio::test]
async fn drain_sends_close_frame_to_every_socket() {
    bounded(async {
        for _ in 0..3 {
            let mut server = Server::builder().config("drain_delay = 0\ndrain_window = 0").start().await;
            let subscribers = subscribers(&server, 300, "news").await;
            let ended = Arc::new(AtomicUsize::new(0));
            let sockets: Vec<_> =
                subscribers.into_iter().map(|browser| read_until_closed(browser, ended.clone())).collect();
            server.signal(Signal::Terminate);
            for socket in sockets {
                assert_eq!(socket.await.unwrap().code, 4200);
            }
            assert_eq!(server.wait_exit(STEP_TIMEOUT).await.code(), Some(0));
        }
    })
    .await;
}

/// The memberships of a drained node are removed at its exit, not at the expiry of
/// its lease.
#[tokio::test]
async fn cluster_counts_are_exact_after_node_drained() {
    bounded(counts_are_right_after("drain_delay = 0.1\ndrain_window = 0.5")).await;
}

/// Without a window, the sockets have no time to close one by one.
#[tokio::test]
async fn cluster_counts_are_exact_after_node_drained_without_window() {
    bounded(counts_are_right_after("drain_delay = 0\ndrain_window = 0")).await;
}

async fn counts_are_right_after(drain: &str) {
    let mut cluster = Cluster::builder(Backend::Redis).config(drain).start().await;
    let mut leaving = subscribers(&cluster.nodes[0], 100, "news").await;
    let own: Vec<String> = (0..leaving.len()).map(|number| format!("only-here-{number}")).collect();
    for (browser, channel) in leaving.iter_mut().zip(&own) {
        browser.subscribe(channel).await;
    }
    let _staying = subscribers(&cluster.nodes[1], 3, "news").await;
    let caller = cluster.nodes[1].caller("1");
    assert_eq!(caller.subscription_count("news").await, 103);

    cluster.nodes[0].signal(Signal::Terminate);
    assert_eq!(cluster.nodes[0].wait_exit(STEP_TIMEOUT).await.code(), Some(0));
    // One request each, immediately.
    assert_eq!(caller.subscription_count("news").await, 3);
    for channel in &own {
        let info = [("info", "subscription_count")];
        let gone = caller.get(&format!("/channels/{channel}"), &info).await.expect_ok();
        assert_eq!(gone, json!({ "occupied": false, "subscription_count": 0 }));
    }
    let event = json!([{ "name": "e", "channel": "news", "data": "x", "info": "subscription_count" }]);
    let answer = caller.post_batch(event).await.expect_ok();
    assert_eq!(answer["batch"][0]["subscription_count"], 3);
}

/// A client that reads nothing, not even its close frame, does not delay the drain.
#[tokio::test]
async fn stalled_client_does_not_delay_drain_of_cluster_node() {
    bounded(async {
        let mut cluster =
            Cluster::builder(Backend::Redis).config("drain_delay = 0\ndrain_window = 0").start().await;
        let _stalled = subscribers(&cluster.nodes[0], 1, "news").await;
        let caller = cluster.nodes[1].caller("1");
        publish_until_stalled(&caller, &cluster.nodes[0]).await;
        assert_eq!(caller.subscription_count("news").await, 1);

        cluster.nodes[0].signal(Signal::Terminate);
        assert_eq!(cluster.nodes[0].wait_exit(STEP_TIMEOUT).await.code(), Some(0));
        assert_eq!(caller.subscription_count("news").await, 0);
    })
    .await;
}

/// Fills all buffers between the node and a client that does not read.
async fn publish_until_stalled(caller: &Caller, node: &Server) {
    let event = json!({ "name": "e", "channel": "news", "data": "x".repeat(10_000) });
    for _ in 0..1_000 {
        let before = node.metrics().await.sum("fanfare_bytes_sent_total");
        caller.post_batch(vec![event.clone(); 10].into()).await.expect_ok();
        let is_sent = async {
            while node.metrics().await.sum("fanfare_bytes_sent_total") < before + 100_000.0 {
                tokio::task::yield_now().await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(500), is_sent).await.is_err() {
            return;
        }
    }
    panic!("the client still reads after 100 MB");
}

/// A backend without a response must not have published: the node answers every
/// request that it executes, up to the last moment.
#[tokio::test]
async fn cluster_publish_executed_during_drain_is_answered() {
    bounded(async {
        let mut cluster =
            Cluster::builder(Backend::Redis).config("drain_delay = 0.3\ndrain_window = 0.1").start().await;
        let subscriber = subscribers(&cluster.nodes[1], 1, "news").await.remove(0);
        let received = tokio::spawn(names_until(subscriber, "end"));
        let backends: Vec<_> = (0..16)
            .map(|backend| tokio::spawn(publish_until_unanswered(cluster.nodes[0].caller("1"), backend)))
            .collect();

        cluster.nodes[0].signal(Signal::Terminate);
        assert_eq!(cluster.nodes[0].wait_exit(STEP_TIMEOUT).await.code(), Some(0));
        let mut unanswered = Vec::new();
        for backend in backends {
            unanswered.push(backend.await.unwrap());
        }
        cluster.nodes[1].caller("1").publish("news", "end", "x").await;
        let received = received.await.unwrap();
        assert!(received.len() > unanswered.len(), "{received:?}");
        let published_unanswered: Vec<_> =
            unanswered.iter().filter(|name| received.contains(*name)).collect();
        assert!(published_unanswered.is_empty(), "published without a response: {published_unanswered:?}");
    })
    .await;
}

/// The name of the first event without a response.
async fn publish_until_unanswered(caller: Caller, backend: usize) -> String {
    for number in 0.. {
        let name = format!("{backend}.{number}");
        let event = json!({ "name": name, "channel": "news", "data": "x" });
        match caller.events(&event).try_send().await {
            Ok(answer) => assert_eq!(answer.status, 200, "{}", answer.text()),
            Err(_) => return name,
        }
    }
    unreachable!("there are enough numbers")
}

async fn names_until(mut subscriber: Browser, last: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    loop {
        match subscriber.next().await.event {
            name if name == last => return names,
            name => names.insert(name),
        };
    }
}

/// For an operator who does not wait for the drain.
#[tokio::test]
async fn second_signal_exits_immediately() {
    bounded(async {
        let mut server = Server::builder().config("drain_delay = 3600").start().await;
        let mut browser = server.browser("key1").await;
        begin_drain(&server).await;
        browser.settle().await;
        server.signal(Signal::Terminate);
        let status = server.wait_exit(Duration::from_secs(5)).await;
        assert!(!status.success(), "it has not drained: {status}");
        assert!(server.log().contains("second signal"), "{}", server.log());
    })
    .await;
}

/// Three nodes restart one after the other while backends publish, with the proxy's
/// configuration and the node's default delay.
#[tokio::test]
async fn rolling_restart_of_a_cluster_fails_no_publish() {
    bounded(async {
        let mut site = Site::start("drain_window = 0.5").await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            clients.push(subscribed_client(&site).await);
        }
        let done = Arc::new(AtomicBool::new(false));
        let backends: Vec<JoinHandle<usize>> = [true, true, false, false]
            .map(|keeps_alive| {
                tokio::spawn(publish_on(site.haproxy.addr(), site.app(), keeps_alive, done.clone()))
            })
            .into();
        for number in 0..3 {
            site.nodes[number].signal(Signal::Terminate);
            site.restart(number).await;
        }
        done.store(true, Ordering::Relaxed);
        for backend in backends {
            let published = backend.await.unwrap();
            println!("{published} publishes of one backend, all answered with 200");
            assert!(published > 100);
        }

        // Every client has reconnected, and receives events.
        let caller = site.caller();
        caller.count_becomes("news", clients.len()).await;
        caller.publish("news", "after", "1").await;
        for client in &mut clients {
            let what = "the event after the restart";
            client.find(what, |report| report["type"] == "event" && report["event"] == "after").await;
        }
    })
    .await;
}

async fn subscribed_client(site: &Site) -> Client {
    let launch = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg(&site.app().key);
    let mut client = launch.start();
    client.send(&json!({ "cmd": "subscribe", "channel": "news" }));
    client.find("a subscription", |report| report["event"] == "pusher:subscription_succeeded").await;
    client
}

/// Publishes a hundred times a second until `done`. Returns the number of
/// publishes.
async fn publish_on(
    addr: std::net::SocketAddr,
    app: crate::support::AppSpec,
    keeps_alive: bool,
    done: Arc<AtomicBool>,
) -> usize {
    let mut caller = Caller::new(addr, app.clone());
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut published = 0;
    while !done.load(Ordering::Relaxed) {
        pace.tick().await;
        if !keeps_alive {
            caller = Caller::new(addr, app.clone());
        }
        // To a channel without subscribers: the test checks the responses.
        caller.publish("backends", "e", "x").await;
        published += 1;
    }
    published
}
