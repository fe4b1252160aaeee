//! Redis becomes unavailable and recovers (design.md 8): every accepted publish is
//! delivered, connections stay open, and the state is correct again without a restart of
//! the nodes.

use std::time::Duration;

use rand::RngExt;
use serde_json::json;
use tokio::time::Instant;

use crate::support::recorder::{Recorder, assert_once_each};
use crate::support::{
    Answer, Backend, Cluster, Links, Redis, STEP_TIMEOUT, Seed, Server, Signal, eventually, within,
};

const LIMIT: Duration = Duration::from_secs(120);

async fn recorders(cluster: &Cluster) -> Vec<Recorder> {
    let mut recorders = Recorder::connect_many(&cluster.nodes[0], 3, &["all", "zero"]).await;
    recorders.extend(Recorder::connect_many(&cluster.nodes[1], 4, &["all", "one"]).await);
    recorders
}

async fn counts_become(cluster: &Cluster, counts: &[(&str, usize)], timeout: Duration) {
    for node in &cluster.nodes {
        for (channel, count) in counts {
            node.caller("1").count_becomes_within(channel, *count, timeout).await;
        }
    }
}

/// Repeats a publish until it is accepted; returns the data of the accepted event. Earlier
/// attempts with an unknown outcome may have been published too.
async fn publish_until_accepted(node: &Server, name: &str) -> String {
    let caller = node.caller("1");
    let mut number = 0;
    let number = tokio::sync::Mutex::new(&mut number);
    eventually("a publish that is accepted", STEP_TIMEOUT, async || {
        let mut number = number.lock().await;
        **number += 1;
        let data = format!("{name}-{number}");
        let answer = caller.post_events(json!({ "name": "e", "channel": "all", "data": data })).await;
        if answer.status == 200 {
            return Ok(data);
        }
        expect_unavailable(&answer);
        Err(answer.text())
    })
    .await
}

#[track_caller]
fn expect_unavailable(answer: &Answer) {
    let refusal = answer.expect_refused(503).0;
    assert!(answer.header("retry-after").is_some(), "{refusal}");
    let code = refusal["code"].as_str();
    assert!(matches!(code, Some("service_unavailable" | "outcome_unknown")), "{refusal}");
}

/// All requests are refused for this time, nearly all of them at once.
async fn expect_refusals_for(cluster: &Cluster, time: Duration) {
    let began = Instant::now();
    let mut refused = Vec::new();
    while began.elapsed() < time {
        for node in &cluster.nodes {
            let data = format!("away-{}", refused.len());
            let sent = Instant::now();
            let event = json!({ "name": "e", "channel": "all", "data": data });
            expect_unavailable(&node.caller("1").post_events(event).await);
            refused.push(sent.elapsed());
            expect_unavailable(&node.caller("1").get("/channels/all", &[]).await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!("{} refused, slowest {:?}", refused.len(), refused.iter().max());
    let slow = refused.iter().filter(|took| **took > Duration::from_millis(500)).count();
    assert!(slow <= 4, "{slow} of {} requests did not fail fast", refused.len());
}

#[tokio::test]
async fn cluster_redis_killed_and_restarted_empty_recovers() {
    within(LIMIT, async {
        let mut cluster = Cluster::start(Backend::Redis).await;
        let mut recorders = self::recorders(&cluster).await;
        cluster.nodes[0].caller("1").publish("all", "e", "before").await;
        for recorder in &recorders {
            recorder.wait_for("all", "before").await;
        }
        cluster.redis_mut().kill();
        expect_refusals_for(&cluster, Duration::from_secs(7)).await;
        for node in &cluster.nodes {
            let answer = node.ready_becomes(503, STEP_TIMEOUT).await;
            assert!(answer.json()["reason"].is_string(), "{}", answer.text());
            assert_eq!(node.get("/live").await.status, 200);
        }
        // A subscription made now stays pending. A connection closed now is not counted
        // afterwards.
        let mut late = Recorder::connect(&cluster.nodes[0]).await;
        late.request_subscription("all").await;
        late.request_subscription("late").await;
        late.settle().await;
        drop(recorders.pop());
        recorders[0].unsubscribe("zero").await;
        assert_eq!(late.confirmations("all"), 0, "the subscription was confirmed without Redis");

        cluster.redis_mut().restart().await;
        let back = Instant::now();
        for node in &cluster.nodes {
            node.ready_becomes(200, STEP_TIMEOUT).await;
        }
        println!("ready {:?} after Redis was back", back.elapsed());
        late.until("its confirmations", STEP_TIMEOUT, |r| {
            r.confirmations("all") == 1 && r.confirmations("late") == 1
        })
        .await;
        let after = publish_until_accepted(&cluster.nodes[0], "after").await;
        for recorder in recorders.iter().chain([&late]) {
            recorder.wait_for("all", &after).await;
        }
        for recorder in &recorders {
            let run = recorder.run("all");
            assert_once_each(&run, &recorder.name);
            assert!(recorder.is_open());
            assert_eq!(run[0], "before");
            // Events refused with `service_unavailable` are not delivered.
            assert!(run[1..].iter().all(|data| data.starts_with("after")), "{run:?}");
        }
        let counts = [("all", 7), ("zero", 2), ("one", 3), ("late", 1)];
        counts_become(&cluster, &counts, STEP_TIMEOUT).await;
        println!("counts right {:?} after Redis was back", back.elapsed());
        tokio::time::sleep(Duration::from_secs(6)).await;
        counts_become(&cluster, &counts, Duration::ZERO).await;
    })
    .await;
}

/// While Redis is paused, no node can renew its lease. No node may be fenced for that.
#[tokio::test]
async fn cluster_redis_paused_for_12_seconds_fences_no_node() {
    within(LIMIT, async {
        let cluster = Cluster::start(Backend::Redis).await;
        let recorders = self::recorders(&cluster).await;
        let counts = [("all", 7), ("zero", 3), ("one", 4)];
        counts_become(&cluster, &counts, STEP_TIMEOUT).await;
        cluster.redis().signal(Signal::Stop);
        let paused = Instant::now();
        let mut unknown = 0;
        while paused.elapsed() < Duration::from_secs(12) {
            let event = json!({ "name": "e", "channel": "all", "data": format!("paused-{unknown}") });
            let answer = cluster.nodes[unknown % 2].caller("1").post_events(event).await;
            expect_unavailable(&answer);
            unknown += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for node in &cluster.nodes {
            node.ready_becomes(503, Duration::ZERO).await;
        }
        cluster.redis().signal(Signal::Continue);
        let resumed = Instant::now();
        for node in &cluster.nodes {
            node.ready_becomes(200, STEP_TIMEOUT).await;
        }
        println!("ready {:?} after Redis continued", resumed.elapsed());
        let after = publish_until_accepted(&cluster.nodes[1], "after").await;
        for recorder in &recorders {
            recorder.wait_for("all", &after).await;
            assert_once_each(&recorder.run("all"), &recorder.name);
            assert_eq!(recorder.run("all"), recorders[0].run("all"), "{}", recorder.name);
        }
        counts_become(&cluster, &counts, STEP_TIMEOUT).await;
        println!("counts right {:?} after Redis continued", resumed.elapsed());
        // Longer than any lease: a sweep by mistake would have happened by now.
        tokio::time::sleep(Duration::from_secs(10)).await;
        counts_become(&cluster, &counts, Duration::ZERO).await;
        for name in ["fanfare_nodes_swept_total", "fanfare_leases_lost_total"] {
            assert_eq!(cluster.metric(name).await, [0.0, 0.0], "{name}");
        }
    })
    .await;
}

/// An interruption shorter than the grace period leaves `/ready` at 200, and no probe fails
/// on a link that has recovered.
#[tokio::test]
async fn cluster_redis_interruption_shorter_than_grace_keeps_nodes_ready() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let (node, proxy) = (cluster.first(), cluster.proxy());
        let recorder = Recorder::connect_many(node, 1, &["all"]).await.remove(0);
        for (round, links) in [Links::All, Links::Subscriber, Links::Subscriber].into_iter().enumerate() {
            // Nearly the interval of probes: a probe published during that time is lost because
            // the link is cut, which is no failed probe.
            proxy.cut(links);
            tokio::time::sleep(Duration::from_millis(1_800)).await;
            proxy.heal();
            let healed = Instant::now();
            while healed.elapsed() < Duration::from_millis(6_300) {
                let answer = node.get("/ready").await;
                let after = healed.elapsed();
                assert_eq!(answer.status, 200, "round {round}, {after:?} after: {}", answer.text());
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let after = publish_until_accepted(node, &format!("round-{round}")).await;
            recorder.wait_for("all", &after).await;
        }
        assert_eq!(
            node.metrics().await.sum("fanfare_probe_failures_total"),
            0.0,
            "a probe failed on a link that was only cut"
        );
    })
    .await;
}

/// A node that starts first waits for Redis.
#[tokio::test]
async fn cluster_node_started_before_redis_waits_for_it() {
    within(LIMIT, async {
        let mut redis = Redis::start().await;
        redis.kill();
        let node = Server::builder().redis(&redis);
        let (node, ()) = tokio::join!(node.start(), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            redis.restart().await;
        });
        let recorder = Recorder::connect_many(&node, 1, &["all"]).await.remove(0);
        let data = publish_until_accepted(&node, "hello").await;
        recorder.wait_for("all", &data).await;
    })
    .await;
}

/// Redis restarts several times under load; every accepted event is delivered once and in
/// order.
#[tokio::test]
async fn cluster_redis_restarts_under_load_lose_no_accepted_event() {
    within(LIMIT, async {
        let mut cluster = Cluster::start(Backend::Redis).await;
        let recorders = self::recorders(&cluster).await;
        let mut accepted = Vec::new();
        for round in 0..4 {
            let until = Instant::now() + Duration::from_millis(1_500);
            let mut number = 0;
            // The events that a node misses while it reconnects must fit into the history.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while Instant::now() < until {
                pace.tick().await;
                number += 1;
                let data = format!("{round}-{number}");
                let event = json!({ "name": "e", "channel": "all", "data": data });
                let answer = cluster.nodes[number % 2].caller("1").post_events(event).await;
                match answer.status {
                    200 => accepted.push(data),
                    _ => expect_unavailable(&answer),
                }
            }
            // All accepted events have reached the nodes before Redis restarts.
            for recorder in &recorders {
                recorder.wait_for("all", accepted.last().unwrap()).await;
            }
            cluster.redis_mut().restart().await;
        }
        let last = publish_until_accepted(&cluster.nodes[0], "last").await;
        for recorder in &recorders {
            recorder.wait_for("all", &last).await;
            let run = recorder.run("all");
            assert_once_each(&run, &recorder.name);
            assert_eq!(run, recorders[0].run("all"), "{}", recorder.name);
            let lost: Vec<&String> = accepted.iter().filter(|data| !run.contains(data)).collect();
            assert!(lost.is_empty(), "accepted, but not delivered: {lost:?}");
        }
        counts_become(&cluster, &[("all", 7), ("zero", 3), ("one", 4)], STEP_TIMEOUT).await;
    })
    .await;
}

/// A restarted Redis numbers its connections from 1 again: the new connection of a node may
/// have the id of its old one.
#[tokio::test]
async fn cluster_redis_restarted_with_equal_connection_id_delivers_within_3_seconds() {
    within(LIMIT, async {
        let seed = Seed::new();
        let mut rng = seed.rng();
        let mut cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let recorder = Recorder::connect_many(cluster.first(), 1, &["all"]).await.remove(0);
        let mut same = 0;
        for round in 0..60 {
            let before = subscriber_id(cluster.redis()).await;
            cluster.proxy().cut(Links::All);
            cluster.redis_mut().restart().await;
            // The node has six connections. One of the next six ids is that of the
            // connection that subscribes to topics.
            let last_free = before - 1 - rng.random_range(0..6);
            while cluster.redis().command(&["CLIENT", "ID"]).await.integer() < last_free {}
            cluster.proxy().heal();
            let data = publish_until_accepted(cluster.first(), &format!("round-{round}")).await;
            recorder.wait_for_within("all", &data, Duration::from_secs(3)).await;
            same += usize::from(subscriber_id(cluster.redis()).await == before);
            if same == 2 {
                break;
            }
        }
        println!("{same} times the id was the same");
    })
    .await;
}

/// The Redis client id of the node's connection that has subscribed to the probe and a
/// topic. The other pub/sub connection has one subscription, for changed apps. A node that
/// loses the connection opens another at once.
async fn subscriber_id(redis: &Redis) -> i64 {
    eventually("one connection that subscribes", Duration::from_secs(3), async || {
        let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text();
        let line = list.lines().find(|line| !line.contains(" sub=1 "));
        let number = line.and_then(|line| line.strip_prefix("id=")?.split(' ').next()?.parse().ok());
        number.ok_or(list)
    })
    .await
}
