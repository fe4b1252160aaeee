//! Redis has reached its `maxmemory`: operations that need memory are refused as a whole,
//! operations that free memory work, and so do those that the cluster depends on.

use super::calls::{
    Batch, Call, N1, N2, N3, Update, charge, claim, control_entry, hold, list, mark_swept, open_epoch, probe,
    read_cached, read_log, read_log_since, read_outbox, renew, rules, settle, switch,
};
use super::stage::{Stage, id};
use crate::support::bounded;
use crate::support::recorder::Recorder;
use crate::support::{Redis, STEP_TIMEOUT, Server};

fn all_rules() -> String {
    let hooked =
        ["channel_occupied", "channel_vacated", "member_added", "member_removed", "subscription_count"];
    rules(&hooked, true, true)
}

#[tokio::test]
async fn full_memory_refuses_publishing() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "old", "1").and("idle", &["1"])).await;
        // Bases without a head would be deleted first.
        stage.published(&Batch::of_chains(id(1), "left", 9, &[("A", "1")])).await;
        stage.redis.command(&["DEL", "head:left"]).await;
        // An existing channel, a new one, and a resend.
        for batch in [
            Batch::new(id(2), "old", "2").and("new", &["2"]),
            Batch::new(id(3), "new", "2").and("old", &["2"]),
            Batch::new(id(4), "old", "2").resent(0),
            Batch::new(id(5), "old", "2").cached(1_000),
            Batch::new(id(6), "old", "2").charged(1, 10, 1_000),
            Batch::of_chains(id(7), "old", 9, &[("A", "2")]),
            Batch::of_chains(id(8), "new", 9, &[("A", "2")]),
            Batch::of_chains(id(9), "left", 9, &[("A", "2")]),
        ] {
            stage.wait_ms(1).await;
            stage.set_memory_full(true).await;
            stage.assert_refused(&batch.call(), "OOM").await;
            stage.set_memory_full(false).await;
        }
        let epoch = stage.head("old", "epoch").await;
        stage.set_memory_full(true).await;
        for call in [
            control_entry("old", 2, b"", true, 10),
            control_entry("new", 6, b"", false, 10),
            switch("old", false),
            open_epoch("old", epoch, 0),
        ] {
            stage.assert_refused(&call, "OOM").await;
        }
        for call in [charge(1, 10, 1_000), probe()] {
            stage.assert_refused(&call, "OOM").await;
        }
        stage.set_memory_full(false).await;
        assert_eq!(stage.run(&probe()).await.integer(), 1);
        assert!(stage.redis.command(&["PTTL", "probe"]).await.integer() > 9_000);
    })
    .await;
}

#[tokio::test]
async fn full_memory_permits_leaving_and_refuses_subscribing() {
    bounded(async {
        let mut stage = Stage::start().await;
        let update = |channel: &str, node, count| Update::new(channel, node, count).with(&all_rules());
        stage.update(&update("a", N1, 3)).await;
        stage.update(&update("a", N2, 4)).await;
        stage.set_memory_full(true).await;
        for (channel, node, count) in
            [("a", N3, 1), ("new", N3, 1), ("a", N1, 4), ("#server-to-user-a", N1, 1)]
        {
            stage.assert_refused(&update(channel, node, count).wanting_last().call(), "OOM").await;
        }
        assert_eq!(stage.update(&update("a", N1, 3)).await.total, 7, "a repeated update");
        assert_eq!(stage.update(&update("a", N1, 0)).await.total, 4);
        assert_eq!(stage.redis.command(&["HMGET", "subs:a", N1, N2, "total"]).await.text(), " 4 4");
        assert_eq!(stage.update(&update("a", N2, 0).sweeping()).await.total, 0);
        assert!(!stage.exists("subs:a").await && !stage.exists("occupied").await);
        assert_eq!(stage.due().await[0].0, "vacated 1:a");
    })
    .await;
}

#[tokio::test]
async fn full_memory_permits_removing_members_and_refuses_adding() {
    bounded(async {
        let mut stage = Stage::start().await;
        let update = |node, count, users: &[(&str, u64)]| {
            Update::members("presence-a", node, count, users).with(&all_rules())
        };
        stage.update(&update(N1, 3, &[("ann", 1), ("bob", 1), ("eve", 1)])).await;
        stage.update(&update(N2, 1, &[("ann", 1)])).await;
        stage.update(&update(N1, 2, &[("eve", 0)])).await;
        stage.set_memory_full(true).await;
        // A new user, an existing one, and one that returns within the grace period.
        for user in ["new", "ann", "eve"] {
            stage.assert_refused(&update(N3, 1, &[(user, 1)]).call(), "OOM").await;
        }
        stage.messages().await;
        assert_eq!(stage.update(&update(N1, 1, &[("ann", 0)])).await.total, 2);
        assert_eq!(stage.update(&update(N1, 0, &[("bob", 0)]).sweeping()).await.total, 1);
        assert_eq!(stage.update(&update(N2, 0, &[("ann", 0)])).await.total, 0);
        assert_eq!(stage.messages().await.len(), 2, "bob and ann have left");
        assert!(!stage.exists("users:presence-a").await && !stage.exists("subs:presence-a").await);
    })
    .await;
}

/// Outboxes are emptied, leases renewed, connections granted and released.
#[tokio::test]
async fn full_memory_permits_cluster_operations() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "cache-a", "1").cached(60_000)).await;
        stage.update(&Update::new("a", N1, 1).with(&all_rules())).await;
        stage.update(&Update::new("a", N1, 0)).await;
        stage.redis.command(&["ZADD", "due", "1", "vacated 1:a"]).await;
        stage.set_memory_full(true).await;
        let calls: [Call; 11] = [
            renew(N1, true),
            claim(N1, 60_000, true),
            read_outbox(N1, "-", 10),
            settle("a", "vacated 1:a", 10_000),
            claim(N1, 0, false),
            hold(N1, 0, 5, 10),
            list("-", "+", 10),
            read_cached("cache-a"),
            read_log("cache-a", id(7)),
            read_log_since("cache-a", 7, 9),
            mark_swept(N1),
        ];
        for call in &calls {
            let reply = stage.run(call).await;
            assert!(!matches!(reply, crate::support::resp::Reply::Error(_)), "{}: {reply:?}", call.script);
        }
        assert_eq!(stage.webhook_events().await.last().unwrap(), "channel_vacated 1:a");
    })
    .await;
}

/// Through a server: publishes receive 503 with `Retry-After`, leaving subscribers are removed, and
/// no restart is needed.
#[tokio::test]
async fn full_memory_is_backpressure() {
    bounded(async {
        let redis = Redis::start().await;
        let server = Server::builder().redis(&redis).start().await;
        let caller = server.caller("1");
        let recorders = Recorder::connect_many(&server, 3, &["news"]).await;
        let leaving = Recorder::connect_many(&server, 2, &["left"]).await;
        caller.publish("news", "e", "before").await;
        redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
        let refused = serde_json::json!({ "name": "e", "channels": ["news", "new"], "data": "refused" });
        let answer = caller.post_events(refused).await;
        answer.expect_error(503, "backpressure");
        assert!(answer.header("retry-after").is_some());
        drop(leaving);
        caller.count_becomes("left", 0).await;
        // New subscriptions wait.
        let mut late = Recorder::connect(&server).await;
        late.request_subscription("news").await;
        late.settle().await;
        assert_eq!(caller.subscription_count("news").await, 3);
        server.ready_becomes(503, STEP_TIMEOUT).await;
        redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
        late.until("its confirmation", STEP_TIMEOUT, |record| record.confirmations("news") == 1).await;
        assert_eq!(caller.subscription_count("news").await, 4);
        caller.publish("news", "e", "after").await;
        for recorder in &recorders {
            recorder.wait_for("news", "after").await;
            assert_eq!(recorder.run("news"), ["before", "after"], "{}", recorder.name);
        }
        late.wait_for("news", "after").await;
        assert_eq!(late.run("news"), ["after"]);
        assert_eq!(redis.command(&["EXISTS", "fanfare:{nodes}:leases"]).await.integer(), 1);
        assert_eq!(server.metrics().await.sum("fanfare_leases_lost_total"), 0.0);
    })
    .await;
}
