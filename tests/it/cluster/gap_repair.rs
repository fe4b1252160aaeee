//! Gap repair (P4): the subscribers of a node that missed entries receive them once and in
//! order. The link to Redis is cut, stalled or delivers nothing, or single entries are lost.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::json;

use crate::support::recorder::{Recorder, assert_once_each};
use crate::support::server::Metrics;
use crate::support::{Backend, Caller, Cluster, Direction, Links, STEP_TIMEOUT, eventually, within};

/// A node compares the position of every subscribed channel with its head within this time.
const HEAD_CHECK: Duration = Duration::from_millis(2_500);
const LIMIT: Duration = Duration::from_secs(90);

/// Two nodes on one Redis. Node 1 reaches it through a proxy.
async fn start() -> Cluster {
    Cluster::builder(Backend::Redis).proxied(1).quick_detection().start().await
}

async fn metrics(cluster: &Cluster) -> Metrics {
    cluster.nodes[1].metrics().await
}

/// At least one gap was counted, and every gap was repaired.
async fn assert_repaired(cluster: &Cluster) {
    let metrics = metrics(cluster).await;
    let [gaps, repaired, unrepaired] = ["gaps", "gaps_repaired", "gaps_unrepaired"]
        .map(|name| metrics.sum(&format!("fanfare_{name}_total")));
    println!("gaps {gaps}, repaired {repaired}");
    assert!(gaps >= 1.0, "no gap was counted");
    assert_eq!((repaired, unrepaired), (gaps, 0.0), "repaired and unrepaired gaps");
    assert_eq!(metrics.sum("fanfare_epoch_changes_total"), 0.0, "the epoch changed");
}

struct Subscribers(Vec<Recorder>);

impl Subscribers {
    /// The first ones are the reference: the link of node 0 is never cut.
    async fn start(cluster: &Cluster, channels: &[&str]) -> Subscribers {
        let (mut all, proxied) = tokio::join!(
            Recorder::connect_many(&cluster.nodes[0], 3, channels),
            Recorder::connect_many(&cluster.nodes[1], 10, channels)
        );
        all.extend(proxied);
        Subscribers(all)
    }

    /// Waits for `last`; expects the same sequence at all subscribers, each event once.
    async fn check(&self, channel: &str, last: &str, timeout: Duration) -> Vec<String> {
        for recorder in &self.0 {
            recorder.wait_for_within(channel, last, timeout).await;
        }
        let sequence = self.0[0].run(channel);
        assert_once_each(&sequence, channel);
        for recorder in &self.0 {
            assert_eq!(recorder.run(channel), sequence, "{} of {channel}", recorder.name);
        }
        sequence
    }
}

/// A publisher of 20 batches per second, each with events on `busy` and on the given other
/// channels.
struct Publisher {
    caller: Caller,
    pace: tokio::time::Interval,
    number: usize,
    newest: HashMap<String, String>,
}

impl Publisher {
    fn new(caller: Caller) -> Publisher {
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        Publisher { caller, pace, number: 0, newest: HashMap::new() }
    }

    /// Publishes for this time; each batch has events on `others` too.
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
async fn cluster_link_cut_for_three_seconds_is_repaired() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["busy", "tail"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        publisher.publish_for(Duration::from_secs(1), &["tail"]).await;
        cluster.proxy().cut(Links::Subscriber);
        // Node b misses the newest event of `tail`, and no later entry reveals the gap.
        publisher.publish_for(Duration::from_secs(2), &["tail"]).await;
        publisher.publish_for(Duration::from_secs(1), &[]).await;
        cluster.proxy().heal();
        publisher.publish_for(Duration::from_secs(2), &[]).await;
        for channel in ["tail", "busy"] {
            let sequence = subscribers.check(channel, &publisher.newest[channel], STEP_TIMEOUT).await;
            assert!(sequence.len() >= 100, "{}", sequence.len());
        }
        assert_repaired(&cluster).await;
        assert!(metrics(&cluster).await.sum("fanfare_redis_reconnects_total") >= 1.0);
        cluster.nodes[1].ready_becomes(200, STEP_TIMEOUT).await;
    })
    .await;
}

/// Nothing is published on any channel after the link is restored.
#[tokio::test]
async fn cluster_link_cut_without_later_events_is_repaired() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["busy", "tail"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        publisher.publish(&["tail"]).await;
        cluster.proxy().cut(Links::Subscriber);
        publisher.publish_for(Duration::from_secs(3), &["tail"]).await;
        cluster.proxy().heal();
        for channel in ["tail", "busy"] {
            subscribers.check(channel, &publisher.newest[channel], STEP_TIMEOUT).await;
        }
        assert_repaired(&cluster).await;
    })
    .await;
}

#[tokio::test]
async fn cluster_link_stalled_for_three_seconds_loses_nothing() {
    within(LIMIT, async {
        // Three seconds are within the probe timeout of production.
        let cluster = Cluster::builder(Backend::Redis).proxied(1).start().await;
        let subscribers = Subscribers::start(&cluster, &["busy", "tail"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        publisher.publish_for(Duration::from_secs(1), &["tail"]).await;
        cluster.proxy().stall(Links::Subscriber, Direction::Both);
        publisher.publish_for(Duration::from_secs(2), &["tail"]).await;
        publisher.publish_for(Duration::from_secs(1), &[]).await;
        cluster.proxy().heal();
        publisher.publish_for(Duration::from_secs(1), &[]).await;
        for channel in ["tail", "busy"] {
            subscribers.check(channel, &publisher.newest[channel], STEP_TIMEOUT).await;
        }
        let metrics = metrics(&cluster).await;
        assert_eq!(metrics.sum("fanfare_gaps_unrepaired_total"), 0.0);
        assert_eq!(metrics.sum("fanfare_probe_failures_total"), 0.0, "a probe failed within its timeout");
        cluster.nodes[1].ready_becomes(200, STEP_TIMEOUT).await;
    })
    .await;
}

/// The connection to Redis stays open but delivers no messages: only the node's own probe
/// detects that.
#[tokio::test]
async fn cluster_link_without_messages_fails_the_probe_and_is_repaired() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["busy", "tail"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        publisher.publish(&["tail"]).await;
        cluster.nodes[1].ready_becomes(200, STEP_TIMEOUT).await;
        cluster.proxy().stall(Links::Subscriber, Direction::Replies);
        let stalled = tokio::time::Instant::now();
        publisher.publish_for(Duration::from_secs(1), &["tail"]).await;
        cluster.nodes[1].ready_becomes(503, Duration::from_secs(15)).await;
        println!("unready after {:?}", stalled.elapsed());
        eventually("a failed probe", Duration::from_secs(15), async || {
            let failures = metrics(&cluster).await.sum("fanfare_probe_failures_total");
            if failures >= 1.0 { Ok(()) } else { Err(failures.to_string()) }
        })
        .await;
        println!("probe failed after {:?}", stalled.elapsed());
        // The node reconnects; the new connection delivers no messages either.
        eventually("a new connection", STEP_TIMEOUT, async || {
            let reconnects = metrics(&cluster).await.sum("fanfare_redis_reconnects_total");
            if reconnects >= 1.0 { Ok(()) } else { Err(reconnects.to_string()) }
        })
        .await;
        publisher.publish_for(Duration::from_secs(1), &[]).await;
        cluster.proxy().heal();
        let healed = tokio::time::Instant::now();
        // The history has the events published during the stall.
        for channel in ["tail", "busy"] {
            subscribers.check(channel, &publisher.newest[channel], HEAD_CHECK).await;
        }
        println!("caught up {:?} after the link was restored", healed.elapsed());
        cluster.nodes[1].ready_becomes(200, Duration::from_secs(10)).await;
        println!("ready {:?} after the link was restored", healed.elapsed());
        assert_repaired(&cluster).await;
        // Entries arrive on the topic again, without gap repair.
        let gaps = metrics(&cluster).await.sum("fanfare_gaps_total");
        publisher.publish(&["tail"]).await;
        subscribers.check("tail", &publisher.newest["tail"], STEP_TIMEOUT).await;
        assert_eq!(metrics(&cluster).await.sum("fanfare_gaps_total"), gaps);
    })
    .await;
}

/// While no messages arrive, a node delivers entries from the history.
#[tokio::test]
async fn cluster_link_without_messages_delivers_from_the_history() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["busy"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        publisher.publish(&[]).await;
        cluster.proxy().stall(Links::Subscriber, Direction::Both);
        publisher.publish(&[]).await;
        subscribers.check("busy", &publisher.newest["busy"], HEAD_CHECK + Duration::from_secs(2)).await;
        assert_repaired(&cluster).await;
        cluster.proxy().heal();
        // The delayed messages arrive now; their entries are duplicates.
        publisher.publish(&[]).await;
        subscribers.check("busy", &publisher.newest["busy"], STEP_TIMEOUT).await;
    })
    .await;
}

#[tokio::test]
async fn cluster_entry_lost_is_repaired_by_the_next_entry() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["news"]).await;
        let caller = cluster.caller("1");
        for round in 0..20 {
            let swallowed = cluster.proxy().swallow(&format!("lost-{round}"));
            for kind in ["before", "lost", "after"] {
                caller.publish("news", "e", &format!("{kind}-{round}")).await;
            }
            swallowed.happened().await;
            // Head checks are 8 s apart, so only the next entry can reveal the gap in time.
            subscribers.check("news", &format!("after-{round}"), Duration::from_secs(4)).await;
        }
        assert_repaired(&cluster).await;
        assert_eq!(metrics(&cluster).await.sum("fanfare_gaps_total"), 20.0);
    })
    .await;
}

#[tokio::test]
async fn cluster_last_entry_lost_is_repaired_by_the_head_check() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["news"]).await;
        let caller = cluster.caller("1");
        caller.publish("news", "e", "first").await;
        let swallowed = cluster.proxy().swallow("last");
        caller.publish("news", "e", "last").await;
        swallowed.happened().await;
        subscribers.check("news", "last", HEAD_CHECK + Duration::from_secs(1)).await;
        assert_repaired(&cluster).await;
    })
    .await;
}

/// The first entry of a channel has no predecessor by which a gap would show.
#[tokio::test]
async fn cluster_first_entry_lost_is_repaired() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["news", "tail"]).await;
        let caller = cluster.caller("1");
        let swallowed = cluster.proxy().swallow("first");
        caller.publish("news", "e", "first").await;
        swallowed.happened().await;
        caller.publish("news", "e", "second").await;
        assert_eq!(subscribers.check("news", "second", STEP_TIMEOUT).await, ["first", "second"]);
        let swallowed = cluster.proxy().swallow("only");
        caller.publish("tail", "e", "only").await;
        swallowed.happened().await;
        subscribers.check("tail", "only", HEAD_CHECK + Duration::from_secs(1)).await;
    })
    .await;
}

/// The link is cut repeatedly while events are published.
#[tokio::test]
async fn cluster_link_cut_repeatedly_loses_nothing() {
    within(LIMIT, async {
        let cluster = start().await;
        let subscribers = Subscribers::start(&cluster, &["busy", "tail"]).await;
        let mut publisher = Publisher::new(cluster.caller("1"));
        for _ in 0..15 {
            publisher.publish_for(Duration::from_millis(300), &["tail"]).await;
            cluster.proxy().cut_once(Links::Subscriber);
        }
        for channel in ["tail", "busy"] {
            subscribers.check(channel, &publisher.newest[channel], STEP_TIMEOUT).await;
        }
        assert_repaired(&cluster).await;
    })
    .await;
}
