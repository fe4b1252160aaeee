//! The clock of Redis: that of a promoted replica, or of a new machine, may be behind.

use std::time::Duration;

use fanfare::limits;
use serde_json::json;

use crate::support::{
    AppSpec, Backend, Cluster, Receiver, Redis, Reply, STEP_TIMEOUT, Server, clock, eventually, within,
};

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

/// The age of a webhook event is not measured with the clock of the node.
#[tokio::test]
async fn cluster_failed_webhook_is_retried_by_a_node_whose_clock_is_ahead() {
    within(Duration::from_secs(60), async {
        let receiver = Receiver::start().await;
        receiver.answer(|_| Reply::Status(500));
        let webhook = format!("[{{ url = \"{}\", event_types = [\"channel_occupied\"] }}]", receiver.url());
        let redis = Redis::start().await;
        let server = Server::builder().redis(&redis).app(AppSpec::new("1").set("webhooks", webhook));
        // More than the time for which calls are repeated.
        let ahead = i64::try_from(limits::WEBHOOK_AGE_MAX.as_secs()).expect("minutes") + 60;
        let server =
            clock::offset(ahead).iter().fold(server, |server, (name, value)| server.env(name, value));
        let server = server.start().await;
        server.browser("key1").await.subscribe("news").await;
        receiver.until("a failed call", |calls| !calls.is_empty()).await;
        receiver.answer(|_| Reply::Status(200));
        receiver.until("the repeated call", |calls| calls.len() >= 2).await;
    })
    .await;
}
