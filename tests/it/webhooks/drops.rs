//! Webhook events that are dropped (protocol.md 5): the metric of their app counts them.

use std::time::Duration;

use fanfare::limits;
use serde_json::json;

use crate::support::{
    AppSpec, Backend, Cluster, Receiver, Reply, STEP_TIMEOUT, Server, Signal, bounded, eventually,
    on_both_backends,
};

on_both_backends!(webhook_events_above_the_bound_of_an_outbox_are_counted_for_their_app);

const DROPPED: &str = "fanfare_app_webhook_events_dropped_total";

fn app(id: &str, receiver: &Receiver) -> AppSpec {
    let webhook = format!("{{ url = \"{}\", event_types = [\"client_event\"] }}", receiver.url());
    AppSpec::new(id)
        .set("enable_client_messages", true)
        .set("max_client_events_per_second", 1_000_000)
        .set("webhooks", format!("[{webhook}]"))
}

/// Sends client events on one channel, whose webhook events are in one outbox.
async fn send(server: &Server, key: &str, events: usize) {
    let mut sender = server.browser(key).await;
    sender.subscribe("private-a").await;
    for _ in 0..events {
        sender.trigger("private-a", "client-x", json!("1")).await;
    }
    sender.settle().await;
}

async fn dropped_becomes(server: &Server, app: &str, expected: f64) {
    eventually("the dropped webhook events", STEP_TIMEOUT, async || {
        let metrics = server.metrics().await;
        match metrics.of_app(DROPPED, app) {
            value if value == expected => Ok(()),
            value => Err(format!("{value} in place of {expected}")),
        }
    })
    .await;
}

async fn webhook_events_above_the_bound_of_an_outbox_are_counted_for_their_app(backend: Backend) {
    const ABOVE: usize = 25;
    let (hanging, receiver) = (Receiver::start().await, Receiver::start().await);
    hanging.answer(|_| Reply::Hang);
    let cluster = Cluster::builder(backend).nodes(1).app(app("1", &hanging));
    let cluster = cluster.app(app("2", &receiver)).start().await;
    let server = cluster.first();
    // No event leaves the outbox before its call has been answered.
    send(server, "key1", limits::WEBHOOK_OUTBOX_MAX + ABOVE).await;
    send(server, "key2", 1).await;
    dropped_becomes(server, "1", ABOVE as f64).await;
    receiver.until_accepted(1).await;
    let metrics = server.metrics().await;
    assert_eq!(metrics.of_app(DROPPED, "2"), 0.0);
    assert_eq!(metrics.sum("fanfare_webhook_events_dropped_total"), ABOVE as f64);
}

/// Makes the only event in the outbox of app 1 older.
async fn age_event(cluster: &Cluster, age: Duration) {
    let script = "local key = redis.call('KEYS', 'fanfare:*:outbox:1')[1]
        local entry = redis.call('XRANGE', key, '-', '+')[1]
        redis.call('DEL', key)
        local ms = tonumber(string.match(entry[1], '^%d+')) - tonumber(ARGV[1])
        redis.call('XADD', key, string.format('%.0f-0', ms), unpack(entry[2]))";
    cluster.redis().command(&["EVAL", script, "0", &age.as_millis().to_string()]).await;
}

#[tokio::test]
async fn cluster_webhook_event_that_is_too_old_is_counted_for_its_app() {
    bounded(async {
        let receiver = Receiver::start().await;
        receiver.answer(|_| Reply::Status(500));
        let cluster = Cluster::builder(Backend::Redis).nodes(1).app(app("1", &receiver));
        let mut cluster = cluster.config("drain_delay = 0\ndrain_window = 0").start().await;
        send(cluster.first(), "key1", 1).await;
        receiver.until("a failed call", |calls| !calls.is_empty()).await;
        dropped_becomes(cluster.first(), "1", 0.0).await;
        cluster.first().signal(Signal::Terminate);
        assert!(cluster.nodes[0].wait_exit(3 * STEP_TIMEOUT).await.success());
        age_event(&cluster, limits::WEBHOOK_AGE_MAX).await;
        cluster.nodes = vec![cluster.start_node(0).await];
        dropped_becomes(cluster.first(), "1", 1.0).await;
        let metrics = cluster.first().metrics().await;
        assert_eq!(metrics.sum("fanfare_webhook_events_abandoned_total"), 1.0);
    })
    .await;
}
