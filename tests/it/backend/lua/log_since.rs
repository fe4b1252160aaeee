//! `read_log_since`: the history after a sequence number that a client has received.

use fanfare::entry::Entry;

use super::calls::{Batch, control_entry, read_log_since};
use super::client::{bulk, items, number};
use super::stage::{Stage, id};
use crate::support::bounded;

const SEEN: u64 = 1 << 31;

impl Stage {
    /// The head's sequence number, and the entries.
    async fn log_since(&mut self, seq: u64, before_max: u64) -> (u64, Vec<Entry>) {
        let mut head = items(self.run(&read_log_since("a", seq, before_max)).await);
        let entries = head.split_off(4);
        let entries = entries.iter().map(|it| Entry::decode(bulk(it).into()).unwrap());
        (number(&head[1]), entries.collect())
    }

    /// Publishes entries of one, two and three events in turn, and a client event.
    async fn published_entries(&mut self, seen_seq: u64) -> Vec<Entry> {
        for n in 0..40 {
            let events: &[&str] = [&["1"][..], &["1", "2"], &["1", "2", "3"]][n % 3];
            let batch = Batch { seen_seq, ..Batch::new(id(n as u64 + 1), "b", "").and("a", events) };
            self.published(&batch).await;
        }
        self.run(&control_entry("a", 2, b"", false, 9)).await;
        self.log("a").await
    }
}

/// Checks the result for each sequence number in the history.
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
async fn log_since_finds_every_sequence_number() {
    bounded(async {
        let mut stage = Stage::start().await;
        let log = stage.published_entries(0).await;
        assert_eq!(log.len(), 41);
        assert_found(&mut stage, &log).await;
    })
    .await;
}

/// Within these entries the low 31 bits wrap.
#[tokio::test]
async fn log_since_finds_every_sequence_number_when_low_bits_wrap() {
    bounded(async {
        let mut stage = Stage::start().await;
        for back in [1, 20, 41] {
            stage.redis.command(&["FLUSHALL"]).await;
            let epoch = (stage.now_us().await / SEEN + 2) * SEEN - back;
            let log = stage.published_entries(epoch).await;
            assert_eq!(log[0].first_seq, epoch + 1);
            assert!(log[0].first_seq % SEEN > log[40].first_seq % SEEN || back == 1);
            assert_found(&mut stage, &log).await;
        }
    })
    .await;
}

/// A number before the history, or one that does not exist, returns the whole history.
#[tokio::test]
async fn log_since_returns_whole_history_when_number_is_outside() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert_eq!(items(stage.run(&read_log_since("a", 7, 9)).await), []);
        let whole = stage.published_entries(0).await;
        let last = whole[40].position().seq;
        for seq in [whole[0].first_seq - 1, last + 1, last + 1_000_000, last + SEEN / 2] {
            assert_eq!(stage.log_since(seq, 1).await, (last, whole.clone()), "since {seq}");
        }
        // A number before the trimmed history.
        stage.published(&Batch { log_max: 9, ..Batch::new(id(99), "a", "x") }).await;
        let log = stage.log("a").await;
        assert!((8..=9).contains(&log.len()));
        assert_eq!(stage.log_since(log[0].first_seq - 1, 5).await.1, log);
        assert_eq!(stage.log_since(log[0].first_seq, 5).await.1, log);
        assert_eq!(stage.log_since(log[1].first_seq, 0).await.1, log[1..]);
        // The history expires before its head.
        stage.redis.command(&["DEL", "log:a"]).await;
        assert_eq!(stage.log_since(last, 5).await, (last + 1, vec![]));
        // Without a head, the numbers of the history have no meaning.
        stage.published(&Batch::new(id(100), "a", "x")).await;
        stage.redis.command(&["DEL", "head:a"]).await;
        assert_eq!(items(stage.run(&read_log_since("a", last, 9)).await), []);
    })
    .await;
}
