//! Deltas, filters and resuming under faults, end to end: 3 nodes, a Redis,
//! publishers, and subscribers of all kinds that connect and disconnect while nodes
//! and Redis are killed and paused. Every payload that a client decodes is the published
//! one, once and in order; the server reports every gap to the client. In the end, the
//! cluster counts exactly the subscriptions that there are.
//!
//! A long run, with another seed:
//!
//! ```text
//! DELTA_FUZZ_SEED=7 DELTA_FUZZ_PUBLISHES=1000000 cargo test --test it
//! deltas::fuzz::cluster -- --nocapture
//! ```

mod bases;
mod client;
mod faults;
mod frames;
mod oracle;
mod payloads;
mod publisher;
mod request;
mod subscription;
mod world;

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::support::Seed;
use client::{Client, Subscriptions};
use faults::Faults;
use publisher::Publisher;
use subscription::State;
use world::{CHANNELS, World};

const CLIENTS: usize = 30;
const PUBLISHERS: usize = 4;
/// Events between two checks that every subscriber has every event.
const ROUND_EVENTS: usize = 10_000;
/// Events per seed, in CI.
const SLICE_EVENTS: usize = 15_000;
/// Events per publisher and second.
const RATE: usize = 750;
/// Within this time after the last fault, every subscriber must have every event.
const CALM_MAX: Duration = Duration::from_secs(40);

struct Run {
    world: Arc<World>,
    faults: Faults,
    publishers: Vec<Publisher>,
    clients: Vec<Subscriptions>,
    tasks: tokio::task::JoinSet<()>,
    fence: u64,
}

impl Run {
    async fn start(seed: &Seed) -> Run {
        let world = Arc::new(World::new(CLIENTS, seed.0.is_multiple_of(2)));
        let faults = Faults::start(world.clone()).await;
        let publisher = |number: usize| {
            let channels = (0..CHANNELS.len()).filter(|it| it % PUBLISHERS == number).collect();
            Publisher::new(world.clone(), faults::app(), seed.rng_of(100 + number as u64), channels)
        };
        let publishers = (0..PUBLISHERS).map(publisher).collect();
        let mut tasks = tokio::task::JoinSet::new();
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let (client, subscriptions) = Client::new(number, world.clone(), seed.rng_of(number as u64));
            clients.push(subscriptions);
            tasks.spawn(client.run());
        }
        Run { world, faults, publishers, clients, tasks, fence: 0 }
    }

    async fn round(&mut self, rng: &mut StdRng, count: usize) {
        self.world.calm.store(false, std::sync::atomic::Ordering::Relaxed);
        let mut publishing = tokio::task::JoinSet::new();
        for mut publisher in self.publishers.drain(..) {
            publishing.spawn(async move {
                publisher.publish(count / PUBLISHERS, RATE).await;
                publisher
            });
        }
        while !publishing.is_empty() {
            let pause = Duration::from_millis(rng.random_range(200..2_500));
            while let Ok(Some(publisher)) = tokio::time::timeout(pause, publishing.join_next()).await {
                self.publishers.push(publisher.expect("a publisher does not panic"));
            }
            if !publishing.is_empty() {
                self.faults.inject(rng).await;
            }
        }
        self.world.calm.store(true, std::sync::atomic::Ordering::Relaxed);
        self.settle().await;
        self.check();
    }

    /// Waits until every subscriber has the last events.
    async fn settle(&mut self) {
        let began = Instant::now();
        loop {
            self.fence += 1;
            for publisher in &mut self.publishers {
                publisher.fence(self.fence).await;
            }
            let fenced = Instant::now();
            while fenced.elapsed() < Duration::from_secs(2) {
                if self.fence_reached(self.fence) {
                    return self.faults.counts_become(&self.subscribed()).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if began.elapsed() > CALM_MAX {
                self.world.fail(format!("fence {} is missing: {}", self.fence, self.missing().join("\n")));
                return;
            }
        }
    }

    fn fence_reached(&self, fence: u64) -> bool {
        self.clients.iter().all(|client| {
            client.lock().iter().all(|it| {
                it.state == State::Unsubscribed || (it.state == State::Subscribed && it.fence == fence)
            })
        })
    }

    /// Subscriptions by channel.
    fn subscribed(&self) -> Vec<usize> {
        let mut counts = vec![0; CHANNELS.len()];
        for client in &self.clients {
            for it in client.lock().iter().filter(|it| it.state == State::Subscribed) {
                counts[it.channel] += 1;
            }
        }
        counts
    }

    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            for it in
                client.lock().iter().filter(|it| it.state != State::Unsubscribed && it.fence != self.fence)
            {
                missing.push(format!(
                    "client {number}, {}, {:?}, fence {}: {:#?}",
                    it.name(),
                    it.state,
                    it.fence,
                    it.trace
                ));
            }
        }
        missing
    }

    /// Compares the received events with the published ones, and clears both.
    fn check(&mut self) {
        for (number, client) in self.clients.iter().enumerate() {
            for subscription in client.lock().iter_mut() {
                let log = self.world.logs[subscription.channel].lock();
                let ended = subscription.finished_spans.iter().map(|span| (span, false));
                let open =
                    subscription.span.iter().map(|span| (span, subscription.state == State::Subscribed));
                let mut floor = 0;
                for (span, is_complete) in ended.chain(open) {
                    self.world.totals.add("spans checked");
                    match span.check(&log.0, floor, is_complete) {
                        Ok(end) => floor = end,
                        Err(mistake) => {
                            let (name, resumes) = (subscription.name(), subscription.resumes);
                            let (why, trace) = (mistake.why, &subscription.trace);
                            let why =
                                format!("client {number}, {name}, resumes {resumes}: {why}; {trace:#?}");
                            self.world.fail(why);
                            if mistake.lost {
                                self.world.totals.add("lost");
                            }
                            break;
                        }
                    }
                }
                drop(log);
                subscription.start_round();
            }
        }
        for log in &self.world.logs {
            log.lock().0.clear();
        }
        let failures = self.world.failures.lock();
        assert!(
            failures.is_empty(),
            "{}\n{}",
            self.world.totals.text(),
            failures.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
        );
    }
}

async fn run(seed: Seed, publishes: usize) {
    let began = Instant::now();
    println!("DELTA_FUZZ_SEED={} DELTA_FUZZ_PUBLISHES={publishes}", seed.0);
    let mut rng = seed.rng_of(1_000);
    let mut run = Run::start(&seed).await;
    let mut left = publishes;
    while left > 0 {
        let count = left.min(ROUND_EVENTS);
        run.round(&mut rng, count).await;
        if rng.random_bool(0.2) {
            run.faults.empty_redis().await;
        }
        left -= count;
        if publishes > 10 * ROUND_EVENTS && left.is_multiple_of(10 * ROUND_EVENTS) {
            println!("{:?}, {left} left: {}", began.elapsed(), run.world.totals.text());
        }
    }
    run.tasks.shutdown().await;
    let totals = &run.world.totals;
    println!(
        "seed {}, {:?}: {}; wrong {}, lost without signal {}",
        seed.0,
        began.elapsed(),
        totals.text(),
        totals.get("wrong"),
        totals.get("lost")
    );
    for what in ["resumed", "deltas decoded", "publishes accepted", "bases synced"] {
        assert!(totals.get(what) > 0, "a run without {what} shows nothing");
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn cluster_delta_clients_under_faults_receive_every_published_payload() {
    let publishes = number("DELTA_FUZZ_PUBLISHES").map_or(SLICE_EVENTS, |it| it as usize);
    let seeds = number("DELTA_FUZZ_SEED").map_or(vec![1, 2], |seed| vec![seed]);
    for seed in seeds {
        run(Seed(seed), publishes).await;
    }
}
