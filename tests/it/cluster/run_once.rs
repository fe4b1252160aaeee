//! A script runs once (P6). The connection is cut at any moment of a request: no event is
//! published twice, and every publish with status 200 has been published.

use std::cell::Cell;
use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use rand::RngExt;
use serde_json::{Value, json};

use crate::support::recorder::{Recorder, assert_once_each};
use crate::support::{Answer, Backend, Caller, Cluster, Direction, Links, Seed, within};

const CHANNELS: [&str; 4] = ["one", "two", "three", "four"];

/// Two nodes, both with subscribers. Node 0 reaches Redis through a proxy.
async fn start() -> (Cluster, Vec<Recorder>) {
    let cluster = Cluster::builder(Backend::Redis).proxied(0).start().await;
    let mut recorders = Recorder::connect_many(&cluster.nodes[1], 2, &CHANNELS).await;
    recorders.extend(Recorder::connect_many(&cluster.nodes[0], 2, &CHANNELS).await);
    (cluster, recorders)
}

/// The outcome of a publish, by the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Outcome {
    /// 200: the event is delivered exactly once.
    Published,
    /// 503 `outcome_unknown`: the event is delivered at most once.
    Unknown,
    /// 503 `service_unavailable`: the event is never delivered.
    NotPublished,
}

#[track_caller]
fn outcome(answer: &Answer) -> Outcome {
    if answer.status == 200 {
        return Outcome::Published;
    }
    let refusal = answer.expect_refused(503).0;
    assert!(answer.header("retry-after").is_some(), "no Retry-After: {refusal}");
    match refusal["code"].as_str() {
        Some("outcome_unknown") => Outcome::Unknown,
        Some("service_unavailable") => Outcome::NotPublished,
        _ => panic!("{refusal}"),
    }
}

/// Compares the delivered events with the outcomes of their requests.
async fn check(recorders: &[Recorder], outcomes: &HashMap<String, Outcome>, caller: &Caller) {
    for channel in CHANNELS {
        caller.publish(channel, "e", "end").await;
        for recorder in recorders {
            recorder.wait_for(channel, "end").await;
        }
        let sequence = recorders[0].run(channel);
        for recorder in recorders {
            assert_eq!(recorder.run(channel), sequence, "{}", recorder.name);
        }
        assert_once_each(&sequence, channel);
        for (data, outcome) in outcomes.iter().filter(|(data, _)| data.ends_with(channel)) {
            match (outcome, sequence.contains(data)) {
                (Outcome::Published, false) => panic!("{data}: status 200, but not delivered"),
                (Outcome::NotPublished, true) => panic!("{data}: \"nothing was done\", but delivered"),
                _ => {}
            }
        }
    }
    let mut counts: HashMap<Outcome, usize> = HashMap::new();
    for outcome in outcomes.values() {
        *counts.entry(*outcome).or_default() += 1;
    }
    println!("outcomes: {counts:?}");
}

/// One event per channel; the data has the number of the batch and the channel.
fn batch(number: usize, channels: &[&str]) -> Value {
    let event =
        |channel: &&str| json!({ "name": "e", "channel": channel, "data": format!("{number}-{channel}") });
    channels.iter().map(event).collect()
}

fn record(outcomes: &mut HashMap<String, Outcome>, batch: &Value, outcome: Outcome) {
    for event in batch.as_array().unwrap() {
        outcomes.insert(event["data"].as_str().unwrap().into(), outcome);
    }
}

/// The acceptance test of P6: 200 connections cut between execution and reply.
#[tokio::test]
async fn cluster_publish_with_200_lost_replies_runs_each_script_once() {
    within(Duration::from_secs(180), async {
        let seed = Seed::new();
        let mut rng = seed.rng();
        let (cluster, recorders) = start().await;
        let caller = cluster.nodes[0].caller("1");
        // Creates the channels: a node cannot determine the outcome of a publish on a channel
        // without a head.
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut outcomes = HashMap::new();
        for number in 1..=200 {
            let from = rng.random_range(0..CHANNELS.len());
            let some = &CHANNELS[from..=rng.random_range(from..CHANNELS.len())];
            if rng.random_bool(0.1) {
                // The lost reply is then a NOSCRIPT error.
                cluster.redis().command(&["SCRIPT", "FLUSH"]).await;
            }
            let batch = batch(number, some);
            let lost = cluster.proxy().lose_reply_of(&format!("{number}-{}", some[0]));
            let again = rng.random_bool(0.1);
            let (answer, ()) = tokio::join!(caller.post_batch(batch.clone()), async {
                lost.happened().await;
                if again {
                    cluster.proxy().lose_reply_of(&format!("{number}-{}", some[0])).happened().await;
                }
            });
            record(&mut outcomes, &batch, outcome(&answer));
        }
        check(&recorders, &outcomes, &caller).await;
        let metrics = cluster.nodes[0].metrics().await;
        assert!(metrics.sum("fanfare_redis_resends_total") >= 200.0, "a request was not sent again");
        let certain = outcomes.values().filter(|outcome| **outcome == Outcome::Published).count();
        assert!(certain * 10 >= outcomes.len() * 9, "{certain} of {} are certain", outcomes.len());
    })
    .await;
}

/// Connections are cut at random moments: before, during or after the request.
#[tokio::test]
async fn cluster_publish_with_connections_cut_at_random_runs_each_script_once() {
    within(Duration::from_secs(120), async {
        let seed = Seed::new();
        let (cluster, recorders) = start().await;
        let caller = cluster.nodes[1].caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let done = Cell::new(false);
        let publishers = (1..=8).map(|publisher| {
            let (cluster, mut rng) = (&cluster, seed.rng_of(publisher));
            async move {
                let caller = cluster.nodes[0].caller("1");
                let mut outcomes = HashMap::new();
                for number in 0..60 {
                    let number = publisher as usize * 1_000 + number;
                    let from = rng.random_range(0..CHANNELS.len());
                    let batch = batch(number, &CHANNELS[from..]);
                    record(&mut outcomes, &batch, outcome(&caller.post_batch(batch.clone()).await));
                }
                outcomes
            }
        });
        let mut rng = seed.rng();
        let (outcomes, ()) = tokio::join!(
            async {
                let outcomes = join_all(publishers).await;
                done.set(true);
                outcomes
            },
            async {
                while !done.get() {
                    tokio::time::sleep(Duration::from_millis(rng.random_range(1..120))).await;
                    cluster.proxy().cut_once(Links::Scripts);
                }
            }
        );
        let outcomes = outcomes.into_iter().flatten().collect();
        cluster.nodes[0].caller("1").count_becomes("one", 4).await;
        check(&recorders, &outcomes, &caller).await;
    })
    .await;
}

/// A request is delayed until the node has sent it again: Redis applies it at most once,
/// and the outcome of the response is correct.
#[tokio::test]
async fn cluster_publish_request_arriving_after_its_resend_is_not_applied() {
    within(Duration::from_secs(60), async {
        let (cluster, recorders) = start().await;
        let caller = cluster.nodes[0].caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut outcomes = HashMap::new();
        for number in 1..=3 {
            let batch = batch(number, &CHANNELS[..2]);
            // Longer than the timeout of one attempt, shorter than that of all attempts.
            cluster.proxy().stall(Links::Scripts, Direction::Requests);
            let (answer, ()) = tokio::join!(caller.post_batch(batch.clone()), async {
                tokio::time::sleep(Duration::from_millis(2_700)).await;
                cluster.proxy().heal();
            });
            record(&mut outcomes, &batch, outcome(&answer));
        }
        check(&recorders, &outcomes, &caller).await;
        assert!(cluster.nodes[0].metrics().await.sum("fanfare_redis_resends_total") >= 3.0);
    })
    .await;
}

/// A delay longer than all attempts together: 503 `outcome_unknown`, and the delayed
/// requests are applied at most once.
#[tokio::test]
async fn cluster_publish_without_answer_in_time_has_an_unknown_outcome() {
    within(Duration::from_secs(60), async {
        let (cluster, recorders) = start().await;
        let caller = cluster.nodes[0].caller("1");
        caller.post_batch(batch(0, &CHANNELS)).await.expect_ok();
        let mut outcomes = HashMap::new();
        let batch = batch(1, &CHANNELS);
        cluster.proxy().stall(Links::Scripts, Direction::Both);
        let started = tokio::time::Instant::now();
        let answer = caller.post_batch(batch.clone()).await;
        println!("answered after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
        assert_eq!(outcome(&answer), Outcome::Unknown);
        record(&mut outcomes, &batch, Outcome::Unknown);
        cluster.proxy().heal();
        check(&recorders, &outcomes, &cluster.nodes[1].caller("1")).await;
        let outcome_after = outcome(&caller.post_batch(self::batch(2, &CHANNELS)).await);
        println!("right after: {outcome_after:?}");
    })
    .await;
}
