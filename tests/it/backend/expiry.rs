//! State in the memory backend expires by time, while nothing uses the backend.

use serde_json::json;

use crate::support::{AppSpec, STEP_TIMEOUT, Server, bounded, eventually};

/// Requests, each with one event on many channels.
const REQUESTS: usize = 10;
const CHANNELS: usize = 40;
const PAYLOAD_BYTES: usize = 100_000;

/// The memory of the process, in megabytes.
async fn resident(server: &Server) -> f64 {
    server.metrics().await.sum("process_resident_memory_bytes") / 1e6
}

/// Publishes on channels with this prefix, and waits until the memory of the events is given back.
async fn events_expire(prefix: &str) {
    let app = AppSpec::new("1").set("max_event_payload_in_kb", 100).set("cache_ttl_in_seconds", 1);
    let server = Server::builder()
        .app(app)
        .env("FANFARE_TEST__HISTORY_AGE", "2")
        // The allocator would keep freed memory for 10 s.
        .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:0,muzzy_decay_ms:0")
        .start()
        .await;
    let caller = server.caller("1");
    caller.publish("first", "e", "x").await;
    let before = resident(&server).await;
    let data = "x".repeat(PAYLOAD_BYTES);
    for request in 0..REQUESTS {
        let channels: Vec<String> =
            (0..CHANNELS).map(|channel| format!("{prefix}{request}-{channel}")).collect();
        let event = json!({ "name": "e", "channels": channels, "data": data });
        caller.events(&event).send().await.expect_ok();
    }
    let published = (REQUESTS * CHANNELS * PAYLOAD_BYTES) as f64 / 1e6;
    let full = resident(&server).await;
    assert!(full > before + 0.5 * published, "from {before} to {full} MB with {published} MB of events");
    eventually("memory given back", STEP_TIMEOUT, async || match resident(&server).await {
        resident if resident < before + 0.25 * published => Ok(()),
        resident => Err(format!("{resident} MB after {full} MB, {before} MB before")),
    })
    .await;
}

#[tokio::test]
async fn histories_expire_while_nothing_happens() {
    bounded(events_expire("news-")).await;
}

#[tokio::test]
async fn cached_events_expire_while_nothing_happens() {
    bounded(events_expire("cache-")).await;
}
