//! `read_log_since`: a log from a number on that a client has seen.

use fanfare::entry::Entry;

use super::calls::{Batch, read_log_since, signal};
use super::client::{bulk, items, number};
use super::stage::{Stage, id};
use crate::support::bounded;
use crate::support::resp::Reply;

const SEEN: u64 = 1 << 31;

impl Stage {
    /// The head's number, and the entries.
    async fn log_since(&mut self, seq: u64, before_max: u64) -> (u64, Vec<Entry>) {
        let mut head = items(self.run(&read_log_since("a", seq, before_max)).await);
        let entries = head.split_off(4);
        let entries = entries.iter().map(|it| Entry::decode(bulk(it).into()).unwrap());
        (number(&head[1]), entries.collect())
    }

    /// Runs of one, two and three events in turn, and a signal.
    async fn published_runs(&mut self, seen_seq: u64) -> Vec<Entry> {
        for n in 0..40 {
            let runs: &[&str] = [&["1"][..], &["1", "2"], &["1", "2", "3"]][n % 3];
            let batch = Batch { seen_seq, ..Batch::new(id(n as u64 + 1), "b", "").and("a", runs) };
            self.published(&batch).await;
        }
        self.run(&signal("a", 2, b"", false, 9)).await;
        self.log("a").await
    }
}

/// WebhookEventKind is returned for each number that a client can have seen here.
async fn assert_found(stage: &mut Stage, log: &[Entry]) {
    let last = log[log.len() - 1].position().seq;
    for before_max in [0, 1, 5, 100] {
        for (at, entry) in log.iter().enumerate() {
            for seq in entry.first_seq..=entry.position().seq {
                let expected = &log[at.saturating_sub(before_max)..];
                let (head, found) = stage.log_since(seq, before_max as u64).await;
                assert_eq!((head, &found[..]), (last, expected), "since {seq}, with {before_max} before");
            }
        }
    }
}

#[tokio::test]
async fn every_number_is_found() {
    bounded(async {
        let mut stage = Stage::set().await;
        let log = stage.published_runs(0).await;
        assert_eq!(log.len(), 41);
        assert_found(&mut stage, &log).await;
    })
    .await;
}

/// Within these runs the low 31 bits begin anew.
#[tokio::test]
async fn every_number_is_found_where_the_seen_bits_wrap() {
    bounded(async {
        let mut stage = Stage::set().await;
        for back in [1, 20, 41] {
            stage.redis.command(&["FLUSHALL"]).await;
            let epoch = (stage.now_us().await / SEEN + 2) * SEEN - back;
            let log = stage.published_runs(epoch).await;
            assert_eq!(log[0].first_seq, epoch + 1);
            assert!(log[0].first_seq % SEEN > log[40].first_seq % SEEN || back == 1);
            assert_found(&mut stage, &log).await;
        }
    })
    .await;
}

/// Earlier than the log, or never announced: all that there is.
#[tokio::test]
async fn a_number_that_the_log_does_not_reach_gets_all_of_it() {
    bounded(async {
        let mut stage = Stage::set().await;
        assert_eq!(items(stage.run(&read_log_since("a", 7, 9)).await), vec![Reply::Nil; 4]);
        let whole = stage.published_runs(0).await;
        let last = whole[40].position().seq;
        for seq in [whole[0].first_seq - 1, last + 1, last + 1_000_000, last + SEEN / 2] {
            assert_eq!(stage.log_since(seq, 1).await, (last, whole.clone()), "since {seq}");
        }
        // Of a number the log has forgotten.
        stage.published(&Batch { log_max: 9, ..Batch::new(id(99), "a", "x") }).await;
        let log = stage.log("a").await;
        assert!((8..=9).contains(&log.len()));
        assert_eq!(stage.log_since(log[0].first_seq - 1, 5).await.1, log);
        assert_eq!(stage.log_since(log[0].first_seq, 5).await.1, log);
        assert_eq!(stage.log_since(log[1].first_seq, 0).await.1, log[1..]);
        // A log expires before its head.
        stage.redis.command(&["DEL", "log:a"]).await;
        assert_eq!(stage.log_since(last, 5).await, (last + 1, vec![]));
        // A head that is gone says nothing of the numbers of the log.
        stage.published(&Batch::new(id(100), "a", "x")).await;
        stage.redis.command(&["DEL", "head:a"]).await;
        assert_eq!(items(stage.run(&read_log_since("a", last, 9)).await), vec![Reply::Nil; 4]);
    })
    .await;
}
