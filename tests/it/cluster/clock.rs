//! The clock of Redis: that of a promoted replica, or of a new machine, may be behind.

use std::time::Duration;

use serde_json::json;

use crate::support::{AppSpec, Backend, Cluster, STEP_TIMEOUT, eventually, within};

/// Waits until each node has renewed its lease at this Redis.
async fn nodes_use_redis(cluster: &Cluster) {
    eventually("renewed leases", STEP_TIMEOUT, async || {
        let leases = cluster.redis().command(&["HVALS", "fanfare:{nodes}:leases"]).await.text();
        let renewed = leases.split(' ').filter(|counter| counter.parse::<u64>().is_ok_and(|it| it > 2));
        match renewed.count() >= cluster.nodes.len() {
            true => Ok(()),
            false => Err(leases),
        }
    })
    .await;
}

/// All events arrive, although the numbers and times of the new history could be lower than those of
/// the lost one. The publishing node has no subscribers: it has received no number itself.
#[tokio::test]
async fn cluster_events_arrive_when_the_clock_of_an_empty_redis_is_behind() {
    within(Duration::from_secs(60), async {
        let mut cluster = Cluster::start(Backend::Redis).await;
        let mut client = cluster.first().browser("key1").await;
        client.subscribe("news").await;
        for offset_secs in [-40, -80] {
            cluster.second().caller("1").publish("news", "before", "x").await;
            client.find_event("before").await;
            cluster.redis_mut().restart_with_clock(offset_secs).await;
            nodes_use_redis(&cluster).await;
            for number in 0..5 {
                cluster.second().caller("1").publish("news", "after", &number.to_string()).await;
            }
            for number in 0..5 {
                assert_eq!(client.find_event("after").await.data, json!(number.to_string()));
            }
        }
    })
    .await;
}

/// After the clock of Redis was set back, a window seems to last until the earlier time.
#[tokio::test]
async fn cluster_window_of_a_rate_limit_lasts_no_longer_than_itself() {
    within(Duration::from_secs(60), async {
        let app = AppSpec::new("1").set("max_backend_events_per_second", 1);
        let cluster = Cluster::builder(Backend::Redis).app(app).start().await;
        cluster.redis().command(&["SET", "fanfare:{nodes}:rate:1:events", "1", "PX", "3600000"]).await;
        cluster.caller("1").publish("news", "e", "x").await;
    })
    .await;
}
