//! WebhookEventKind an app may use of a window: `charge_app`, and the charge of a batch.

use super::calls::{Batch, charge};
use super::client::items;
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn app_is_charged_up_to_its_limit() {
    bounded(async {
        let mut stage = Stage::set().await;
        for (cost, paid, used) in [(4, 1, 4), (7, 0, 4), (6, 1, 10), (1, 0, 10), (0, 1, 10)] {
            let answer = stage.run_numbers(&charge(cost, 10, 60_000)).await;
            assert_eq!(answer[..2], [paid, used], "a charge of {cost}");
            assert!((1..=60_000).contains(&answer[2]), "{answer:?}");
        }
        assert_eq!(stage.run_numbers(&charge(11, 10, 60_000)).await[..2], [0, 10]);
    })
    .await;
}

#[tokio::test]
async fn who_cannot_pay_begins_no_window() {
    bounded(async {
        let mut stage = Stage::set().await;
        assert_eq!(stage.run_numbers(&charge(11, 10, 60_000)).await, [0, 0, 60_000]);
        assert!(!stage.exists("rate").await);
        // A number without an end, as nobody writes it, begins a window.
        stage.redis.command(&["SET", "rate", "9"]).await;
        assert_eq!(stage.run_numbers(&charge(2, 10, 60_000)).await, [1, 2, 60_000]);
    })
    .await;
}

/// It begins with the first charge, and later ones do not make it longer.
#[tokio::test]
async fn a_window_ends() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.run(&charge(9, 10, 60_000)).await;
        stage.pass_ms(50).await;
        let [paid, used, reset_ms] = stage.run_numbers(&charge(1, 10, 60_000)).await[..] else { panic!() };
        assert_eq!((paid, used), (1, 10));
        assert!(reset_ms <= 59_950, "{reset_ms}");
        stage.redis.command(&["PEXPIRE", "rate", "1"]).await;
        stage.expires("rate").await;
        assert_eq!(stage.run_numbers(&charge(10, 10, 60_000)).await, [1, 10, 60_000]);
    })
    .await;
}

/// In the very millisecond in which a window ends, too.
#[tokio::test]
async fn the_last_moment_of_a_window_can_be_charged() {
    bounded(async {
        let mut stage = Stage::set().await;
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
async fn a_batch_is_paid_for_as_a_whole_or_not_published() {
    bounded(async {
        let mut stage = Stage::set().await;
        let batch = |n: u64, cost| {
            Batch::new(id(n), "a", "1").and("b", &["2", "3"]).wanting_counts().charged(cost, 10, 60_000)
        };
        let ([paid, used, reset_ms], counts) = stage.publish(&batch(1, 8)).await;
        assert_eq!((paid, used, reset_ms, counts), (1, 8, 60_000, vec![0; 4]));
        stage.heard().await;
        let before = stage.everything().await;
        let ([paid, used, reset_ms], _) = stage.publish(&batch(2, 3)).await;
        assert_eq!((paid, used), (0, 8));
        assert!((1..=60_000).contains(&reset_ms), "{reset_ms}");
        assert!(stage.everything().await == before, "nothing was charged, nothing published");
        assert_eq!(stage.heard().await, []);
        assert_eq!(stage.publish(&batch(3, 2)).await.0[..2], [1, 10], "what is left can be used");
        assert_eq!((stage.log("a").await.len(), stage.heard().await.len()), (2, 2));
        // Who is not charged is not stopped.
        assert_eq!(stage.publish(&Batch::new(id(4), "a", "4")).await, ([1, 0, 0], vec![]));
    })
    .await;
}

/// A refusal by the log comes before the charge.
#[tokio::test]
async fn what_is_not_published_is_not_charged() {
    bounded(async {
        let mut stage = Stage::set().await;
        let unknown = Batch::new(id(1), "a", "1").charged(1, 10, 60_000).resent(60_000);
        stage.refused(&unknown.call(), "UNKNOWN").await;
        stage.full(true).await;
        stage.refused(&Batch::new(id(2), "a", "1").charged(1, 10, 60_000).call(), "OOM").await;
        assert!(!stage.exists("rate").await);
    })
    .await;
}
