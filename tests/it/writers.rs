//! More sockets on each node than one hand writes to (docs/decisions/0008): several
//! threads write to a crowd, while its sockets ask and are answered.

use serde_json::json;

use crate::support::{Backend, Browser, Cluster, on_both_backends};

on_both_backends![everyone_has_everything_once_in_one_order_and_every_answer];

/// On each node.
const SOCKETS: usize = 150;
const CALLERS: usize = 2;
const BATCHES: usize = 40;
const BATCH_EVENTS: usize = 10;
/// A socket says something after so many events, and expects to be answered.
const EVENTS_PER_PING: usize = 20;

/// What a subscriber was sent, in its order, when it had been sent everything and all
/// its pings were answered.
async fn listen(mut browser: Browser) -> Vec<String> {
    let (mut heard, mut unanswered) = (Vec::new(), 0);
    while heard.len() < CALLERS * BATCHES * BATCH_EVENTS || unanswered > 0 {
        let frame = browser.next().await;
        match frame.event.as_str() {
            "pusher:pong" => unanswered -= 1,
            _ => {
                heard.push(frame.data_text().to_owned());
                if heard.len().is_multiple_of(EVENTS_PER_PING) {
                    browser.send(json!({ "event": "pusher:ping", "data": {} })).await;
                    unanswered += 1;
                }
            }
        }
    }
    browser.settle().await;
    heard
}

async fn everyone_has_everything_once_in_one_order_and_every_answer(backend: Backend) {
    let cluster = Cluster::start(backend).await;
    let mut browsers = Vec::new();
    for at in 0..SOCKETS * cluster.nodes().len() {
        let mut browser = cluster.nodes()[at % cluster.nodes().len()].browser("key1").await;
        browser.subscribe("news").await;
        browsers.push(browser);
    }
    let listening: Vec<_> = browsers.into_iter().map(|browser| tokio::spawn(listen(browser))).collect();
    let callers = (0..CALLERS).map(|who| {
        let caller = cluster.nodes()[who % cluster.nodes().len()].caller("1");
        async move {
            for batch in 0..BATCHES {
                let event = |n| json!({ "name": "e", "channel": "news", "data": format!("{who} {}", batch * BATCH_EVENTS + n) });
                caller.post_batch((0..BATCH_EVENTS).map(event).collect()).await.expect_ok();
            }
        }
    });
    futures_util::future::join_all(callers).await;
    let mut order: Option<Vec<String>> = None;
    for socket in listening {
        let heard = socket.await.unwrap();
        let order = order.get_or_insert_with(|| heard.clone());
        assert!(*order == heard, "two sockets heard another order");
    }
    let order = order.unwrap();
    for who in 0..CALLERS {
        let own: Vec<&String> = order.iter().filter(|event| event.starts_with(&format!("{who} "))).collect();
        let published: Vec<String> = (0..BATCHES * BATCH_EVENTS).map(|n| format!("{who} {n}")).collect();
        assert!(own.into_iter().eq(&published), "caller {who}: lost, twice or out of order");
    }
}
