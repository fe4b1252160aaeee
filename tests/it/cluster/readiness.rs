//! `/ready` reports whether Redis accepts the writes of the node (design.md 8). A node that is not
//! ready keeps its connections, and publishes again as soon as Redis does.

use std::time::Duration;

use crate::support::recorder::Recorder;
use crate::support::{Backend, Cluster, Redis, STEP_TIMEOUT, Server, eventually, within};

const LIMIT: Duration = Duration::from_secs(90);

async fn start() -> Cluster {
    Cluster::builder(Backend::Redis).nodes(1).quick_detection().start().await
}

/// Waits until the node is not ready for this reason.
async fn unready_becomes(node: &Server, reason: &str) {
    eventually(reason, STEP_TIMEOUT, async || {
        let answer = node.get("/ready").await;
        match answer.json()["reason"].as_str() {
            Some(found) if found.starts_with(reason) && answer.status == 503 => Ok(()),
            _ => Err(answer.text()),
        }
    })
    .await;
}

async fn publish(node: &Server, data: &str) -> crate::support::Answer {
    let event = serde_json::json!({ "name": "e", "channel": "news", "data": data });
    node.caller("1").post_events(event).await
}

/// Sets a configuration of Redis under which it refuses writes, and resets it.
async fn refusal_makes_unready(refuse: &[&str], code: &str, reason: &str, accept: &[&str]) {
    let cluster = start().await;
    let (node, redis) = (cluster.first(), cluster.redis());
    let recorder = Recorder::connect_many(node, 1, &["news"]).await.remove(0);
    node.ready_becomes(200, STEP_TIMEOUT).await;
    redis.command(refuse).await;
    unready_becomes(node, reason).await;
    let refused = publish(node, "refused").await;
    refused.expect_error(503, code);
    assert!(refused.header("retry-after").is_some());
    assert!(recorder.is_open());
    redis.command(accept).await;
    node.ready_becomes(200, STEP_TIMEOUT).await;
    eventually("an accepted event", STEP_TIMEOUT, async || {
        let answer = publish(node, "accepted").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    recorder.wait_for("news", "accepted").await;
    let lines = node.log().matches("\"not ready\"").count();
    assert_eq!(lines, 1, "one line per change: {}", node.log());
}

#[tokio::test]
async fn cluster_full_redis_makes_node_unready() {
    let (refuse, accept) = (["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"]);
    within(LIMIT, refusal_makes_unready(&refuse, "backpressure", "Redis is out of memory", &accept)).await;
}

#[tokio::test]
async fn cluster_redis_without_replicas_makes_node_unready() {
    let set = |count| ["CONFIG", "SET", "min-replicas-to-write", count];
    let reason = "Redis has too few replicas and accepts no writes";
    within(LIMIT, refusal_makes_unready(&set("1"), "service_unavailable", reason, &set("0"))).await;
}

#[tokio::test]
async fn cluster_read_only_redis_makes_node_unready() {
    // No replication: nothing listens there.
    let (refuse, accept) = (["REPLICAOF", "127.0.0.1", "1"], ["REPLICAOF", "NO", "ONE"]);
    let reason = "Redis is a replica and accepts no writes";
    within(LIMIT, refusal_makes_unready(&refuse, "service_unavailable", reason, &accept)).await;
}

/// Redis cannot save its data: 503, as for every write that is refused.
#[tokio::test]
async fn cluster_redis_that_cannot_save_makes_node_unready() {
    within(LIMIT, async {
        let cluster = start().await;
        let (node, redis) = (cluster.first(), cluster.redis());
        redis.command(&["CONFIG", "SET", "save", "3600 1"]).await;
        // A directory where the file would be.
        let directory = redis.dir().join("dump.rdb");
        std::fs::create_dir_all(directory.join("file")).unwrap();
        redis.command(&["BGSAVE"]).await;
        unready_becomes(node, "Redis cannot save its data and accepts no writes").await;
        let refused = publish(node, "refused").await;
        refused.expect_error(503, "service_unavailable");
        assert!(refused.header("retry-after").is_some());
        std::fs::remove_dir_all(directory).unwrap();
        redis.command(&["BGSAVE"]).await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
    })
    .await;
}

/// A permission that is withdrawn while the node runs.
#[tokio::test]
async fn cluster_forbidden_write_makes_node_unready() {
    within(LIMIT, async {
        let cluster = start().await;
        let (node, redis) = (cluster.first(), cluster.redis());
        redis.command(&["ACL", "SETUSER", "default", "-set"]).await;
        unready_becomes(node, "Redis refused a write: ").await;
        redis.command(&["ACL", "SETUSER", "default", "+set", "-evalsha"]).await;
        unready_becomes(node, "Redis refused a write: NOPERM").await;
        redis.command(&["ACL", "SETUSER", "default", "+evalsha"]).await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
    })
    .await;
}

/// Other nodes may take this node for dead.
#[tokio::test]
async fn cluster_lease_that_is_not_renewed_makes_node_unready() {
    within(LIMIT, async {
        let cluster = start().await;
        let (node, redis) = (cluster.first(), cluster.redis());
        redis.command(&["ACL", "SETUSER", "default", "-hincrby"]).await;
        unready_becomes(node, "the lease of this node is not renewed").await;
        redis.command(&["ACL", "SETUSER", "default", "+hincrby"]).await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
    })
    .await;
}

/// The address of Redis leads to another process, and the connections to the former one stay open:
/// it has become a replica.
#[tokio::test]
async fn cluster_demoted_redis_is_left_for_its_successor() {
    within(LIMIT, async {
        let cluster = Cluster::builder(Backend::Redis).nodes(1).proxied(0).start().await;
        let (node, successor) = (cluster.first(), Redis::start().await);
        let recorder = Recorder::connect_many(node, 1, &["news"]).await.remove(0);
        cluster.proxy().lead_to(successor.port());
        cluster.redis().command(&["REPLICAOF", "127.0.0.1", "1"]).await;
        eventually("an accepted event", 2 * STEP_TIMEOUT, async || {
            let answer = publish(node, "accepted").await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
        })
        .await;
        recorder.wait_for("news", "accepted").await;
        node.ready_becomes(200, STEP_TIMEOUT).await;
        node.caller("1").count_becomes("news", 1).await;
    })
    .await;
}
