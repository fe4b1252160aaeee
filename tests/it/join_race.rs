//! Joining without a hole (design.md 4): sockets subscribe, leave and come back
//! while events flow through both nodes. From each confirmation on, a socket
//! sees one gapless run; and whoever is counted hears what comes.

use std::cell::Cell;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;

use crate::support::{Caller, Links, Proxy, Redis, Seed, Server, Way};
use crate::witness::{Witness, assert_once_each, place_in, within};

const LIMIT: Duration = Duration::from_secs(150);

struct Stage {
    nodes: [Server; 2],
    /// Between node 1 and Redis.
    proxy: Proxy,
    _redis: Redis,
}

impl Stage {
    async fn set() -> Stage {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let (zero, one) = tokio::join!(
            Server::builder().name("node 0").redis(&redis).start(),
            Server::builder().name("node 1").redis_url(&proxy.url()).start()
        );
        Stage { nodes: [zero, one], proxy, _redis: redis }
    }

    async fn witnesses(&self, count: usize) -> Vec<Witness> {
        join_all((0..count).map(|n| Witness::connect(&self.nodes[n % 2]))).await
    }

    async fn assert_nothing_was_missed(&self) {
        for node in &self.nodes {
            let metrics = node.metrics().await;
            for name in ["gaps_unrepaired", "held_entries_dropped", "epoch_changes", "backend_events_dropped"]
            {
                assert_eq!(metrics.sum(&format!("fanfare_{name}_total")), 0.0, "{name}");
            }
        }
    }
}

/// Publishes until told to stop, through one node; what it says of counts.
struct Stream<'a> {
    caller: Caller,
    name: &'a str,
    number: Cell<usize>,
}

impl Stream<'_> {
    /// Publishes the next event; the subscriptions that were counted with it.
    async fn next(&self, channel: &str) -> u64 {
        self.number.set(self.number.get() + 1);
        let data = format!("{}-{}", self.name, self.number.get());
        let event = json!({ "name": "e", "channel": channel, "data": data, "info": "subscription_count" });
        let answer = self.caller.post_events(event).await.expect_ok();
        answer["channels"][channel]["subscription_count"].as_u64().expect("it was asked for")
    }
}

/// Everyone who is in the count of one event is sent the next: on channels that
/// nobody has listened to before, on channels that are idle, and on busy ones.
#[tokio::test]
async fn cluster_whoever_is_counted_hears_what_comes() {
    within(LIMIT, async {
        let seed = Seed::new();
        let stage = Stage::set().await;
        let mut rng = seed.rng();
        for round in 0..60 {
            let channel = format!("round-{}", if rng.random_bool(0.7) { round } else { 0 });
            let sockets = rng.random_range(1..9);
            let streams = [0, 1].map(|node: usize| Stream {
                caller: stage.nodes[node].caller("1"),
                name: ["zero", "one"][node],
                number: Cell::new(round * 100_000),
            });
            let mut witnesses = stage.witnesses(sockets).await;
            join_all(witnesses.iter_mut().map(|witness| witness.ask_for(&channel))).await;
            let counted = async |stream: &Stream<'_>| while stream.next(&channel).await < sockets as u64 {};
            tokio::join!(counted(&streams[0]), counted(&streams[1]));
            let last = format!("counted-{round}");
            stage.nodes[round % 2].caller("1").publish(&channel, "e", &last).await;
            judge(&witnesses, &channel, &last).await;
            drop(witnesses);
            stage.nodes[0].caller("1").count_becomes(&channel, 0).await;
        }
        stage.assert_nothing_was_missed().await;
    })
    .await;
}

/// Subscribed once each, or more often: runs that fit together and reach `last`.
async fn judge(witnesses: &[Witness], channel: &str, last: &str) {
    let mut sequence: Vec<String> = Vec::new();
    for witness in witnesses {
        witness.heard(channel, last).await;
        let longest = witness.runs(channel).into_iter().max_by_key(Vec::len).unwrap();
        if longest.len() > sequence.len() && longest.last().is_some_and(|newest| newest == last) {
            sequence = longest;
        }
    }
    assert_once_each(&sequence, channel);
    for witness in witnesses {
        let runs = witness.runs(channel);
        let place = place_in(runs.last().unwrap(), &sequence, &witness.name);
        assert_eq!(place.end, sequence.len(), "{} is subscribed", witness.name);
    }
}

/// One who is there all the time knows the sequence; the others come and go as
/// fast as they can, also before they are confirmed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_sockets_that_never_rest() {
    within(LIMIT, async {
        let seed = Seed::new();
        let stage = Stage::set().await;
        for round in 0..40 {
            rest_never(&stage, &Seed(seed.0.wrapping_add(round)), &format!("round-{round}")).await;
        }
        stage.assert_nothing_was_missed().await;
    })
    .await;
}

/// The same on a node whose entries and scripts arrive late, in turn: a
/// join script's answer overtakes what came before it, or is overtaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_sockets_that_never_rest_on_slow_links() {
    within(LIMIT, async {
        let seed = Seed::new();
        let stage = Stage::set().await;
        let ways = [Way::Requests, Way::Replies, Way::Both];
        for (round, links) in
            [Links::Subscriber, Links::Scripts, Links::All].into_iter().cycle().take(18).enumerate()
        {
            stage.proxy.delay(links, ways[round / 3 % 3], Duration::from_millis(4));
            rest_never(&stage, &Seed(seed.0.wrapping_add(round as u64)), &format!("round-{round}")).await;
            stage.proxy.heal();
        }
        stage.assert_nothing_was_missed().await;
    })
    .await;
}

/// The same while the link that announces is cut again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cluster_sockets_that_never_rest_on_a_flapping_link() {
    within(LIMIT, async {
        let seed = Seed::new();
        let stage = Stage::set().await;
        for round in 0..5 {
            let done = Cell::new(false);
            let (seed, channel) = (Seed(seed.0.wrapping_add(round)), format!("round-{round}"));
            tokio::join!(
                async {
                    rest_never(&stage, &seed, &channel).await;
                    done.set(true);
                },
                async {
                    while !done.get() {
                        stage.proxy.cut_once(Links::Subscriber);
                        tokio::time::sleep(Duration::from_millis(150)).await;
                    }
                }
            );
        }
    })
    .await;
}

async fn rest_never(stage: &Stage, seed: &Seed, channel: &str) {
    let mut residents = stage.witnesses(2).await;
    for resident in &mut residents {
        resident.subscribe(channel).await;
    }
    let mut guests = stage.witnesses(12).await;
    let away = Cell::new(guests.len());
    let published = Cell::new(0_usize);
    let stream = async |node: usize| {
        let caller = stage.nodes[node].caller("1");
        let stream = Stream { caller, name: ["zero", "one"][node], number: Cell::new(0) };
        while away.get() > 0 {
            stream.next(channel).await;
            published.set(published.get() + 1);
            // A link that falls behind for ever is one that is broken.
            residents[1].has(published.get().saturating_sub(20)).await;
        }
    };
    let come_and_go = async {
        let moves = guests.iter_mut().zip(1..).map(|(guest, actor)| {
            let (away, mut rng) = (&away, seed.rng_of(actor));
            async move {
                come_and_go(guest, channel, &mut rng).await;
                away.set(away.get() - 1);
            }
        });
        join_all(moves).await;
    };
    tokio::join!(stream(0), stream(1), come_and_go);
    let caller = stage.nodes[0].caller("1");
    caller.count_becomes(channel, residents.len() + guests.len()).await;
    caller.publish(channel, "e", "end").await;
    for witness in residents.iter().chain(&guests) {
        witness.heard(channel, "end").await;
    }
    let sequence = residents[0].run(channel);
    assert_once_each(&sequence, channel);
    assert_eq!(residents[1].run(channel), sequence, "the residents of both nodes");
    let runs: usize = guests.iter().map(|guest| judge_guest(guest, channel, &sequence)).sum();
    println!("{channel}: {} events, {runs} subscriptions", sequence.len());
}

async fn come_and_go(guest: &mut Witness, channel: &str, rng: &mut StdRng) {
    for _ in 0..25 {
        match rng.random_range(0..6) {
            // All in one breath.
            0 => {
                for _ in 0..rng.random_range(1..4) {
                    guest.leave(channel).await;
                    guest.ask_for(channel).await;
                }
                guest.settle().await;
            }
            1 => guest.unsubscribe(channel).await,
            2 => tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await,
            _ => {
                guest.leave(channel).await;
                guest.subscribe(channel).await;
            }
        }
    }
    guest.leave(channel).await;
    guest.subscribe(channel).await;
}

/// Each run is a piece of the sequence, later than the run before; the last one
/// reaches the end.
fn judge_guest(guest: &Witness, channel: &str, sequence: &[String]) -> usize {
    let runs = guest.runs(channel);
    let mut heard = 0;
    for run in runs.iter().filter(|run| !run.is_empty()) {
        let place = place_in(run, sequence, &guest.name);
        assert!(place.start >= heard, "{}: {:?} came twice", guest.name, run[0]);
        heard = place.end;
    }
    assert_eq!(heard, sequence.len(), "{} is subscribed", guest.name);
    runs.len()
}
