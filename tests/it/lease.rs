//! Counts are the cluster's (P5): right again within ten seconds of a node's
//! death, after a pause, and after Redis has lost its data, without anybody
//! having to do anything.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Redis, Server, Signal, eventually};
use crate::witness::{Witness, within};

/// The promise, on default settings.
const HEALED: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);

struct Stage {
    nodes: Vec<Server>,
    redis: Redis,
}

impl Stage {
    async fn set(nodes: usize) -> Stage {
        let redis = Redis::start().await;
        let node = |n: usize| Server::builder().name(&format!("node {n}")).redis(&redis).start();
        let nodes = join_all((0..nodes).map(node)).await;
        Stage { nodes, redis }
    }

    /// These nodes say that each channel has so many subscriptions, asked in both
    /// ways. Asking with `info` publishes.
    async fn counts_become(&self, nodes: &[usize], counts: &[(&str, usize)], deadline: Instant) {
        let patience = deadline.saturating_duration_since(Instant::now());
        for node in nodes {
            let caller = self.nodes[*node].caller("1");
            for (channel, count) in counts {
                let what = format!("{count} subscriptions of {channel} at node {node}");
                eventually(&what, patience, async || match caller.subscription_count(channel).await {
                    now if now == *count => Ok(()),
                    now => Err(now.to_string()),
                })
                .await;
                let occupied = caller.get(&format!("/channels/{channel}"), &[]).await.expect_ok();
                assert_eq!(occupied["occupied"], *count > 0, "{channel} at node {node}");
            }
            for some in counts.chunks(10) {
                self.ask_with_info(*node, some).await;
            }
        }
    }

    async fn ask_with_info(&self, node: usize, counts: &[(&str, usize)]) {
        let asking = |(channel, _): &(&str, usize)| json!({ "name": "e", "channel": channel, "data": "asked", "info": "subscription_count" });
        let batch = counts.iter().map(asking).collect();
        let answer = self.nodes[node].caller("1").post_batch(batch).await.expect_ok();
        for (at, (channel, count)) in counts.iter().enumerate() {
            let told = &answer["batch"][at]["subscription_count"];
            assert_eq!(told, *count, "`info` of {channel} at node {node}");
        }
    }

    async fn metric(&self, node: usize, name: &str) -> f64 {
        self.nodes[node].metrics().await.sum(&format!("fanfare_{name}_total"))
    }
}

#[tokio::test]
async fn cluster_counts_heal_after_kill_9() {
    within(LIMIT, async {
        let mut stage = Stage::set(3).await;
        let mut stay = Vec::new();
        stay.extend(Witness::several(&stage.nodes[0], 3, &["all", "some"]).await);
        stay.extend(Witness::several(&stage.nodes[1], 2, &["all"]).await);
        let channels: Vec<String> = (0..300).map(|n| format!("dying-{n}")).collect();
        let mut dying: Vec<&str> = channels.iter().map(String::as_str).collect();
        dying.extend(["all", "some"]);
        let _gone = Witness::several(&stage.nodes[2], 5, &dying).await;
        let before = [("all", 10), ("some", 8), ("dying-7", 5), ("dying-299", 5)];
        stage.counts_become(&[0, 1, 2], &before, Instant::now()).await;

        stage.nodes[2].kill9();
        let killed = Instant::now();
        let mut after = vec![("all", 5), ("some", 3)];
        after.extend(channels.iter().map(|channel| (channel.as_str(), 0)));
        stage.counts_become(&[0, 1], &after[..10], killed + HEALED).await;
        println!("counts right {:?} after the kill", killed.elapsed());
        stage.counts_become(&[1], &after[2..200], killed + HEALED).await;
        let swept = stage.metric(0, "nodes_swept").await + stage.metric(1, "nodes_swept").await;
        assert_eq!(swept, 1.0, "one node has died, and one has swept it");
        // Nothing is left of it.
        let left = stage.redis.command(&["KEYS", "*dying*"]).await.text();
        assert!(!left.contains("subs:"), "{left}");
    })
    .await;
}

#[tokio::test]
async fn cluster_counts_heal_when_two_of_three_are_killed() {
    within(LIMIT, async {
        let mut stage = Stage::set(3).await;
        let mut witnesses = Vec::new();
        for node in &stage.nodes {
            witnesses.extend(Witness::several(node, 4, &["all"]).await);
        }
        stage.counts_become(&[0, 1, 2], &[("all", 12)], Instant::now()).await;
        stage.nodes[1].kill9();
        stage.nodes[2].kill9();
        let killed = Instant::now();
        stage.counts_become(&[0], &[("all", 4)], killed + HEALED).await;
        println!("counts right {:?} after the kill", killed.elapsed());
        assert_eq!(stage.metric(0, "nodes_swept").await, 2.0);
    })
    .await;
}

/// Nobody is left to see it die: the next node to start cleans up.
#[tokio::test]
async fn cluster_counts_heal_after_all_nodes_were_killed() {
    within(LIMIT, async {
        let mut stage = Stage::set(1).await;
        let _gone = Witness::several(&stage.nodes[0], 4, &["all"]).await;
        stage.nodes[0].kill9();
        stage.nodes.push(Server::builder().name("node 1").redis(&stage.redis).start().await);
        // Nothing is promised but that it happens.
        stage.counts_become(&[1], &[("all", 0)], Instant::now() + 3 * HEALED).await;
    })
    .await;
}

/// A node that stands still is as good as dead; when it goes on, it finds out,
/// and its sockets are counted again, once. They miss nothing.
#[tokio::test]
async fn cluster_counts_heal_after_a_pause_of_20_seconds() {
    within(LIMIT, async {
        let stage = Stage::set(2).await;
        let stay = Witness::several(&stage.nodes[0], 3, &["all", "other"]).await;
        let paused = Witness::several(&stage.nodes[1], 4, &["all", "own"]).await;
        stage.counts_become(&[0, 1], &[("all", 7), ("own", 4)], Instant::now()).await;

        let stopped = Instant::now();
        stage.nodes[1].signal(Signal::Stop);
        stage.counts_become(&[0], &[("all", 3), ("own", 0)], stopped + HEALED).await;
        println!("counts right {:?} after the stop", stopped.elapsed());
        let caller = stage.nodes[0].caller("1");
        let mut number = 0;
        while stopped.elapsed() < Duration::from_secs(20) {
            number += 1;
            caller.publish("all", "e", &format!("meanwhile-{number}")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stage.nodes[1].signal(Signal::Continue);
        let resumed = Instant::now();
        stage.counts_become(&[0, 1], &[("all", 7), ("own", 4), ("other", 3)], resumed + HEALED).await;
        println!("counts right {:?} after it went on", resumed.elapsed());
        assert_eq!(stage.metric(1, "leases_lost").await, 1.0);
        caller.publish("all", "e", "end").await;
        for witness in stay.iter().chain(&paused) {
            witness.heard("all", "end").await;
            assert_eq!(witness.run("all"), stay[0].run("all"), "{}", witness.name);
        }
        // It is counted under its new name alone, also later.
        tokio::time::sleep(Duration::from_secs(6)).await;
        stage.counts_become(&[0, 1], &[("all", 7), ("own", 4)], Instant::now()).await;
        drop(paused);
        stage.counts_become(&[0, 1], &[("all", 3), ("own", 0)], Instant::now() + HEALED).await;
    })
    .await;
}

/// Shorter than a death: nobody is swept, and nothing is told twice.
#[tokio::test]
async fn cluster_short_pause_is_no_death() {
    within(LIMIT, async {
        let stage = Stage::set(2).await;
        let _stay = Witness::several(&stage.nodes[0], 1, &["all"]).await;
        let paused = Witness::several(&stage.nodes[1], 2, &["all"]).await;
        stage.nodes[1].signal(Signal::Stop);
        tokio::time::sleep(Duration::from_secs(5)).await;
        stage.nodes[1].signal(Signal::Continue);
        let caller = stage.nodes[0].caller("1");
        caller.publish("all", "e", "end").await;
        for witness in &paused {
            witness.heard("all", "end").await;
        }
        stage.counts_become(&[0, 1], &[("all", 3)], Instant::now()).await;
        for node in [0, 1] {
            assert_eq!(stage.metric(node, "nodes_swept").await, 0.0);
            assert_eq!(stage.metric(node, "leases_lost").await, 0.0);
        }
    })
    .await;
}

#[tokio::test]
async fn cluster_counts_heal_after_flushall() {
    within(LIMIT, async {
        let stage = Stage::set(2).await;
        let mut witnesses = Witness::several(&stage.nodes[0], 3, &["all", "zero"]).await;
        witnesses.extend(Witness::several(&stage.nodes[1], 4, &["all", "one"]).await);
        let counts = [("all", 7), ("zero", 3), ("one", 4)];
        stage.counts_become(&[0, 1], &counts, Instant::now()).await;
        for round in 0..3 {
            let caller = stage.nodes[round % 2].caller("1");
            caller.publish("all", "e", &format!("before-{round}")).await;
            stage.redis.command(&["FLUSHALL"]).await;
            let flushed = Instant::now();
            // Events flow at once: nobody has to be counted for that.
            caller.publish("all", "e", &format!("after-{round}")).await;
            for witness in &witnesses {
                witness.heard("all", &format!("after-{round}")).await;
            }
            stage.counts_become(&[0, 1], &counts, flushed + HEALED).await;
            println!("counts right {:?} after the flush", flushed.elapsed());
        }
        let run: Vec<String> = witnesses[0].run("all").into_iter().filter(|data| data != "asked").collect();
        let expected: Vec<String> =
            (0..3).flat_map(|round| [format!("before-{round}"), format!("after-{round}")]).collect();
        assert_eq!(run, expected);
        // Members of lives that are over do not come back.
        tokio::time::sleep(Duration::from_secs(6)).await;
        stage.counts_become(&[0, 1], &counts, Instant::now()).await;
        drop(witnesses);
        stage.counts_become(&[0, 1], &counts.map(|(channel, _)| (channel, 0)), Instant::now() + HEALED).await;
    })
    .await;
}

/// A node hears itself from its first probe on, and stays ready.
#[tokio::test]
async fn cluster_nothing_happens_to_a_healthy_node() {
    within(LIMIT, async {
        let stage = Stage::set(2).await;
        let _witnesses = Witness::several(&stage.nodes[0], 2, &["all"]).await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(11) {
            for node in &stage.nodes {
                let answer = node.get("/ready").await;
                assert_eq!(answer.status, 200, "after {:?}: {}", started.elapsed(), answer.text());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for node in [0, 1] {
            for name in ["probe_failures", "redis_reconnects", "leases_lost", "nodes_swept", "gaps"] {
                assert_eq!(stage.metric(node, name).await, 0.0, "{name} of node {node}");
            }
        }
    })
    .await;
}

/// An orderly stop takes its memberships along: nobody waits for the lease.
#[tokio::test]
async fn cluster_counts_follow_an_orderly_stop_at_once() {
    within(LIMIT, async {
        let mut stage = Stage::set(2).await;
        let _stay = Witness::several(&stage.nodes[0], 1, &["all"]).await;
        let _leave = Witness::several(&stage.nodes[1], 3, &["all"]).await;
        stage.counts_become(&[0], &[("all", 4)], Instant::now()).await;
        stage.nodes[1].signal(Signal::Terminate);
        let status = stage.nodes[1].wait_exit(Duration::from_secs(60)).await;
        assert!(status.success(), "{status}");
        stage.counts_become(&[0], &[("all", 1)], Instant::now()).await;
        assert_eq!(stage.metric(0, "nodes_swept").await, 0.0);
        let leases = stage.redis.command(&["HLEN", "fanfare:{nodes}:leases"]).await;
        assert_eq!(leases.integer(), 1, "the lease was given back");
    })
    .await;
}
