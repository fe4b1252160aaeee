//! Subscribing without a gap (design.md 4): sockets subscribe, unsubscribe and
//! resubscribe while events are published through both nodes. From each
//! confirmation on, a socket receives one gapless run, and a counted subscription
//! receives every later event.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use crate::support::recorder::{Recorder, assert_once_each, range_in};
use crate::support::{Backend, Caller, Cluster, Direction, Links, Seed, within};

const LIMIT: Duration = Duration::from_secs(150);

/// Two nodes; node 1 reaches Redis through a proxy.
async fn start() -> Cluster {
    Cluster::builder(Backend::Redis).proxied(1).start().await
}

async fn recorders(cluster: &Cluster, count: usize) -> Vec<Recorder> {
    join_all((0..count).map(|n| Recorder::connect(&cluster.nodes[n % 2]))).await
}

async fn assert_no_gaps(cluster: &Cluster) {
    for name in ["gaps_unrepaired", "held_entries_dropped", "epoch_changes", "backend_events_dropped"] {
        assert_eq!(cluster.metric(&format!("fanfare_{name}_total")).await, [0.0, 0.0], "{name}");
    }
}

/// Publishes through one node, and returns the subscription counts.
struct Stream<'a> {
    caller: Caller,
    name: &'a str,
    number: Cell<usize>,
}

impl Stream<'_> {
    /// Publishes the next event; returns its subscription count.
    async fn next(&self, channel: &str) -> u64 {
        self.number.set(self.number.get() + 1);
        let data = format!("{}-{}", self.name, self.number.get());
        let event = json!({ "name": "e", "channel": channel, "data": data, "info": "subscription_count" });
        let answer = self.caller.post_events(event).await.expect_ok();
        answer["channels"][channel]["subscription_count"].as_u64().expect("the request has `info`")
    }
}

/// Every subscription counted with one event receives the next: on new channels, on
/// idle ones, and on busy ones.
#[tokio::test]
async fn cluster_counted_subscription_receives_next_event() {
    within(LIMIT, async {
        let seed = Seed::new();
        let cluster = start().await;
        let mut rng = seed.rng();
        for round in 0..60 {
            let channel = format!("round-{}", if rng.random_bool(0.7) { round } else { 0 });
            let sockets = rng.random_range(1..9);
            let streams = [0, 1].map(|node: usize| Stream {
                caller: cluster.nodes[node].caller("1"),
                name: ["zero", "one"][node],
                number: Cell::new(round * 100_000),
            });
            let mut recorders = recorders(&cluster, sockets).await;
            join_all(recorders.iter_mut().map(|recorder| recorder.request_subscription(&channel))).await;
            let counted = async |stream: &Stream<'_>| while stream.next(&channel).await < sockets as u64 {};
            tokio::join!(counted(&streams[0]), counted(&streams[1]));
            let last = format!("counted-{round}");
            cluster.nodes[round % 2].caller("1").publish(&channel, "e", &last).await;
            check_runs(&recorders, &channel, &last).await;
            drop(recorders);
            cluster.nodes[0].caller("1").count_becomes(&channel, 0).await;
        }
        assert_no_gaps(&cluster).await;
    })
    .await;
}

/// Checks sockets with one or more subscriptions each: their runs fit together and
/// reach `last`.
async fn check_runs(recorders: &[Recorder], channel: &str, last: &str) {
    let mut sequence: Vec<String> = Vec::new();
    for recorder in recorders {
        recorder.wait_for(channel, last).await;
        let longest = recorder.runs(channel).into_iter().max_by_key(Vec::len).unwrap();
        if longest.len() > sequence.len() && longest.last().is_some_and(|newest| newest == last) {
            sequence = longest;
        }
    }
    assert_once_each(&sequence, channel);
    for recorder in recorders {
        let runs = recorder.runs(channel);
        let range = range_in(runs.last().unwrap(), &sequence, &recorder.name);
        assert_eq!(range.end, sequence.len(), "{} is subscribed", recorder.name);
    }
}

/// A permanent subscriber records the sequence; the others subscribe and
/// unsubscribe as fast as they can, also before they are confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_resubscribing_sockets_receive_gapless_runs() {
    within(LIMIT, async {
        let seed = Seed::new();
        let cluster = start().await;
        for round in 0..40 {
            churn(&cluster, &Seed(seed.0.wrapping_add(round)), &format!("round-{round}")).await;
        }
        assert_no_gaps(&cluster).await;
    })
    .await;
}

/// The same on a node whose entries and scripts arrive late, in turn: the reply of
/// a membership update overtakes earlier entries, or is overtaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_resubscribing_sockets_on_slow_links_receive_gapless_runs() {
    within(LIMIT, async {
        let seed = Seed::new();
        let cluster = start().await;
        let directions = [Direction::Requests, Direction::Replies, Direction::Both];
        for (round, links) in
            [Links::Subscriber, Links::Scripts, Links::All].into_iter().cycle().take(18).enumerate()
        {
            cluster.proxy().delay(links, directions[round / 3 % 3], Duration::from_millis(4));
            churn(&cluster, &Seed(seed.0.wrapping_add(round as u64)), &format!("round-{round}")).await;
            cluster.proxy().heal();
        }
        assert_no_gaps(&cluster).await;
    })
    .await;
}

/// The same while the connection that carries the entries is cut repeatedly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_resubscribing_sockets_on_flapping_link_receive_gapless_runs() {
    within(LIMIT, async {
        let seed = Seed::new();
        let cluster = start().await;
        for round in 0..5 {
            let done = Cell::new(false);
            let (seed, channel) = (Seed(seed.0.wrapping_add(round)), format!("round-{round}"));
            tokio::join!(
                async {
                    churn(&cluster, &seed, &channel).await;
                    done.set(true);
                },
                async {
                    while !done.get() {
                        cluster.proxy().cut_once(Links::Subscriber);
                        tokio::time::sleep(Duration::from_millis(150)).await;
                    }
                }
            );
        }
    })
    .await;
}

async fn churn(cluster: &Cluster, seed: &Seed, channel: &str) {
    let mut permanent = recorders(cluster, 2).await;
    for subscriber in &mut permanent {
        subscriber.subscribe(channel).await;
    }
    let mut churning = recorders(cluster, 12).await;
    let remaining = Cell::new(churning.len());
    let published = Cell::new(0_usize);
    let stream = async |node: usize| {
        let caller = cluster.nodes[node].caller("1");
        let stream = Stream { caller, name: ["zero", "one"][node], number: Cell::new(0) };
        while remaining.get() > 0 {
            stream.next(channel).await;
            published.set(published.get() + 1);
            // A node that falls behind without limit is broken.
            permanent[1].wait_for_count(published.get().saturating_sub(20)).await;
        }
    };
    let churn_one = async {
        let tasks = churning.iter_mut().zip(1..).map(|(subscriber, actor)| {
            let (remaining, mut rng) = (&remaining, seed.rng_of(actor));
            async move {
                churn_one(subscriber, channel, &mut rng).await;
                remaining.set(remaining.get() - 1);
            }
        });
        join_all(tasks).await;
    };
    tokio::join!(stream(0), stream(1), churn_one);
    let caller = cluster.nodes[0].caller("1");
    caller.count_becomes(channel, permanent.len() + churning.len()).await;
    caller.publish(channel, "e", "end").await;
    for recorder in permanent.iter().chain(&churning) {
        recorder.wait_for(channel, "end").await;
    }
    let sequence = permanent[0].run(channel);
    assert_once_each(&sequence, channel);
    assert_eq!(permanent[1].run(channel), sequence, "the permanent subscribers of both nodes");
    let runs: usize = churning.iter().map(|subscriber| check_churning(subscriber, channel, &sequence)).sum();
    println!("{channel}: {} events, {runs} subscriptions", sequence.len());
}

async fn churn_one(subscriber: &mut Recorder, channel: &str, rng: &mut StdRng) {
    for _ in 0..25 {
        match rng.random_range(0..6) {
            // All in one write burst.
            0 => {
                for _ in 0..rng.random_range(1..4) {
                    subscriber.request_unsubscription(channel).await;
                    subscriber.request_subscription(channel).await;
                }
                subscriber.settle().await;
            }
            1 => subscriber.unsubscribe(channel).await,
            2 => tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await,
            _ => {
                subscriber.request_unsubscription(channel).await;
                subscriber.subscribe(channel).await;
            }
        }
    }
    subscriber.request_unsubscription(channel).await;
    subscriber.subscribe(channel).await;
}

/// Each run is a piece of the sequence, later than the run before; the last one
/// reaches the end.
fn check_churning(subscriber: &Recorder, channel: &str, sequence: &[String]) -> usize {
    let runs = subscriber.runs(channel);
    let mut received = 0;
    for run in runs.iter().filter(|run| !run.is_empty()) {
        let range = range_in(run, sequence, &subscriber.name);
        assert!(range.start >= received, "{}: {:?} arrived twice", subscriber.name, run[0]);
        received = range.end;
    }
    assert_eq!(received, sequence.len(), "{} is subscribed", subscriber.name);
    runs.len()
}
