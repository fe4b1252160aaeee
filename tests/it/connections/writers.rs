//! The writer pool (docs/decisions/0008): with many subscribers per node, several threads
//! flush write buffers while the same connections send pings and receive replies.

use serde_json::json;

use crate::support::{Backend, Browser, Cluster, on_both_backends};

on_both_backends![writer_pool_delivers_every_event_once_in_one_order];

/// Per node; enough for a fan-out through the writer pool.
const SOCKETS: usize = 150;
const CALLERS: usize = 2;
const BATCHES: usize = 40;
const BATCH_EVENTS: usize = 10;
/// A subscriber sends a ping after this many events and expects a pong.
const EVENTS_PER_PING: usize = 20;

/// Reads until all events and all pongs have arrived; returns the data of the events in
/// order of arrival.
async fn read_all(mut browser: Browser) -> Vec<String> {
    let (mut received, mut unanswered) = (Vec::new(), 0);
    while received.len() < CALLERS * BATCHES * BATCH_EVENTS || unanswered > 0 {
        let frame = browser.next().await;
        match frame.event.as_str() {
            "pusher:pong" => unanswered -= 1,
            _ => {
                received.push(frame.data_text().to_owned());
                if received.len().is_multiple_of(EVENTS_PER_PING) {
                    browser.send(json!({ "event": "pusher:ping", "data": {} })).await;
                    unanswered += 1;
                }
            }
        }
    }
    browser.settle().await;
    received
}

async fn writer_pool_delivers_every_event_once_in_one_order(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut browsers = Vec::new();
    for at in 0..SOCKETS * cluster.nodes.len() {
        let mut browser = cluster.nodes[at % cluster.nodes.len()].browser("key1").await;
        browser.subscribe("news").await;
        browsers.push(browser);
    }
    let readers: Vec<_> = browsers.into_iter().map(|browser| tokio::spawn(read_all(browser))).collect();
    let callers = (0..CALLERS).map(|caller_id| {
        let caller = cluster.nodes[caller_id % cluster.nodes.len()].caller("1");
        async move {
            for batch in 0..BATCHES {
                let event = |n| json!({ "name": "e", "channel": "news", "data": format!("{caller_id} {}", batch * BATCH_EVENTS + n) });
                caller.post_batch((0..BATCH_EVENTS).map(event).collect()).await.expect_ok();
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let mut order: Option<Vec<String>> = None;
    for reader in readers {
        let received = reader.await.unwrap();
        let order = order.get_or_insert_with(|| received.clone());
        assert!(*order == received, "two subscribers received different orders");
    }
    let order = order.unwrap();
    for caller_id in 0..CALLERS {
        let own: Vec<&String> =
            order.iter().filter(|event| event.starts_with(&format!("{caller_id} "))).collect();
        let published: Vec<String> =
            (0..BATCHES * BATCH_EVENTS).map(|n| format!("{caller_id} {n}")).collect();
        assert!(
            own.into_iter().eq(&published),
            "caller {caller_id}: an event is lost, repeated or out of order"
        );
    }
}
