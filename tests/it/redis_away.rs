//! Redis goes away and comes back (design.md 8): nothing is said to be published
//! that is not, sockets stay, and everything is right again without a restart.

use std::time::Duration;

use rand::RngExt;
use serde_json::json;
use tokio::time::Instant;

use crate::support::server::Metrics;
use crate::support::{Answer, Links, PATIENCE, Proxy, Redis, Seed, Server, Signal, eventually};
use crate::witness::{Witness, assert_once_each, within};

const LIMIT: Duration = Duration::from_secs(120);

struct Stage {
    nodes: Vec<Server>,
    redis: Redis,
}

impl Stage {
    async fn set() -> Stage {
        let redis = Redis::start().await;
        let node = |n: usize| Server::builder().name(&format!("node {n}")).redis(&redis).start();
        let (zero, one) = tokio::join!(node(0), node(1));
        Stage { nodes: vec![zero, one], redis }
    }

    async fn witnesses(&self) -> Vec<Witness> {
        let mut witnesses = Witness::several(&self.nodes[0], 3, &["all", "zero"]).await;
        witnesses.extend(Witness::several(&self.nodes[1], 4, &["all", "one"]).await);
        witnesses
    }

    async fn counts_become(&self, counts: &[(&str, usize)], patience: Duration) {
        for node in &self.nodes {
            let caller = node.caller("1");
            for (channel, count) in counts {
                let what = format!("{count} subscriptions of {channel}");
                eventually(&what, patience, async || {
                    let answer =
                        caller.get(&format!("/channels/{channel}"), &[("info", "subscription_count")]).await;
                    let is_right = answer.status == 200 && answer.json()["subscription_count"] == *count;
                    if is_right { Ok(()) } else { Err(answer.text()) }
                })
                .await;
            }
        }
    }

    async fn metrics(&self) -> Vec<Metrics> {
        vec![self.nodes[0].metrics().await, self.nodes[1].metrics().await]
    }
}

async fn ready_becomes(node: &Server, status: u16, patience: Duration) -> Answer {
    eventually(&format!("/ready {status}"), patience, async || {
        let answer = node.get("/ready").await;
        if answer.status == status { Ok(answer) } else { Err(answer.text()) }
    })
    .await
}

/// Publishes until it is accepted; returns the data of what was, and of what may
/// have been.
async fn publish_until_accepted(node: &Server, name: &str) -> String {
    let caller = node.caller("1");
    let mut number = 0;
    let number = tokio::sync::Mutex::new(&mut number);
    eventually("a publish that is accepted", PATIENCE, async || {
        let mut number = number.lock().await;
        **number += 1;
        let data = format!("{name}-{number}");
        let answer = caller.post_events(json!({ "name": "e", "channel": "all", "data": data })).await;
        if answer.status == 200 {
            return Ok(data);
        }
        expect_away(&answer);
        Err(answer.text())
    })
    .await
}

#[track_caller]
fn expect_away(answer: &Answer) {
    let refusal = answer.expect_refused(503).0;
    assert!(answer.header("retry-after").is_some(), "{refusal}");
    let code = refusal["code"].as_str();
    assert!(matches!(code, Some("service_unavailable" | "outcome_unknown")), "{refusal}");
}

#[tokio::test]
async fn cluster_redis_is_killed_and_comes_back_empty() {
    within(LIMIT, async {
        let mut stage = Stage::set().await;
        let mut witnesses = stage.witnesses().await;
        stage.nodes[0].caller("1").publish("all", "e", "before").await;
        for witness in &witnesses {
            witness.heard("all", "before").await;
        }
        stage.redis.kill();
        let killed = Instant::now();
        let mut refused = Vec::new();
        while killed.elapsed() < Duration::from_secs(7) {
            for node in &stage.nodes {
                let data = format!("away-{}", refused.len());
                let asked = Instant::now();
                let event = json!({ "name": "e", "channel": "all", "data": data });
                expect_away(&node.caller("1").post_events(event).await);
                refused.push(asked.elapsed());
                expect_away(&node.caller("1").get("/channels/all", &[]).await);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        println!("{} refused, slowest {:?}", refused.len(), refused.iter().max());
        let slow = refused.iter().filter(|took| **took > Duration::from_millis(500)).count();
        assert!(slow <= 4, "{slow} of {} did not fail fast", refused.len());
        for node in &stage.nodes {
            let answer = ready_becomes(node, 503, PATIENCE).await;
            assert!(answer.json()["reason"].is_string(), "{}", answer.text());
            assert_eq!(node.get("/live").await.status, 200);
        }
        // Who subscribes now waits; who leaves now has left.
        let mut late = Witness::connect(&stage.nodes[0]).await;
        late.ask_for("all").await;
        late.ask_for("late").await;
        late.settle().await;
        witnesses.pop().unwrap().vanish();
        witnesses[0].unsubscribe("zero").await;
        assert_eq!(late.confirmations("all"), 0, "nobody has counted it");

        stage.redis.restart().await;
        let back = Instant::now();
        for node in &stage.nodes {
            ready_becomes(node, 200, PATIENCE).await;
        }
        println!("ready {:?} after Redis was back", back.elapsed());
        late.until("its confirmations", PATIENCE, |r| {
            r.confirmations("all") == 1 && r.confirmations("late") == 1
        })
        .await;
        let after = publish_until_accepted(&stage.nodes[0], "after").await;
        for witness in witnesses.iter().chain([&late]) {
            witness.heard("all", &after).await;
        }
        for witness in &witnesses {
            let run = witness.run("all");
            assert_once_each(&run, &witness.name);
            assert!(witness.is_open());
            assert_eq!(run[0], "before");
            // What was refused with certainty does not come; the very first ones
            // may have been on their way.
            assert!(run[1..].iter().all(|data| data.starts_with("after")), "{run:?}");
        }
        let counts = [("all", 7), ("zero", 2), ("one", 3), ("late", 1)];
        stage.counts_become(&counts, PATIENCE).await;
        println!("counts right {:?} after Redis was back", back.elapsed());
        tokio::time::sleep(Duration::from_secs(6)).await;
        stage.counts_become(&counts, Duration::ZERO).await;
    })
    .await;
}

/// A pause of Redis stops everybody's lease at once: it proves nobody dead.
#[tokio::test]
async fn cluster_redis_is_paused_for_12_seconds() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let counts = [("all", 7), ("zero", 3), ("one", 4)];
        stage.counts_become(&counts, PATIENCE).await;
        stage.redis.signal(Signal::Stop);
        let paused = Instant::now();
        let mut unknown = 0;
        while paused.elapsed() < Duration::from_secs(12) {
            let event = json!({ "name": "e", "channel": "all", "data": format!("paused-{unknown}") });
            let answer = stage.nodes[unknown % 2].caller("1").post_events(event).await;
            expect_away(&answer);
            unknown += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        for node in &stage.nodes {
            ready_becomes(node, 503, Duration::ZERO).await;
        }
        stage.redis.signal(Signal::Continue);
        let resumed = Instant::now();
        for node in &stage.nodes {
            ready_becomes(node, 200, PATIENCE).await;
        }
        println!("ready {:?} after it went on", resumed.elapsed());
        let after = publish_until_accepted(&stage.nodes[1], "after").await;
        for witness in &witnesses {
            witness.heard("all", &after).await;
            assert_once_each(&witness.run("all"), &witness.name);
            assert_eq!(witness.run("all"), witnesses[0].run("all"), "{}", witness.name);
        }
        stage.counts_become(&counts, PATIENCE).await;
        println!("counts right {:?} after it went on", resumed.elapsed());
        // Longer than any lease: whoever was to be swept by mistake is by now.
        tokio::time::sleep(Duration::from_secs(10)).await;
        stage.counts_become(&counts, Duration::ZERO).await;
        for metrics in stage.metrics().await {
            assert_eq!(metrics.sum("fanfare_nodes_swept_total"), 0.0);
            assert_eq!(metrics.sum("fanfare_leases_lost_total"), 0.0);
        }
    })
    .await;
}

/// Shorter than the grace: the load balancer does not hear of it, and a link
/// that is good again is left alone.
#[tokio::test]
async fn cluster_blip_of_redis_leaves_nodes_ready() {
    within(LIMIT, async {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node = Server::builder().redis_url(&proxy.url()).start().await;
        let witness = Witness::several(&node, 1, &["all"]).await.remove(0);
        for (round, links) in [Links::All, Links::Subscriber, Links::Subscriber].into_iter().enumerate() {
            // Nearly the probe's interval: one that was said and not heard, because
            // the link was cut and not because it was deaf.
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
            let after = publish_until_accepted(&node, &format!("round-{round}")).await;
            witness.heard("all", &after).await;
        }
        assert_eq!(
            node.metrics().await.sum("fanfare_probe_failures_total"),
            0.0,
            "the link was cut, not deaf"
        );
    })
    .await;
}

/// A node that starts first waits for Redis.
#[tokio::test]
async fn cluster_node_starts_before_redis() {
    within(LIMIT, async {
        let mut redis = Redis::start().await;
        redis.kill();
        let node = Server::builder().redis(&redis);
        let (node, ()) = tokio::join!(node.start(), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            redis.restart().await;
        });
        let witness = Witness::several(&node, 1, &["all"]).await.remove(0);
        let data = publish_until_accepted(&node, "hello").await;
        witness.heard("all", &data).await;
    })
    .await;
}

/// Redis restarts again and again under load; in the end all is right.
#[tokio::test]
async fn cluster_redis_restarts_under_load() {
    within(LIMIT, async {
        let mut stage = Stage::set().await;
        let witnesses = stage.witnesses().await;
        let mut accepted = Vec::new();
        for round in 0..4 {
            let until = Instant::now() + Duration::from_millis(1_500);
            let mut number = 0;
            // What a node can miss while it connects anew must fit into the log.
            let mut pace = tokio::time::interval(Duration::from_millis(5));
            while Instant::now() < until {
                pace.tick().await;
                number += 1;
                let data = format!("{round}-{number}");
                let event = json!({ "name": "e", "channel": "all", "data": data });
                let answer = stage.nodes[number % 2].caller("1").post_events(event).await;
                match answer.status {
                    200 => accepted.push(data),
                    _ => expect_away(&answer),
                }
            }
            // Quiet: what Redis had said yes to is in the nodes' hands.
            for witness in &witnesses {
                witness.heard("all", accepted.last().unwrap()).await;
            }
            stage.redis.restart().await;
        }
        let last = publish_until_accepted(&stage.nodes[0], "last").await;
        for witness in &witnesses {
            witness.heard("all", &last).await;
            let run = witness.run("all");
            assert_once_each(&run, &witness.name);
            assert_eq!(run, witnesses[0].run("all"), "{}", witness.name);
            let lost: Vec<&String> = accepted.iter().filter(|data| !run.contains(data)).collect();
            assert!(lost.is_empty(), "said to be published, and lost: {lost:?}");
        }
        stage.counts_become(&[("all", 7), ("zero", 3), ("one", 4)], PATIENCE).await;
    })
    .await;
}

/// A Redis that was restarted counts its connections from the start again: the
/// new connection of a node may have the number of its old one.
#[tokio::test]
async fn cluster_restarted_redis_is_heard_at_once() {
    within(LIMIT, async {
        let seed = Seed::new();
        let mut rng = seed.rng();
        let mut redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node = Server::builder().redis_url(&proxy.url()).start().await;
        let witness = Witness::several(&node, 1, &["all"]).await.remove(0);
        let mut same = 0;
        for round in 0..60 {
            let before = subscriber_number(&redis).await;
            proxy.cut(Links::All);
            redis.restart().await;
            // The node has six connections: one of the next six is the one that
            // subscribes to channels.
            let last_free = before - 1 - rng.random_range(0..6);
            while redis.command(&["CLIENT", "ID"]).await.integer() < last_free {}
            proxy.heal();
            let data = publish_until_accepted(&node, &format!("round-{round}")).await;
            witness.heard_within("all", &data, Duration::from_secs(3)).await;
            same += usize::from(subscriber_number(&redis).await == before);
            if same == 2 {
                break;
            }
        }
        println!("{same} times the number was the same");
    })
    .await;
}

/// What Redis calls the one connection that has subscribed to the probe and a
/// channel: another hears of changed apps, and of nothing else. A node that has
/// lost it makes another at once.
async fn subscriber_number(redis: &Redis) -> i64 {
    eventually("one connection that subscribes", Duration::from_secs(3), async || {
        let list = redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text();
        let line = list.lines().find(|line| !line.contains(" sub=1 "));
        let number = line.and_then(|line| line.strip_prefix("id=")?.split(' ').next()?.parse().ok());
        number.ok_or(list)
    })
    .await
}
