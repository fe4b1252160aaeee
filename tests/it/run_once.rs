//! A script runs once (P6): the connection that runs it is cut at every moment,
//! and nothing is published twice, nor said to be published when it is not.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use serde_json::{Value, json};

use crate::support::{Answer, Caller, Links, Proxy, Redis, Seed, Server};
use crate::witness::{Witness, assert_once_each, within};

const CHANNELS: [&str; 4] = ["one", "two", "three", "four"];

/// Node a publishes through a proxy; node b, who listens too, does not.
struct Stage {
    node_a: Server,
    node_b: Server,
    proxy: Proxy,
    redis: Redis,
}

impl Stage {
    async fn set() -> Stage {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node_a = Server::builder().name("node a").redis_url(&proxy.url()).start().await;
        let node_b = Server::builder().name("node b").redis(&redis).start().await;
        Stage { node_a, node_b, proxy, redis }
    }

    async fn witnesses(&self) -> Vec<Witness> {
        let mut witnesses = Witness::several(&self.node_b, 2, &CHANNELS).await;
        witnesses.extend(Witness::several(&self.node_a, 2, &CHANNELS).await);
        witnesses
    }
}

/// What a caller was told about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Told {
    /// 200: it comes exactly once.
    Published,
    /// 503 `outcome_unknown`: it comes once or never.
    Unknown,
    /// 503: it never comes.
    Nothing,
}

#[track_caller]
fn told(answer: &Answer) -> Told {
    if answer.status == 200 {
        return Told::Published;
    }
    let refusal = answer.expect_refused(503).0;
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {refusal}");
    match refusal["code"].as_str() {
        Some("outcome_unknown") => Told::Unknown,
        Some("service_unavailable") => Told::Nothing,
        _ => panic!("{refusal}"),
    }
}

/// Compares what came with what callers were told.
async fn judge(witnesses: &[Witness], all_told: &HashMap<String, Told>, caller: &Caller) {
    for channel in CHANNELS {
        caller.publish(channel, "e", "end").await;
        for witness in witnesses {
            witness.heard(channel, "end").await;
        }
        let sequence = witnesses[0].run(channel);
        for witness in witnesses {
            assert_eq!(witness.run(channel), sequence, "{}", witness.name);
        }
        assert_once_each(&sequence, channel);
        for (data, told) in all_told.iter().filter(|(data, _)| data.ends_with(channel)) {
            match (told, sequence.contains(data)) {
                (Told::Published, false) => panic!("{data}: 200, and nobody got it"),
                (Told::Nothing, true) => panic!("{data}: \"nothing was done\", and it came"),
                _ => {}
            }
        }
    }
    let mut counts: HashMap<Told, usize> = HashMap::new();
    for told in all_told.values() {
        *counts.entry(*told).or_default() += 1;
    }
    println!("callers were told: {counts:?}");
}

/// Events on these channels whose data says where they belong.
fn batch(number: usize, channels: &[&str]) -> Value {
    let event =
        |channel: &&str| json!({ "name": "e", "channel": channel, "data": format!("{number}-{channel}") });
    channels.iter().map(event).collect()
}

fn note(all_told: &mut HashMap<String, Told>, batch: &Value, told: Told) {
    for event in batch.as_array().unwrap() {
        all_told.insert(event["data"].as_str().unwrap().into(), told);
    }
}

/// The acceptance test: 200 times between execution and reply.
#[tokio::test]
async fn cluster_reply_lost_two_hundred_times() {
    within(Duration::from_secs(180), async {
        let seed = Seed::new();
        let mut rng = seed.rng();
        let stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let caller = stage.node_a.caller("1");
        // A channel that is not there yet could not prove that nothing was done.
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut all_told = HashMap::new();
        for number in 1..=200 {
            let from = rng.random_range(0..CHANNELS.len());
            let some = &CHANNELS[from..=rng.random_range(from..CHANNELS.len())];
            if rng.random_bool(0.1) {
                // The reply that is lost says NOSCRIPT.
                stage.redis.command(&["SCRIPT", "FLUSH"]).await;
            }
            let batch = batch(number, some);
            let lost = stage.proxy.lose_reply_of(&format!("{number}-{}", some[0]));
            let again = rng.random_bool(0.1);
            let (answer, ()) = tokio::join!(caller.post_batch(batch.clone()), async {
                lost.happened().await;
                if again {
                    stage.proxy.lose_reply_of(&format!("{number}-{}", some[0])).happened().await;
                }
            });
            note(&mut all_told, &batch, told(&answer));
        }
        judge(&witnesses, &all_told, &caller).await;
        let metrics = stage.node_a.metrics().await;
        assert!(metrics.sum("fanfare_redis_resends_total") >= 200.0, "each was sent again");
        let sure = all_told.values().filter(|told| **told == Told::Published).count();
        assert!(sure * 10 >= all_told.len() * 9, "{sure} of {} are certain", all_told.len());
    })
    .await;
}

/// At any moment: before the request is through, in it, after it.
#[tokio::test]
async fn cluster_connections_cut_at_random_while_many_publish() {
    within(Duration::from_secs(120), async {
        let seed = Seed::new();
        let stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let caller = stage.node_b.caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let done = Cell::new(false);
        let publishers = (1..=8).map(|publisher| {
            let (stage, mut rng) = (&stage, seed.rng_of(publisher));
            async move {
                let caller = stage.node_a.caller("1");
                let mut all_told = HashMap::new();
                for number in 0..60 {
                    let number = publisher as usize * 1_000 + number;
                    let from = rng.random_range(0..CHANNELS.len());
                    let batch = batch(number, &CHANNELS[from..]);
                    note(&mut all_told, &batch, told(&caller.post_batch(batch.clone()).await));
                }
                all_told
            }
        });
        let mut rng = seed.rng();
        let (all_told, ()) = tokio::join!(
            async {
                let all_told = join_all(publishers).await;
                done.set(true);
                all_told
            },
            async {
                while !done.get() {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(1..120))).await;
                    stage.proxy.cut_once(Links::Scripts);
                }
            }
        );
        let all_told = all_told.into_iter().flatten().collect();
        stage.node_a.caller("1").count_becomes("one", 4).await;
        judge(&witnesses, &all_told, &caller).await;
    })
    .await;
}

/// A request that is held up so long that the node has given up: it may still be
/// run, once, and the caller was told that nobody knows.
#[tokio::test]
async fn cluster_request_that_arrives_after_its_resend_is_not_applied() {
    within(Duration::from_secs(60), async {
        let stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let caller = stage.node_a.caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut all_told = HashMap::new();
        for number in 1..=3 {
            let batch = batch(number, &CHANNELS[..2]);
            // Longer than an attempt waits, shorter than all of them may take.
            stage.proxy.stall(Links::Scripts, crate::support::Way::Requests);
            let (answer, ()) = tokio::join!(caller.post_batch(batch.clone()), async {
                tokio::time::sleep(Duration::from_millis(2_700)).await;
                stage.proxy.heal();
            });
            note(&mut all_told, &batch, told(&answer));
        }
        judge(&witnesses, &all_told, &caller).await;
        assert!(stage.node_a.metrics().await.sum("fanfare_redis_resends_total") >= 3.0);
    })
    .await;
}

/// Longer than all attempts together: 503, and whatever was on its way is run
/// once at most.
#[tokio::test]
async fn cluster_no_answer_in_time_is_an_unknown_outcome() {
    within(Duration::from_secs(60), async {
        let stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let caller = stage.node_a.caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut all_told = HashMap::new();
        let batch = batch(1, &CHANNELS);
        stage.proxy.stall(Links::Scripts, crate::support::Way::Both);
        let started = tokio::time::Instant::now();
        let answer = caller.post_batch(batch.clone()).await;
        println!("answered after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        assert_eq!(told(&answer), Told::Unknown);
        note(&mut all_told, &batch, Told::Unknown);
        stage.proxy.heal();
        judge(&witnesses, &all_told, &stage.node_b.caller("1")).await;
        let told_after = told(&caller.post_batch(self::batch(2, &CHANNELS)).await);
        println!("right after: {told_after:?}");
    })
    .await;
}
