//! What one node missed reaches its sockets all the same, once and in order
//! (P4): links cut, stalled, deaf, and single entries that never came.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use crate::support::server::Metrics;
use crate::support::{Caller, Links, PATIENCE, Proxy, Redis, Server, Way, eventually};
use crate::witness::{Witness, assert_once_each, within};

/// Every listened channel is compared with its head within this time.
const POSITION_CHECK: Duration = Duration::from_secs(10);
const LIMIT: Duration = Duration::from_secs(90);

/// Two nodes on one Redis. Node b reaches it through a proxy.
struct Stage {
    node_a: Server,
    node_b: Server,
    proxy: Proxy,
    _redis: Redis,
}

impl Stage {
    async fn set() -> Stage {
        let redis = Redis::start().await;
        let proxy = Proxy::start(redis.port()).await;
        let node_a = Server::builder().name("node a").redis(&redis).start().await;
        let node_b = Server::builder().name("node b").redis_url(&proxy.url()).start().await;
        Stage { node_a, node_b, proxy, _redis: redis }
    }

    async fn audience(&self, channels: &[&str]) -> Audience {
        let (of_a, of_b) = tokio::join!(
            Witness::several(&self.node_a, 3, channels),
            Witness::several(&self.node_b, 10, channels)
        );
        Audience { of_a, of_b }
    }

    async fn metrics(&self) -> Metrics {
        self.node_b.metrics().await
    }

    async fn ready_becomes(&self, status: u16, within: Duration) {
        eventually(&format!("/ready {status}"), within, async || {
            let answer = self.node_b.get("/ready").await;
            if answer.status == status { Ok(()) } else { Err(answer.text()) }
        })
        .await;
    }

    /// What was repaired is counted, and nothing was given up.
    async fn assert_repaired(&self) {
        let metrics = self.metrics().await;
        let [gaps, repaired, unrepaired] = ["gaps", "gaps_repaired", "gaps_unrepaired"]
            .map(|name| metrics.sum(&format!("fanfare_{name}_total")));
        println!("gaps {gaps}, repaired {repaired}");
        assert!(gaps >= 1.0, "the gap is counted");
        assert_eq!((repaired, unrepaired), (gaps, 0.0), "every gap was repaired");
        assert_eq!(metrics.sum("fanfare_epoch_changes_total"), 0.0, "the history is the same");
    }
}

struct Audience {
    /// The reference: nobody touches their link.
    of_a: Vec<Witness>,
    of_b: Vec<Witness>,
}

impl Audience {
    fn everyone(&self) -> impl Iterator<Item = &Witness> {
        self.of_a.iter().chain(&self.of_b)
    }

    /// All have heard the same, once each, up to `last`.
    async fn judge(&self, channel: &str, last: &str, patience: Duration) -> Vec<String> {
        for witness in self.everyone() {
            witness.heard_within(channel, last, patience).await;
        }
        let sequence = self.of_a[0].run(channel);
        assert_once_each(&sequence, channel);
        for witness in self.everyone() {
            assert_eq!(witness.run(channel), sequence, "{} of {channel}", witness.name);
        }
        sequence
    }
}

/// A backend that publishes 20 batches a second, each with events on `busy`,
/// and on other channels as it is told.
struct Ticker {
    caller: Caller,
    pace: tokio::time::Interval,
    number: usize,
    newest: HashMap<String, String>,
}

impl Ticker {
    fn new(caller: Caller) -> Ticker {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Ticker { caller, pace, number: 0, newest: HashMap::new() }
    }

    /// Publishes for so long; on `others` with the first batch only, or with all.
    async fn publish_for(&mut self, time: Duration, others: &[&str]) {
        let batches = time.as_millis() / self.pace.period().as_millis();
        for _ in 0..batches {
            self.pace.tick().await;
            self.publish(others).await;
        }
    }

    async fn publish(&mut self, others: &[&str]) {
        self.number += 1;
        let mut batch = Vec::new();
        for at in 0..2 {
            for channel in ["busy"].iter().chain(others) {
                let data = format!("{}-{at}", self.number);
                batch.push(json!({ "name": "e", "channel": channel, "data": data }));
                self.newest.insert((*channel).into(), data);
            }
        }
        self.caller.post_batch(batch.into()).await.expect_ok();
    }
}

#[tokio::test]
async fn cluster_link_cut_for_three_seconds() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy", "tail"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        ticker.publish_for(Duration::from_secs(1), &["tail"]).await;
        stage.proxy.cut(Links::Subscriber);
        // The newest event of `tail` is one that node b cannot hear, and nothing
        // newer will tell it.
        ticker.publish_for(Duration::from_secs(2), &["tail"]).await;
        ticker.publish_for(Duration::from_secs(1), &[]).await;
        stage.proxy.heal();
        ticker.publish_for(Duration::from_secs(2), &[]).await;
        for channel in ["tail", "busy"] {
            let sequence = audience.judge(channel, &ticker.newest[channel], PATIENCE).await;
            assert!(sequence.len() >= 100, "{}", sequence.len());
        }
        stage.assert_repaired().await;
        assert!(stage.metrics().await.sum("fanfare_redis_reconnects_total") >= 1.0);
        stage.ready_becomes(200, PATIENCE).await;
    })
    .await;
}

/// Nothing is published after the link is back, on any channel.
#[tokio::test]
async fn cluster_link_cut_and_then_silence() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy", "tail"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        ticker.publish(&["tail"]).await;
        stage.proxy.cut(Links::Subscriber);
        ticker.publish_for(Duration::from_secs(3), &["tail"]).await;
        stage.proxy.heal();
        for channel in ["tail", "busy"] {
            audience.judge(channel, &ticker.newest[channel], PATIENCE).await;
        }
        stage.assert_repaired().await;
    })
    .await;
}

#[tokio::test]
async fn cluster_link_stalled_for_three_seconds() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy", "tail"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        ticker.publish_for(Duration::from_secs(1), &["tail"]).await;
        stage.proxy.stall(Links::Subscriber, Way::Both);
        ticker.publish_for(Duration::from_secs(2), &["tail"]).await;
        ticker.publish_for(Duration::from_secs(1), &[]).await;
        stage.proxy.heal();
        ticker.publish_for(Duration::from_secs(1), &[]).await;
        for channel in ["tail", "busy"] {
            audience.judge(channel, &ticker.newest[channel], PATIENCE).await;
        }
        let metrics = stage.metrics().await;
        assert_eq!(metrics.sum("fanfare_gaps_unrepaired_total"), 0.0);
        assert_eq!(metrics.sum("fanfare_probe_failures_total"), 0.0, "the probe is more patient than this");
        stage.ready_becomes(200, PATIENCE).await;
    })
    .await;
}

/// The socket looks fine, and nothing comes through it: only the node's own
/// probe can tell.
#[tokio::test]
async fn cluster_deaf_node_notices_and_recovers() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy", "tail"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        ticker.publish(&["tail"]).await;
        stage.ready_becomes(200, PATIENCE).await;
        stage.proxy.stall(Links::Subscriber, Way::Replies);
        let deaf = tokio::time::Instant::now();
        ticker.publish_for(Duration::from_secs(1), &["tail"]).await;
        stage.ready_becomes(503, Duration::from_secs(15)).await;
        println!("unready after {:?}", deaf.elapsed());
        eventually("a probe that failed", Duration::from_secs(15), async || {
            let failures = stage.metrics().await.sum("fanfare_probe_failures_total");
            if failures >= 1.0 { Ok(()) } else { Err(failures.to_string()) }
        })
        .await;
        println!("probe failed after {:?}", deaf.elapsed());
        // A new connection, as deaf as the one before.
        eventually("a new connection", PATIENCE, async || {
            let reconnects = stage.metrics().await.sum("fanfare_redis_reconnects_total");
            if reconnects >= 1.0 { Ok(()) } else { Err(reconnects.to_string()) }
        })
        .await;
        ticker.publish_for(Duration::from_secs(1), &[]).await;
        stage.proxy.heal();
        let healed = tokio::time::Instant::now();
        // Deaf or not: what was published is in the log.
        for channel in ["tail", "busy"] {
            audience.judge(channel, &ticker.newest[channel], POSITION_CHECK).await;
        }
        println!("caught up {:?} after the link was back", healed.elapsed());
        stage.ready_becomes(200, Duration::from_secs(10)).await;
        println!("ready {:?} after the link was back", healed.elapsed());
        stage.assert_repaired().await;
        // It hears again, and not only through the log.
        let gaps = stage.metrics().await.sum("fanfare_gaps_total");
        ticker.publish(&["tail"]).await;
        audience.judge("tail", &ticker.newest["tail"], PATIENCE).await;
        assert_eq!(stage.metrics().await.sum("fanfare_gaps_total"), gaps);
    })
    .await;
}

/// While a node is deaf, its sockets get what the log has.
#[tokio::test]
async fn cluster_deaf_node_serves_from_the_log() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        ticker.publish(&[]).await;
        stage.proxy.stall(Links::Subscriber, Way::Both);
        ticker.publish(&[]).await;
        audience.judge("busy", &ticker.newest["busy"], POSITION_CHECK + Duration::from_secs(2)).await;
        stage.assert_repaired().await;
        stage.proxy.heal();
        // What was held back comes now, for the second time.
        ticker.publish(&[]).await;
        audience.judge("busy", &ticker.newest["busy"], PATIENCE).await;
    })
    .await;
}

#[tokio::test]
async fn cluster_one_announcement_lost_is_repaired_by_the_next() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["news"]).await;
        let caller = stage.node_a.caller("1");
        for round in 0..20 {
            let swallowed = stage.proxy.swallow(&format!("lost-{round}"));
            for kind in ["before", "lost", "after"] {
                caller.publish("news", "e", &format!("{kind}-{round}")).await;
            }
            swallowed.happened().await;
            // Between two comparisons with the head are 8 s.
            audience.judge("news", &format!("after-{round}"), Duration::from_secs(4)).await;
        }
        stage.assert_repaired().await;
        assert_eq!(stage.metrics().await.sum("fanfare_gaps_total"), 20.0);
    })
    .await;
}

#[tokio::test]
async fn cluster_last_announcement_lost_is_found_in_silence() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["news"]).await;
        let caller = stage.node_a.caller("1");
        caller.publish("news", "e", "first").await;
        let swallowed = stage.proxy.swallow("last");
        caller.publish("news", "e", "last").await;
        swallowed.happened().await;
        audience.judge("news", "last", POSITION_CHECK + Duration::from_secs(1)).await;
        stage.assert_repaired().await;
    })
    .await;
}

/// The very first entry of a channel has nothing before it to miss.
#[tokio::test]
async fn cluster_first_announcement_lost_is_found() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["news", "tail"]).await;
        let caller = stage.node_a.caller("1");
        let swallowed = stage.proxy.swallow("first");
        caller.publish("news", "e", "first").await;
        swallowed.happened().await;
        caller.publish("news", "e", "second").await;
        assert_eq!(audience.judge("news", "second", PATIENCE).await, ["first", "second"]);
        let swallowed = stage.proxy.swallow("only");
        caller.publish("tail", "e", "only").await;
        swallowed.happened().await;
        audience.judge("tail", "only", POSITION_CHECK + Duration::from_secs(1)).await;
    })
    .await;
}

/// The link comes and goes all the time, while events flow.
#[tokio::test]
async fn cluster_flapping_link_loses_nothing() {
    within(LIMIT, async {
        let stage = Stage::set().await;
        let audience = stage.audience(&["busy", "tail"]).await;
        let mut ticker = Ticker::new(stage.node_a.caller("1"));
        for _ in 0..15 {
            ticker.publish_for(Duration::from_millis(300), &["tail"]).await;
            stage.proxy.cut_once(Links::Subscriber);
        }
        for channel in ["tail", "busy"] {
            audience.judge(channel, &ticker.newest[channel], PATIENCE).await;
        }
        stage.assert_repaired().await;
    })
    .await;
}
