//! `publish_batch` again under the same id: applied once.

use super::calls::{Batch, NODES};
use super::log::data;
use super::stage::{Stage, id};
use crate::support::bounded;

/// Nothing is applied by this call, and it is answered as if it had been.
async fn assert_not_applied(stage: &mut Stage, batch: &Batch, counts: &[i64]) {
    stage.heard().await;
    let before = stage.everything().await;
    assert_eq!(stage.published(batch).await, counts);
    assert!(stage.everything().await == before, "something was written");
    assert_eq!(stage.heard().await, []);
}

#[tokio::test]
async fn resend_that_is_found_in_the_log_is_not_applied() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.total("a", NODES[0], 3).await;
        let batch = Batch::new(id(1), "a", "1").and("b", &["2"]).wanting_counts();
        stage.published(&batch).await;
        assert_not_applied(&mut stage, &batch.clone().resent(1_000), &[3, 0, 0, 0]).await;
        // However many came after it.
        for n in 2..=200 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        assert_not_applied(&mut stage, &batch.resent(1_000), &[3, 0, 0, 0]).await;
    })
    .await;
}

#[tokio::test]
async fn resend_that_is_not_in_a_log_that_covers_it_is_applied_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1").and("b", &["1"])).await;
        stage.pass_ms(30).await;
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]);
        stage.heard().await;
        assert_eq!(stage.published(&batch.clone().resent(20)).await, [0_i64; 0]);
        assert_eq!(stage.heard().await.len(), 2, "one entry for each channel");
        assert_not_applied(&mut stage, &batch.clone().resent(20), &[]).await;
        // The first attempt was on its way all the time.
        assert_not_applied(&mut stage, &batch, &[]).await;
        // Also when the log no longer has the resend.
        stage.published(&Batch { log_max: 1, ..Batch::new(id(3), "a", "3") }).await;
        assert_eq!(stage.log("a").await.len(), 1);
        assert_not_applied(&mut stage, &batch, &[]).await;
        let log = stage.log("b").await;
        assert_eq!(log.iter().flat_map(data).collect::<Vec<_>>(), ["1", "2"]);
    })
    .await;
}

/// Of many resends on one channel, the newest 32 are remembered.
#[tokio::test]
async fn late_first_attempts_of_several_resends_are_not_applied() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.pass_ms(30).await;
        for n in 2..=41 {
            stage.published(&Batch::new(id(n), "a", &n.to_string()).resent(20)).await;
        }
        for n in 10..=41 {
            assert_not_applied(&mut stage, &Batch::new(id(n), "a", &n.to_string()), &[]).await;
        }
        let resent = stage.client.command(&[b"HSTRLEN", b"head:a", b"resent"]).await.integer();
        assert_eq!(resent, 256, "it is bounded");
    })
    .await;
}

#[tokio::test]
async fn resend_that_no_log_covers_is_unknown() {
    bounded(async {
        let mut stage = Stage::set().await;
        // Nothing was ever announced here, as far as Redis knows.
        let batch = Batch::new(id(2), "a", "2").and("b", &["2"]).resent(60_000);
        stage.refused(&batch.call(), "UNKNOWN").await;
        // The log has begun after the first attempt.
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.refused(&batch.call(), "UNKNOWN").await;
        // It has begun before, and no longer reaches back so far.
        stage.published(&Batch::new(id(3), "c", "1")).await;
        stage.age("c", 50_000).await;
        for n in 4..=5 {
            stage.published(&Batch { log_max: 1, ..Batch::new(id(n), "c", "2") }).await;
        }
        let batch = Batch::new(id(6), "c", "1").resent(40_000);
        stage.refused(&batch.call(), "UNKNOWN").await;
    })
    .await;
}

/// A resend that finds itself applied costs nothing; one that is applied is
/// charged like any other.
#[tokio::test]
async fn resend_is_charged_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1").charged(2, 10, 60_000)).await;
        stage.pass_ms(30).await;
        let batch = Batch::new(id(2), "a", "2").charged(3, 10, 60_000);
        let ([paid, used, _], _) = stage.publish(&batch.clone().resent(20)).await;
        assert_eq!((paid, used), (1, 5), "the first attempt was lost");
        for again in
            [batch.clone().resent(20), batch, Batch::new(id(1), "a", "1").charged(2, 10, 60_000).resent(0)]
        {
            assert_not_applied(&mut stage, &again, &[]).await;
        }
        assert_eq!(stage.redis.command(&["GET", "rate"]).await.text(), "5");
    })
    .await;
}

/// Not even where the window could not pay for it again.
#[tokio::test]
async fn resend_that_was_applied_needs_no_credit() {
    bounded(async {
        let mut stage = Stage::set().await;
        let batch = Batch::new(id(1), "a", "1").charged(8, 10, 60_000);
        stage.published(&batch).await;
        let ([paid, ..], _) = stage.publish(&batch.resent(1_000)).await;
        assert_eq!((paid, stage.log("a").await.len()), (1, 1));
    })
    .await;
}
