//! Rate limits: `charge_app`, and the charge of a batch.

use super::calls::{Batch, charge};
use super::client::items;
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn app_is_charged_up_to_its_limit() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (cost, charged, used) in [(4, 1, 4), (7, 0, 4), (6, 1, 10), (1, 0, 10), (0, 1, 10)] {
            let answer = stage.run_numbers(&charge(cost, 10, 60_000)).await;
            assert_eq!(answer[..2], [charged, used], "a charge of {cost}");
            assert!((1..=60_000).contains(&answer[2]), "{answer:?}");
        }
        assert_eq!(stage.run_numbers(&charge(11, 10, 60_000)).await[..2], [0, 10]);
    })
    .await;
}

#[tokio::test]
async fn refused_charge_begins_no_window() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert_eq!(stage.run_numbers(&charge(11, 10, 60_000)).await, [0, 0, 60_000]);
        assert!(!stage.exists("rate").await);
        // A number without an expiry, which no script writes, begins a window.
        stage.redis.command(&["SET", "rate", "9"]).await;
        assert_eq!(stage.run_numbers(&charge(2, 10, 60_000)).await, [1, 2, 60_000]);
    })
    .await;
}

/// A window begins with the first charge, and later charges do not extend it.
#[tokio::test]
async fn rate_limit_window_ends() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.run(&charge(9, 10, 60_000)).await;
        stage.wait_ms(50).await;
        let [charged, used, reset_ms] = stage.run_numbers(&charge(1, 10, 60_000)).await[..] else { panic!() };
        assert_eq!((charged, used), (1, 10));
        assert!(reset_ms <= 59_950, "{reset_ms}");
        stage.redis.command(&["PEXPIRE", "rate", "1"]).await;
        stage.wait_until_expired("rate").await;
        assert_eq!(stage.run_numbers(&charge(10, 10, 60_000)).await, [1, 10, 60_000]);
    })
    .await;
}

/// Also in the millisecond in which a window ends.
#[tokio::test]
async fn rate_limit_window_is_charged_in_its_last_millisecond() {
    bounded(async {
        let mut stage = Stage::start().await;
        let mut windows = 0;
        while windows < 200 {
            let reply = items(stage.run(&charge(1, 1_000_000, 2)).await);
            assert_eq!(reply[0].integer(), 1, "in window {windows}");
            windows += i64::from(reply[1].integer() == 1);
        }
    })
    .await;
}

#[tokio::test]
async fn batch_is_charged_as_a_whole_or_not_published() {
    bounded(async {
        let mut stage = Stage::start().await;
        let batch = |n: u64, cost| {
            Batch::new(id(n), "a", "1").and("b", &["2", "3"]).wanting_counts().charged(cost, 10, 60_000)
        };
        let ([charged, used, reset_ms], counts) = stage.publish(&batch(1, 8)).await;
        assert_eq!((charged, used, reset_ms, counts), (1, 8, 60_000, vec![0; 4]));
        stage.messages().await;
        let before = stage.dump().await;
        let ([charged, used, reset_ms], _) = stage.publish(&batch(2, 3)).await;
        assert_eq!((charged, used), (0, 8));
        assert!((1..=60_000).contains(&reset_ms), "{reset_ms}");
        assert!(stage.dump().await == before, "nothing was charged, nothing published");
        assert_eq!(stage.messages().await, []);
        assert_eq!(stage.publish(&batch(3, 2)).await.0[..2], [1, 10], "the remainder can be used");
        assert_eq!((stage.log("a").await.len(), stage.messages().await.len()), (2, 2));
        // A batch without a charge is not limited.
        assert_eq!(stage.publish(&Batch::new(id(4), "a", "4")).await, ([1, 0, 0], vec![]));
    })
    .await;
}

/// The check for a resend precedes the charge.
#[tokio::test]
async fn batch_that_fails_is_not_charged() {
    bounded(async {
        let mut stage = Stage::start().await;
        let unknown = Batch::new(id(1), "a", "1").charged(1, 10, 60_000).resent(60_000);
        stage.assert_refused(&unknown.call(), "UNKNOWN").await;
        stage.set_memory_full(true).await;
        stage.assert_refused(&Batch::new(id(2), "a", "1").charged(1, 10, 60_000).call(), "OOM").await;
        assert!(!stage.exists("rate").await);
    })
    .await;
}
