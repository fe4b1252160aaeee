//! Where deltas do not pay, the cluster switches them off, and on again when they
//! would (protocol.md 3.11).

use rand::RngExt;
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use serde_json::json;

use crate::support::delta_client::{DeltaClient, Encoding};
use crate::support::{Backend, Browser, Cluster, Seed, on_both_backends};

on_both_backends![delta_toggle_switches_off_on_all_nodes_and_on_again];

/// The toggle evaluates 64 events while deltas are on, and eight samples, one of
/// every sixteen events, while they are off.
const UNTIL_OFF_MAX: usize = 100;
const UNTIL_ON_MAX: usize = 200;

const SWITCHES: &str = "fanfare_delta_toggles_total";
const WITHOUT_DELTAS: &str = "fanfare_channels_without_deltas";

/// One delta subscriber on each node.
struct DeltaSubscribers {
    cluster: Cluster,
    readers: Vec<(Browser, DeltaClient)>,
    rng: StdRng,
}

impl DeltaSubscribers {
    async fn start(backend: Backend) -> DeltaSubscribers {
        let config = "[delta_compression]\nfull_message_interval = 0";
        let cluster = Cluster::builder(backend).config(config).start().await;
        let mut readers = Vec::new();
        for mut browser in cluster.browsers("key1").await {
            browser.subscribe_with("news", json!({ "delta": "fossil" })).await;
            browser.expect_event("news", "pusher:delta_compression_enabled").await;
            readers.push((browser, DeltaClient::default()));
        }
        DeltaSubscribers { cluster, readers, rng: Seed::new().rng() }
    }

    /// Publishes one event, and returns how it was encoded for each reader.
    async fn publish(&mut self, text: &str) -> Vec<Encoding> {
        self.cluster.caller("1").publish("news", "e", text).await;
        let mut encoding = Vec::new();
        for (browser, client) in &mut self.readers {
            let event = client.read(&browser.next().await);
            assert_eq!(event.published(), text);
            encoding.push(event.encoding);
        }
        encoding
    }

    /// Publishes an event that shares nothing with earlier ones.
    async fn publish_noise(&mut self) -> Vec<Encoding> {
        let text: String = (&mut self.rng).sample_iter(Alphanumeric).take(600).map(char::from).collect();
        self.publish(&json!({ "noise": text }).to_string()).await
    }

    /// Publishes an event that is mostly unchanged.
    async fn publish_news(&mut self) -> Vec<Encoding> {
        let number: u32 = self.rng.random();
        self.publish(&json!({ "number": number, "same": "all the same ".repeat(40) }).to_string()).await
    }

    async fn all_have(&self, name: &str, value: f64) -> bool {
        self.cluster.metric(name).await.iter().all(|it| *it == value)
    }

    /// Gauges are updated within a second.
    async fn gauge_becomes(&self, name: &str, value: f64) {
        while !self.all_have(name, value).await {
            tokio::task::yield_now().await;
        }
    }
}

async fn delta_toggle_switches_off_on_all_nodes_and_on_again(backend: Backend) {
    let mut subscribers = DeltaSubscribers::start(backend).await;
    let mut events = 0;
    while !subscribers.all_have(SWITCHES, 1.0).await {
        let encoding = subscribers.publish_noise().await;
        assert!(encoding.iter().all(|encoding| *encoding == Encoding::Full));
        events += 1;
        assert!(events < UNTIL_OFF_MAX, "deltas are still on after {events} events");
    }
    subscribers.gauge_becomes(WITHOUT_DELTAS, 1.0).await;
    let encoded = subscribers.cluster.metric("fanfare_deltas_encoded_total").await;
    for _ in 0..160 {
        subscribers.publish_noise().await;
    }
    for (now, before) in
        subscribers.cluster.metric("fanfare_deltas_encoded_total").await.into_iter().zip(encoded)
    {
        assert_eq!(now - before, 10.0, "one in sixteen is tried");
    }
    assert!(
        subscribers.all_have(SWITCHES, 1.0).await,
        "the toggle is reported once, and noise changes nothing"
    );

    let mut events = 0;
    while !subscribers.all_have(SWITCHES, 2.0).await {
        subscribers.publish_news().await;
        events += 1;
        assert!(events < UNTIL_ON_MAX, "deltas are still off after {events} events");
    }
    for _ in 0..40 {
        assert!(subscribers.publish_news().await.iter().all(|encoding| *encoding == Encoding::Delta));
    }
    subscribers.gauge_becomes(WITHOUT_DELTAS, 0.0).await;
    assert!(subscribers.all_have(SWITCHES, 2.0).await);
}
