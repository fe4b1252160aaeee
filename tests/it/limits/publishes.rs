//! The turns of apps before Redis: batches of an app wait for each other, not for those of others.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{AppSpec, Backend, Caller, Cluster, STEP_TIMEOUT, Signal, bounded, eventually};

/// An event for as many channels as the app's batches may cost at once.
fn largest() -> Value {
    let channels: Vec<String> = (0..256).map(|channel| format!("wide-{channel}")).collect();
    json!({ "name": "e", "channels": channels, "data": "x" })
}

async fn cluster() -> Cluster {
    let wide = AppSpec::new("1").set("max_event_channels_at_once", 256);
    Cluster::builder(Backend::Redis).nodes(1).app(wide).app(AppSpec::new("2")).start().await
}

async fn delayed_batches_become(cluster: &Cluster, count: f64) {
    eventually("batches that wait", STEP_TIMEOUT, async || {
        match cluster.first().metrics().await.sum("fanfare_publishes_delayed_total") {
            delayed if delayed == count => Ok(()),
            delayed => Err(delayed.to_string()),
        }
    })
    .await;
}

fn small() -> Value {
    json!({ "name": "e", "channel": "news", "data": "x" })
}

#[tokio::test]
async fn cluster_batches_of_an_app_wait_for_each_other() {
    bounded(async {
        let cluster = cluster().await;
        cluster.redis().signal(Signal::Stop);
        let batches = [cluster.caller("1"), cluster.caller("1")];
        let batches = join_all(batches.iter().map(|caller| caller.post_events(largest())));
        let other = async {
            delayed_batches_become(&cluster, 1.0).await;
            // Not refused: only Redis is in its way.
            let answer = cluster.caller("2").post_events(small()).await;
            assert_eq!(answer.json()["code"], "outcome_unknown", "{}", answer.text());
        };
        let (mut answers, ()) = tokio::join!(batches, other);
        answers.sort_by_key(|answer| answer.json()["code"].to_string());
        let [refused, in_flight] = &answers[..] else { panic!("{answers:?}") };
        assert_eq!(in_flight.json()["code"], "outcome_unknown", "{}", in_flight.text());
        assert_eq!(refused.json()["code"], "backpressure", "{}", refused.text());
        let error = "The app has too many batches in progress: the operation was not executed";
        assert_eq!((&refused.json()["error"], refused.header("retry-after")), (&json!(error), Some("1")));
        assert_eq!(cluster.first().metrics().await.sum("fanfare_publishes_refused_total"), 1.0);
        cluster.redis().signal(Signal::Continue);
        cluster.first().ready_becomes(200, STEP_TIMEOUT).await;
        assert_eq!(cluster.caller("1").post_events(small()).await.status, 200);
    })
    .await;
}

/// More batches than may be in flight, from as many connections: all are published.
#[tokio::test]
async fn cluster_batches_that_wait_are_published() {
    bounded(async {
        let cluster = cluster().await;
        let mut client = cluster.first().browser("key1").await;
        client.subscribe("wide-0").await;
        let callers: Vec<Caller> = (0..20).map(|_| cluster.caller("1")).collect();
        let answers = join_all(callers.iter().map(|caller| caller.post_events(largest()))).await;
        for answer in answers {
            assert_eq!(answer.status, 200, "{}", answer.text());
            client.expect_event("wide-0", "e").await;
        }
        assert!(cluster.first().metrics().await.sum("fanfare_publishes_delayed_total") > 0.0);
    })
    .await;
}
