//! A connection to Redis that stays open and carries nothing is opened again, whatever the node
//! writes on it (design.md 8).

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::recorder::Recorder;
use crate::support::{Backend, Cluster, Direction, Links, STEP_TIMEOUT, eventually, within};

const LIMIT: Duration = Duration::from_secs(60);
/// Time in which every channel accepts events again: the time to notice, a new connection, and as
/// much as both for a busy machine.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

/// Channels that use all connections for scripts.
fn channels() -> Vec<String> {
    (0..24).map(|number| format!("channel-{number}")).collect()
}

/// Publishes on all channels several times a second until each has accepted an event that was sent
/// after `since`.
async fn accepted_on_all_channels(cluster: &Cluster, since: Instant) {
    let publish = channels().into_iter().map(|channel| async move {
        let event = json!({ "name": "e", "channel": channel, "data": "x" });
        loop {
            let (caller, sent) = (cluster.caller("1"), Instant::now());
            // Published meanwhile, so that the connection is written all the time.
            let answer = tokio::time::timeout(Duration::from_millis(300), caller.post_events(event.clone()));
            if answer.await.is_ok_and(|answer| answer.status == 200) && sent > since {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let all = tokio::time::timeout(RECOVERY_MAX, futures_util::future::join_all(publish));
    all.await.expect("every channel accepts events again");
}

async fn reconnected(cluster: &Cluster, node: usize) -> f64 {
    cluster.nodes[node].metrics().await.sum("fanfare_redis_links_reconnected_total")
}

/// A quarter of the channels would be refused, and all others work.
#[tokio::test]
async fn cluster_stalled_script_link_is_made_anew_under_load() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        accepted_on_all_channels(&cluster, Instant::now()).await;
        cluster.proxy().stall(Links::Nth(2), Direction::Both);
        let stalled = Instant::now();
        accepted_on_all_channels(&cluster, stalled).await;
        println!("accepted {:?} after the stall", stalled.elapsed());
        assert_eq!(reconnected(&cluster, 0).await, 1.0);
        let log = cluster.first().log();
        assert_eq!(log.matches("a connection to Redis does not answer").count(), 1, "{log}");
    })
    .await;
}

/// Every connection hangs, and new ones work.
#[tokio::test]
async fn cluster_links_that_all_stall_are_made_anew_under_load() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let recorder = Recorder::connect_many(cluster.first(), 1, &["channel-0"]).await.remove(0);
        accepted_on_all_channels(&cluster, Instant::now()).await;
        cluster.proxy().stall(Links::First(6), Direction::Both);
        let stalled = Instant::now();
        accepted_on_all_channels(&cluster, stalled).await;
        println!("accepted {:?} after the stall", stalled.elapsed());
        cluster.first().ready_becomes(200, STEP_TIMEOUT).await;
        cluster.caller("1").publish("channel-0", "e", "after").await;
        recorder.wait_for("channel-0", "after").await;
        eventually("all connections are new", STEP_TIMEOUT, async || match reconnected(&cluster, 0).await {
            6.0 => Ok(()),
            other => Err(other.to_string()),
        })
        .await;
    })
    .await;
}

/// The connection that renews the lease: no node may be swept whose connection is opened again.
#[tokio::test]
async fn cluster_stalled_link_of_the_lease_is_made_anew_before_the_lease_expires() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).proxied(1).start().await;
        let _recorders = Recorder::connect_many(&cluster.nodes[1], 3, &["all"]).await;
        cluster.caller("1").count_becomes("all", 3).await;
        cluster.proxy().stall(Links::Nth(0), Direction::Both);
        eventually("a new connection", RECOVERY_MAX, async || match reconnected(&cluster, 1).await {
            0.0 => Err("none yet".to_owned()),
            _ => Ok(()),
        })
        .await;
        // Longer than the rest of the lease.
        tokio::time::sleep(Duration::from_secs(6)).await;
        assert_eq!(cluster.caller("1").subscription_count("all").await, 3);
        for name in ["fanfare_nodes_swept_total", "fanfare_leases_lost_total"] {
            assert_eq!(cluster.metric(name).await, [0.0, 0.0], "{name}");
        }
    })
    .await;
}
