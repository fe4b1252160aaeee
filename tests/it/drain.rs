//! SIGTERM: unready first, then sockets are closed little by little, then the
//! process ends; nobody else webhook_events.

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
use crate::support::{Browser, Caller, PATIENCE, Redis, Server, Signal, bounded, eventually};

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

/// Tells the node to end; returns when it has begun to.
async fn terminate(server: &Server) {
    server.signal(Signal::Terminate);
    server.logged("\"draining\"").await;
}

async fn audience(server: &Server, count: usize, channel: &str) -> Vec<Browser> {
    let mut audience = Vec::new();
    for _ in 0..count {
        let mut browser = server.browser("key1").await;
        browser.subscribe(channel).await;
        audience.push(browser);
    }
    audience
}

/// How a socket ended.
struct End {
    code: u16,
    at: Instant,
    /// Events that it was sent before.
    read: usize,
}

/// Reads the run of events `0, 1, 2, …` until the server closes.
fn read_to_the_end(mut browser: Browser, ended: Arc<AtomicUsize>) -> JoinHandle<End> {
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
                Incoming::Gone(how) => panic!("closed without a word: {how}"),
            }
        }
    })
}

#[tokio::test]
async fn sockets_are_closed_little_by_little() {
    bounded(async {
        let mut server = node().start().await;
        let caller = server.caller("1");
        let mut audience = audience(&server, SOCKETS, "news").await;
        terminate(&server).await;

        // Unready from the first moment, and otherwise as before.
        let ready = server.get("/ready").await;
        assert_eq!((ready.status, &ready.json()["reason"]), (503, &"draining".into()));
        assert_eq!(server.get("/up").await.status, 503);
        assert_eq!(server.get("/live").await.status, 200);
        let refusal = server.try_connect("/app/key1?protocol=7").await.err().expect("no new sockets");
        refusal.expect_error(503, "draining");
        caller.publish("news", "while unready", "x").await;
        for browser in &mut audience {
            browser.expect_event("news", "while unready").await;
        }

        let ended = Arc::new(AtomicUsize::new(0));
        let sockets: Vec<_> =
            audience.into_iter().map(|browser| read_to_the_end(browser, ended.clone())).collect();
        let mut published = 0;
        // As long as anybody is there, and the process with them.
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
        assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
    })
    .await;
}

/// They come back at once: all together they would be a storm. What a socket was
/// sent before tells more than when its end was read here, late on a busy machine.
fn check_steps(ends: &mut [End]) {
    ends.sort_by_key(|end| end.at);
    let (first, last) = (ends[0].at, ends[ends.len() - 1].at);
    let spread = last.duration_since(first);
    assert!(spread > WINDOW / 4, "{spread:?} is less than a quarter of the window");
    let mut reads: Vec<usize> = ends.iter().map(|end| end.read).collect();
    assert!(reads[0] < reads[reads.len() - 1], "who is closed later has read more: {reads:?}");
    reads.sort_unstable();
    let (least, most) = (reads[0], reads[reads.len() - 1]);
    let moments: BTreeSet<usize> = reads.iter().map(|read| (read - least) * 20 / (most - least)).collect();
    assert!(moments.len() >= 8, "closed at {moments:?} twentieths of what was sent meanwhile only");
}

/// Also when all end at the same moment, and the process right after them.
#[tokio::test]
async fn nobody_is_closed_without_a_word() {
    bounded(async {
        for _ in 0..3 {
            let mut server = Server::builder().config("drain_delay = 0\ndrain_window = 0").start().await;
            let audience = audience(&server, 300, "news").await;
            let ended = Arc::new(AtomicUsize::new(0));
            let sockets: Vec<_> =
                audience.into_iter().map(|browser| read_to_the_end(browser, ended.clone())).collect();
            server.signal(Signal::Terminate);
            for socket in sockets {
                assert_eq!(socket.await.unwrap().code, 4200);
            }
            assert_eq!(server.wait_exit(PATIENCE).await.code(), Some(0));
        }
    })
    .await;
}

/// The memberships of a node that ends go with it: nobody waits for its lease.
#[tokio::test]
async fn the_cluster_counts_right_as_soon_as_a_node_has_drained() {
    bounded(counts_are_right_after("drain_delay = 0.1\ndrain_window = 0.5")).await;
}

/// Then its sockets have no time to leave one by one.
#[tokio::test]
async fn the_cluster_counts_right_when_a_node_has_drained_in_a_hurry() {
    bounded(counts_are_right_after("drain_delay = 0\ndrain_window = 0")).await;
}

async fn counts_are_right_after(drain: &str) {
    let redis = Redis::start().await;
    let node = Server::builder().config(drain).redis(&redis);
    let (mut a, b) = tokio::join!(node.clone().name("node a").start(), node.name("node b").start());
    let mut leaving = audience(&a, 100, "news").await;
    let own: Vec<String> = (0..leaving.len()).map(|number| format!("only-here-{number}")).collect();
    for (browser, channel) in leaving.iter_mut().zip(&own) {
        browser.subscribe(channel).await;
    }
    let _staying = audience(&b, 3, "news").await;
    let caller = b.caller("1");
    assert_eq!(caller.subscription_count("news").await, 103);

    a.signal(Signal::Terminate);
    assert_eq!(a.wait_exit(PATIENCE).await.code(), Some(0));
    // Once, at once.
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

/// Nor for a client that reads nothing, not even that it is to go.
#[tokio::test]
async fn a_stuck_client_does_not_hold_up_the_drain_of_a_cluster() {
    bounded(async {
        let redis = Redis::start().await;
        let node = Server::builder().config("drain_delay = 0\ndrain_window = 0").redis(&redis);
        let (mut a, b) = tokio::join!(node.clone().name("node a").start(), node.name("node b").start());
        let _stuck = audience(&a, 1, "news").await;
        let caller = b.caller("1");
        publish_until_stuck(&caller, &a).await;
        assert_eq!(caller.subscription_count("news").await, 1);

        a.signal(Signal::Terminate);
        assert_eq!(a.wait_exit(PATIENCE).await.code(), Some(0));
        assert_eq!(caller.subscription_count("news").await, 0);
    })
    .await;
}

/// Fills all buffers between the node and a client that does not read.
async fn publish_until_stuck(caller: &Caller, node: &Server) {
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

/// A backend that hears nothing must not find that its event was sent: whatever
/// is carried out is answered, up to the last moment.
#[tokio::test]
async fn every_publish_that_a_cluster_carries_out_is_answered() {
    bounded(async {
        let redis = Redis::start().await;
        let node = Server::builder().config("drain_delay = 0.3\ndrain_window = 0.1").redis(&redis);
        let (mut a, b) = tokio::join!(node.clone().name("node a").start(), node.name("node b").start());
        let witness = audience(&b, 1, "news").await.remove(0);
        let heard = tokio::spawn(names_until(witness, "end"));
        let backends: Vec<_> =
            (0..16).map(|backend| tokio::spawn(publish_while_it_answers(a.caller("1"), backend))).collect();

        a.signal(Signal::Terminate);
        assert_eq!(a.wait_exit(PATIENCE).await.code(), Some(0));
        let mut unanswered = Vec::new();
        for backend in backends {
            unanswered.push(backend.await.unwrap());
        }
        b.caller("1").publish("news", "end", "x").await;
        let heard = heard.await.unwrap();
        assert!(heard.len() > unanswered.len(), "{heard:?}");
        let carried_out: Vec<_> = unanswered.iter().filter(|name| heard.contains(*name)).collect();
        assert!(carried_out.is_empty(), "published, and their backends were not told: {carried_out:?}");
    })
    .await;
}

/// The name of the first event that got no answer.
async fn publish_while_it_answers(caller: Caller, backend: usize) -> String {
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

async fn names_until(mut witness: Browser, last: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    loop {
        match witness.next().await.event {
            name if name == last => return names,
            name => names.insert(name),
        };
    }
}

/// Somebody will not wait.
#[tokio::test]
async fn a_second_signal_ends_at_once() {
    bounded(async {
        let mut server = Server::builder().config("drain_delay = 3600").start().await;
        let mut browser = server.browser("key1").await;
        terminate(&server).await;
        browser.settle().await;
        server.signal(Signal::Terminate);
        let status = server.wait_exit(Duration::from_secs(5)).await;
        assert!(!status.success(), "it has not drained: {status}");
        assert!(server.log().contains("second signal"), "{}", server.log());
    })
    .await;
}

/// Three nodes are replaced one after the other while backends publish, with
/// the proxy's configuration and the node's own delay as they are.
#[tokio::test]
async fn a_rolling_restart_of_a_cluster_fails_no_publish() {
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

        // Every client is back, and hears.
        let caller = site.caller();
        let count = async || match caller.subscription_count("news").await {
            count if count == clients.len() => Ok(()),
            count => Err(count.to_string()),
        };
        eventually("all clients are back", PATIENCE, count).await;
        caller.publish("news", "after", "1").await;
        for client in &mut clients {
            let moves = "the event after the restart";
            client.find(moves, |report| report["type"] == "event" && report["event"] == "after").await;
        }
    })
    .await;
}

async fn subscribed_client(site: &Site) -> Client {
    let launch = Launch::node("pusher_js.js").addr(site.haproxy.addr()).arg(&site.app().key);
    let mut client = launch.start();
    client.tell(&json!({ "cmd": "subscribe", "channel": "news" }));
    client.find("a subscription", |report| report["event"] == "pusher:subscription_succeeded").await;
    client
}

/// Publishes until it is told to stop, a hundred times a second; how often.
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
        // To nobody: what is under test is the answer.
        caller.publish("backends", "e", "x").await;
        published += 1;
    }
    published
}
