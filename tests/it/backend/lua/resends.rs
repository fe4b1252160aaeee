//! `publish_batch` repeated with the same id is applied once.

use super::calls::{Batch, NODES};
use super::log::data;
use super::stage::{Stage, id};
use crate::support::bounded;

/// The call applies nothing, and returns the reply of the applied one.
async fn assert_not_applied(stage: &mut Stage, batch: &Batch, counts: &[i64]) {
    stage.messages().await;
    let before = stage.dump().await;
    assert_eq!(stage.published(batch).await, counts);
    assert!(stage.dump().await == before, "something was written");
    assert_eq!(stage.messages().await, []);
}

#[tokio::test]
async fn resend_found_in_history_is_not_applied() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.total("a", NODES[0], 3).await;
        let batch = Batch::new(id(1), "a", "1").and("b", &["2"]).wanting_counts();
        stage.published(&batch).await;
        assert_not_applied(&mut stage, &batch.clone().resent(1_000), &[3, 0, 0, 0]).await;
        // Also after many later entries.
        for n in 2..=200 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        assert_not_applied(&mut stage, &batch.resent(1_000), &[3, 0, 0, 0]).await;
    })
    .await;
}

#[tokio::test]
async fn resend_missing_from_covering_history_is_applied_once() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "a", "1").and("b", &["1"])).await;
        stage.wait_ms(30).await;
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]);
        stage.messages().await;
        assert_eq!(stage.published(&batch.clone().resent(20)).await, [0_i64; 0]);
        assert_eq!(stage.messages().await.len(), 2, "one entry for each channel");
        assert_not_applied(&mut stage, &batch.clone().resent(20), &[]).await;
        // The first attempt arrives late.
        assert_not_applied(&mut stage, &batch, &[]).await;
        // Also when the history no longer has the resend.
        stage.published(&Batch { log_max: 1, ..Batch::new(id(3), "a", "3") }).await;
        assert_eq!(stage.log("a").await.len(), 1);
        assert_not_applied(&mut stage, &batch, &[]).await;
        let log = stage.log("b").await;
        assert_eq!(log.iter().flat_map(data).collect::<Vec<_>>(), ["1", "2"]);
    })
    .await;
}

/// The head stores the ids of the newest 2,048 applied resends of a channel, for as long as the
/// history reaches back.
#[tokio::test]
async fn late_first_attempts_of_applied_resends_are_not_applied() {
    const KEPT: u64 = 2_048;
    const APPLIED: u64 = KEPT + 50;
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.wait_ms(30).await;
        for n in 2..2 + APPLIED {
            stage.published(&Batch::new(id(n), "a", &n.to_string()).resent(20)).await;
        }
        stage.messages().await;
        let before = stage.dump().await;
        for n in 2 + APPLIED - KEPT..2 + APPLIED {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        assert!(stage.dump().await == before, "something was written");
        assert_eq!(stage.messages().await, []);
        let resent = stage.client.command(&[b"HSTRLEN", b"head:a", b"resent"]).await.integer();
        assert_eq!(resent, 8 * i64::try_from(KEPT).unwrap(), "the ids are bounded");

        // The next batch after the age of a history removes them.
        let fields = async |stage: &mut Stage| {
            stage.client.command(&[b"HEXISTS", b"head:a", b"resent"]).await.integer()
                + stage.client.command(&[b"HEXISTS", b"head:a", b"resent_at"]).await.integer()
        };
        stage.published(&Batch::new(id(APPLIED + 2), "a", "x")).await;
        assert_eq!(fields(&mut stage).await, 2);
        let now = stage.client.command(&[b"TIME"]).await.text();
        let secs: u64 = now.split(' ').next().unwrap().parse().unwrap();
        let earlier = ((secs - 61) * 1_000).to_string();
        stage.client.command(&[b"HSET", b"head:a", b"resent_at", earlier.as_bytes()]).await;
        stage.published(&Batch::new(id(APPLIED + 3), "a", "x")).await;
        assert_eq!(fields(&mut stage).await, 0);
    })
    .await;
}

#[tokio::test]
async fn resend_without_covering_history_is_unknown() {
    bounded(async {
        let mut stage = Stage::start().await;
        // The channel has no head.
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]).resent(60_000);
        stage.assert_refused(&batch.call(), "UNKNOWN").await;
        // The history begins after the first attempt.
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.assert_refused(&batch.call(), "UNKNOWN").await;
        // The history began before the first attempt, and no longer reaches back to it.
        stage.published(&Batch::new(id(3), "c", "1")).await;
        stage.age("c", 50_000).await;
        for n in 4..=5 {
            stage.published(&Batch { log_max: 1, ..Batch::new(id(n), "c", "2") }).await;
        }
        let batch = Batch::new(id(6), "c", "1").resent(40_000);
        stage.assert_refused(&batch.call(), "UNKNOWN").await;
    })
    .await;
}

/// A resend that was applied already costs nothing; one that is applied now is charged like any
/// other batch.
#[tokio::test]
async fn resend_is_charged_once() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "a", "1").charged(2, 10, 60_000)).await;
        stage.wait_ms(30).await;
        let batch = Batch::new(id(2), "a", "2").charged(3, 10, 60_000);
        let ([charged, used, _], _) = stage.publish(&batch.clone().resent(20)).await;
        assert_eq!((charged, used), (1, 5), "the first attempt was lost");
        for again in
            [batch.clone().resent(20), batch, Batch::new(id(1), "a", "1").charged(2, 10, 60_000).resent(0)]
        {
            assert_not_applied(&mut stage, &again, &[]).await;
        }
        assert_eq!(stage.redis.command(&["GET", "rate"]).await.text(), "5");
    })
    .await;
}

/// Even if the window does not permit another charge.
#[tokio::test]
async fn applied_resend_is_accepted_when_window_is_used_up() {
    bounded(async {
        let mut stage = Stage::start().await;
        let batch = Batch::new(id(1), "a", "1").charged(8, 10, 60_000);
        stage.published(&batch).await;
        let ([charged, ..], _) = stage.publish(&batch.resent(1_000)).await;
        assert_eq!((charged, stage.log("a").await.len()), (1, 1));
    })
    .await;
}
