//! Counts are cluster-wide (P5): they are exact again within ten seconds of a
//! node's death, after a pause, and after a data loss of Redis, without
//! intervention.

use std::time::Duration;

use fanfare::limits;
use serde_json::json;
use tokio::time::Instant;

use crate::support::recorder::Recorder;
use crate::support::{Backend, Caller, Cluster, Direction, Links, Signal, within};

/// The guaranteed time, with default settings.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(120);

/// With the lease of production, whose length these tests check.
async fn start(nodes: usize) -> Cluster {
    Cluster::builder(Backend::Redis).nodes(nodes).start().await
}

/// With a lease of 2 s.
async fn start_quick(nodes: usize) -> Cluster {
    Cluster::builder(Backend::Redis).nodes(nodes).quick_detection().start().await
}

/// Waits until these nodes report these subscription counts, in both responses
/// that contain them. The request with `info` publishes an event.
async fn counts_become(cluster: &Cluster, nodes: &[usize], counts: &[(&str, usize)], deadline: Instant) {
    let within = deadline.saturating_duration_since(Instant::now());
    for node in nodes {
        let caller = cluster.nodes[*node].caller("1");
        for (channel, count) in counts {
            caller.count_becomes_within(channel, *count, within).await;
            let occupied = caller.get(&format!("/channels/{channel}"), &[]).await.expect_ok();
            assert_eq!(occupied["occupied"], *count > 0, "{channel} at node {node}");
        }
        for some in counts.chunks(10) {
            check_counts_with_info(&caller, some).await;
        }
    }
}

async fn check_counts_with_info(caller: &Caller, counts: &[(&str, usize)]) {
    let event = |(channel, _): &(&str, usize)| json!({ "name": "e", "channel": channel, "data": "count-request", "info": "subscription_count" });
    let batch = counts.iter().map(event).collect();
    let answer = caller.post_batch(batch).await.expect_ok();
    for (at, (channel, count)) in counts.iter().enumerate() {
        let reported = &answer["batch"][at]["subscription_count"];
        assert_eq!(reported, *count, "`info` of {channel}");
    }
}

async fn metric(cluster: &Cluster, node: usize, name: &str) -> f64 {
    cluster.nodes[node].metrics().await.sum(&format!("fanfare_{name}_total"))
}

#[tokio::test]
async fn cluster_counts_recover_after_kill_9() {
    within(LIMIT, async {
        let mut cluster = start(3).await;
        let mut staying = Vec::new();
        staying.extend(Recorder::connect_many(&cluster.nodes[0], 3, &["all", "some"]).await);
        staying.extend(Recorder::connect_many(&cluster.nodes[1], 2, &["all"]).await);
        let channels: Vec<String> = (0..300).map(|n| format!("dying-{n}")).collect();
        let mut dying: Vec<&str> = channels.iter().map(String::as_str).collect();
        dying.extend(["all", "some"]);
        let _gone = Recorder::connect_many(&cluster.nodes[2], 5, &dying).await;
        let before = [("all", 10), ("some", 8), ("dying-7", 5), ("dying-299", 5)];
        counts_become(&cluster, &[0, 1, 2], &before, Instant::now()).await;

        cluster.nodes[2].kill9();
        let killed = Instant::now();
        let mut after = vec![("all", 5), ("some", 3)];
        after.extend(channels.iter().map(|channel| (channel.as_str(), 0)));
        counts_become(&cluster, &[0, 1], &after[..10], killed + RECOVERY_MAX).await;
        println!("counts exact {:?} after the kill", killed.elapsed());
        counts_become(&cluster, &[1], &after[2..200], killed + RECOVERY_MAX).await;
        let swept = metric(&cluster, 0, "nodes_swept").await + metric(&cluster, 1, "nodes_swept").await;
        assert_eq!(swept, 1.0, "one node has died, and exactly one node has swept it");
        // No membership of the killed node is left.
        let left = cluster.redis().command(&["KEYS", "*dying*"]).await.text();
        assert!(!left.contains("subs:"), "{left}");
    })
    .await;
}

#[tokio::test]
async fn cluster_counts_recover_after_two_of_three_nodes_are_killed() {
    within(LIMIT, async {
        let mut cluster = start_quick(3).await;
        let mut recorders = Vec::new();
        for node in &cluster.nodes {
            recorders.extend(Recorder::connect_many(node, 4, &["all"]).await);
        }
        counts_become(&cluster, &[0, 1, 2], &[("all", 12)], Instant::now()).await;
        cluster.nodes[1].kill9();
        cluster.nodes[2].kill9();
        let killed = Instant::now();
        counts_become(&cluster, &[0], &[("all", 4)], killed + RECOVERY_MAX).await;
        println!("counts exact {:?} after the kill", killed.elapsed());
        assert_eq!(metric(&cluster, 0, "nodes_swept").await, 2.0);
    })
    .await;
}

/// No node is left to detect the death: the next node to start removes the
/// memberships.
#[tokio::test]
async fn cluster_counts_recover_after_all_nodes_are_killed() {
    within(LIMIT, async {
        let mut cluster = start_quick(1).await;
        let _gone = Recorder::connect_many(&cluster.nodes[0], 4, &["all"]).await;
        cluster.nodes[0].kill9();
        let node = cluster.start_node(1).await;
        cluster.nodes.push(node);
        // There is no guaranteed time for this case.
        counts_become(&cluster, &[1], &[("all", 0)], Instant::now() + 3 * RECOVERY_MAX).await;
    })
    .await;
}

/// A stopped node counts as dead; when it continues, it detects the fencing, and
/// its sockets are counted again, once. They miss no event.
#[tokio::test]
async fn cluster_counts_recover_after_pause_longer_than_the_lease() {
    within(LIMIT, async {
        let cluster = start_quick(2).await;
        let staying = Recorder::connect_many(&cluster.nodes[0], 3, &["all", "other"]).await;
        let paused = Recorder::connect_many(&cluster.nodes[1], 4, &["all", "own"]).await;
        counts_become(&cluster, &[0, 1], &[("all", 7), ("own", 4)], Instant::now()).await;

        let stopped = Instant::now();
        cluster.nodes[1].signal(Signal::Stop);
        counts_become(&cluster, &[0], &[("all", 3), ("own", 0)], stopped + RECOVERY_MAX).await;
        println!("counts exact {:?} after the stop", stopped.elapsed());
        let caller = cluster.nodes[0].caller("1");
        let mut number = 0;
        while stopped.elapsed() < Duration::from_secs(5) {
            number += 1;
            caller.publish("all", "e", &format!("paused-{number}")).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster.nodes[1].signal(Signal::Continue);
        let resumed = Instant::now();
        counts_become(&cluster, &[0, 1], &[("all", 7), ("own", 4), ("other", 3)], resumed + RECOVERY_MAX)
            .await;
        println!("counts exact {:?} after the continue", resumed.elapsed());
        assert_eq!(metric(&cluster, 1, "leases_lost").await, 1.0);
        caller.publish("all", "e", "end").await;
        for recorder in staying.iter().chain(&paused) {
            recorder.wait_for("all", "end").await;
            assert_eq!(recorder.run("all"), staying[0].run("all"), "{}", recorder.name);
        }
        // It is counted under its new incarnation only, also later.
        tokio::time::sleep(Duration::from_secs(3)).await;
        counts_become(&cluster, &[0, 1], &[("all", 7), ("own", 4)], Instant::now()).await;
        drop(paused);
        counts_become(&cluster, &[0, 1], &[("all", 3), ("own", 0)], Instant::now() + RECOVERY_MAX).await;
    })
    .await;
}

/// Shorter than the lease: no node is swept, and no event arrives twice.
#[tokio::test]
async fn cluster_short_pause_does_not_fence_node() {
    within(LIMIT, async {
        let cluster = start(2).await;
        let _staying = Recorder::connect_many(&cluster.nodes[0], 1, &["all"]).await;
        let paused = Recorder::connect_many(&cluster.nodes[1], 2, &["all"]).await;
        cluster.nodes[1].signal(Signal::Stop);
        tokio::time::sleep(Duration::from_secs(5)).await;
        cluster.nodes[1].signal(Signal::Continue);
        let caller = cluster.nodes[0].caller("1");
        caller.publish("all", "e", "end").await;
        for recorder in &paused {
            recorder.wait_for("all", "end").await;
        }
        counts_become(&cluster, &[0, 1], &[("all", 3)], Instant::now()).await;
        for node in [0, 1] {
            assert_eq!(metric(&cluster, node, "nodes_swept").await, 0.0);
            assert_eq!(metric(&cluster, node, "leases_lost").await, 0.0);
        }
    })
    .await;
}

#[tokio::test]
async fn cluster_counts_recover_after_flushall() {
    within(LIMIT, async {
        let cluster = start_quick(2).await;
        let mut recorders = Recorder::connect_many(&cluster.nodes[0], 3, &["all", "zero"]).await;
        recorders.extend(Recorder::connect_many(&cluster.nodes[1], 4, &["all", "one"]).await);
        let counts = [("all", 7), ("zero", 3), ("one", 4)];
        counts_become(&cluster, &[0, 1], &counts, Instant::now()).await;
        for round in 0..3 {
            let caller = cluster.nodes[round % 2].caller("1");
            caller.publish("all", "e", &format!("before-{round}")).await;
            cluster.redis().command(&["FLUSHALL"]).await;
            let flushed = Instant::now();
            // Events are delivered at once: delivery does not depend on counts.
            caller.publish("all", "e", &format!("after-{round}")).await;
            for recorder in &recorders {
                recorder.wait_for("all", &format!("after-{round}")).await;
            }
            counts_become(&cluster, &[0, 1], &counts, flushed + RECOVERY_MAX).await;
            println!("counts exact {:?} after the flush", flushed.elapsed());
        }
        let run: Vec<String> =
            recorders[0].run("all").into_iter().filter(|data| data != "count-request").collect();
        let expected: Vec<String> =
            (0..3).flat_map(|round| [format!("before-{round}"), format!("after-{round}")]).collect();
        assert_eq!(run, expected);
        // Memberships of earlier incarnations do not return.
        tokio::time::sleep(Duration::from_secs(3)).await;
        counts_become(&cluster, &[0, 1], &counts, Instant::now()).await;
        drop(recorders);
        counts_become(
            &cluster,
            &[0, 1],
            &counts.map(|(channel, _)| (channel, 0)),
            Instant::now() + RECOVERY_MAX,
        )
        .await;
    })
    .await;
}

/// A node receives its own probes from the first one on, and stays ready.
#[tokio::test]
async fn cluster_healthy_nodes_stay_ready_without_lease_loss() {
    within(LIMIT, async {
        let cluster = start(2).await;
        let _recorders = Recorder::connect_many(&cluster.nodes[0], 2, &["all"]).await;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(11) {
            for node in &cluster.nodes {
                let answer = node.get("/ready").await;
                assert_eq!(answer.status, 200, "after {:?}: {}", started.elapsed(), answer.text());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for node in [0, 1] {
            for name in ["probe_failures", "redis_reconnects", "leases_lost", "nodes_swept", "gaps"] {
                assert_eq!(metric(&cluster, node, name).await, 0.0, "{name} of node {node}");
            }
        }
    })
    .await;
}

/// An orderly stop removes its memberships, before the lease expires.
#[tokio::test]
async fn cluster_counts_are_exact_right_after_orderly_stop() {
    within(LIMIT, async {
        let mut cluster = start(2).await;
        let _staying = Recorder::connect_many(&cluster.nodes[0], 1, &["all"]).await;
        let _leaving = Recorder::connect_many(&cluster.nodes[1], 3, &["all"]).await;
        counts_become(&cluster, &[0], &[("all", 4)], Instant::now()).await;
        cluster.nodes[1].signal(Signal::Terminate);
        let status = cluster.nodes[1].wait_exit(Duration::from_secs(60)).await;
        assert!(status.success(), "{status}");
        counts_become(&cluster, &[0], &[("all", 1)], Instant::now()).await;
        assert_eq!(metric(&cluster, 0, "nodes_swept").await, 0.0);
        let leases = cluster.redis().command(&["HLEN", "fanfare:{nodes}:leases"]).await;
        assert_eq!(leases.integer(), 1, "the stopped node removed its lease");
    })
    .await;
}

/// A node is cut off with membership updates on the wire, and they arrive when its memberships have
/// been removed: they are refused, or nobody would remove them again.
#[tokio::test]
async fn cluster_updates_of_a_removed_node_that_arrive_late_are_refused() {
    within(LIMIT, async {
        let mut cluster =
            Cluster::builder(Backend::Redis).nodes(2).proxied(1).quick_detection().start().await;
        let mut client = cluster.second().browser("key1").await;
        client.subscribe("early").await;
        cluster.proxy().stall(Links::Scripts, Direction::Requests);
        // On all connections for scripts, whichever channels they serve.
        let late: Vec<String> = (0..12).map(|number| format!("late-{number}")).collect();
        for channel in &late {
            client.request_subscription(channel).await;
        }
        client.settle().await;
        cluster.proxy().holds_requests(limits::REDIS_CONNECTIONS as u64).await;
        cluster.nodes[1].kill9();
        let first = cluster.first().caller("1");
        first.count_becomes("early", 0).await;
        cluster.proxy().heal();
        cluster.proxy().has_no_connections().await;
        for channel in &late {
            assert_eq!(first.subscription_count(channel).await, 0, "{channel}");
        }
        let ghosts = cluster.redis().command(&["KEYS", "fanfare:*:subs:*"]).await.text();
        assert_eq!(ghosts, "");
    })
    .await;
}
