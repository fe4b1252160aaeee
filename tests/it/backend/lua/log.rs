//! A channel's history and head: bounds, expiry, reads, epochs.

use fanfare::entry::{Entry, EntryId};

use super::calls::{Batch, NODES, Update, open_epoch, read_log, rules};
use super::client::{items, number};
use super::stage::{Stage, id};
use crate::support::resp::Reply;
use crate::support::{bounded, events_of};

#[track_caller]
pub fn data(entry: &Entry) -> Vec<String> {
    let events = events_of(entry);
    events.into_iter().map(|event| String::from_utf8(event.data.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn history_is_bounded_by_count() {
    bounded(async {
        let mut stage = Stage::start().await;
        for n in 1..=3_000 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        assert_eq!(stage.log("a").await.len(), 3_000);
        // One entry above the limit: the oldest eighth is removed.
        stage.published(&Batch::new(id(3_001), "a", "3001")).await;
        let log = stage.log("a").await;
        assert_eq!(log.len(), 3_001 - 376);
        assert_eq!((data(&log[0]), data(&log[2_624])), (vec!["377".into()], vec!["3001".into()]));
        stage.assert_log_bytes("a").await;
        assert_eq!(stage.head("a", "log_from").await, log[0].time_ms);
    })
    .await;
}

#[tokio::test]
async fn history_is_bounded_by_bytes() {
    bounded(async {
        let mut stage = Stage::start().await;
        let large = "x".repeat(100_000);
        for n in 1..=25 {
            stage.published(&Batch::new(id(n), "a", &large)).await;
            let bytes = stage.assert_log_bytes("a").await;
            assert!(bytes <= 1024 * 1024, "{bytes}");
        }
        assert_eq!(stage.log("a").await.len(), 9, "11 entries exceed the limit, and an eighth is 2");
        // A single entry above the limit is kept until the next one.
        stage.published(&Batch::new(id(26), "a", &"y".repeat(2_000_000))).await;
        assert_eq!(stage.log("a").await.len(), 1);
        assert!(stage.assert_log_bytes("a").await > 2_000_000);
        stage.published(&Batch::new(id(27), "a", "small")).await;
        let log = stage.log("a").await;
        assert_eq!((log.len(), data(&log[0])), (1, vec!["small".into()]));
        stage.assert_log_bytes("a").await;
    })
    .await;
}

#[tokio::test]
async fn history_is_bounded_by_age() {
    bounded(async {
        let mut stage = Stage::start().await;
        let aged = |n: u64| Batch { log_age_ms: 60_000, ..Batch::new(id(n), "a", &n.to_string()) };
        stage.published(&aged(1)).await;
        stage.age("a", 36_000).await;
        stage.published(&aged(2)).await;
        stage.age("a", 36_000).await;
        stage.published(&aged(3)).await;
        assert_eq!(
            stage.log("a").await.len(),
            3,
            "without the first entry, the history does not cover a minute"
        );
        stage.age("a", 36_000).await;
        stage.published(&aged(4)).await;
        let log = stage.log("a").await;
        assert_eq!(
            log.first().map(data),
            Some(vec!["2".into()]),
            "the history covers a minute without the first entry"
        );
        assert_eq!(log.len(), 3);
        stage.assert_log_bytes("a").await;
        assert_eq!(stage.head("a", "log_from").await, log[0].time_ms);
    })
    .await;
}

/// The history of a channel without entries expires before its head.
#[tokio::test]
async fn history_restarts_in_same_epoch_after_expiry() {
    bounded(async {
        let mut stage = Stage::start().await;
        let aged = |n: u64| Batch { log_age_ms: 40, ..Batch::new(id(n), "a", &n.to_string()) };
        for n in 1..=3 {
            stage.published(&aged(2 * n)).await;
            stage.wait_until_expired("log:a").await;
            let (epoch, time) = (stage.head("a", "epoch").await, stage.head("a", "time").await);
            // Long enough for the assertions.
            stage.published(&Batch { log_age_ms: 60_000, ..aged(2 * n + 1) }).await;
            assert_eq!(stage.head("a", "epoch").await, epoch);
            assert_eq!(stage.log("a").await.len(), 1);
            stage.assert_log_bytes("a").await;
            assert_eq!(stage.head("a", "log_from").await, time, "no entries since the last one");
        }
    })
    .await;
}

#[tokio::test]
async fn epoch_restarts_after_head_expiry() {
    bounded(async {
        let mut stage = Stage::start().await;
        let mut last = 0;
        for n in 1..=3 {
            let batch = Batch { head_idle_ms: 100_000, ..Batch::new(id(n), "a", &n.to_string()) };
            stage.published(&batch.and("a2", &["x", "y"])).await;
            let (epoch, seq) = (stage.head("a", "epoch").await, stage.head("a", "seq").await);
            assert!(epoch > last && seq == epoch + 1, "{epoch} {seq} after {last}");
            last = seq;
            let log = stage.log("a").await;
            assert_eq!(
                (log.len(), data(&log[0])),
                (1, vec![n.to_string()]),
                "the previous history is removed"
            );
            assert_eq!(log[0].prev, EntryId::NONE);
            stage.assert_log_bytes("a").await;
            let idle_ms = stage.ttl_ms("head:a").await;
            assert!((1..=100_000).contains(&idle_ms), "the head expires after {idle_ms} ms without entries");
            // The idle time passes.
            stage.client.command(&[b"PEXPIRE", b"head:a", b"1"]).await;
            stage.wait_until_expired("head:a").await;
            assert!(stage.exists("log:a").await, "the history lives longer");
        }
        // A node has received higher sequence numbers than the clock gives.
        let seen_seq = stage.now_us().await + 3_600_000_000;
        stage.published(&Batch { seen_seq, ..Batch::new(id(9), "a", "9") }).await;
        assert_eq!(stage.head("a", "seq").await, seen_seq + 1);
        assert_eq!(stage.log("a").await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn read_log_returns_entries_after_id() {
    bounded(async {
        let mut stage = Stage::start().await;
        let nothing = items(stage.run(&read_log("a", id(1))).await);
        assert_eq!(nothing, vec![Reply::Nil; 4], "neither head nor history");
        for n in 1..=200 {
            stage.published(&Batch::new(id(n), "a", &n.to_string())).await;
        }
        let log = stage.log("a").await;
        let head = log[199].position();
        // Every index of every page; 999 does not exist.
        for after in (1..=200).chain([999]) {
            let mut reply = items(stage.run(&read_log("a", id(after))).await);
            let entries = reply.split_off(4);
            assert_eq!((number(&reply[0]), number(&reply[1])), (head.epoch, head.seq));
            assert_eq!(reply[2], Reply::Bulk(id(200).to_vec()));
            assert_eq!(number(&reply[3]), head.time_ms);
            let from = if after == 999 { 0 } else { after as usize };
            assert_eq!(entries.len(), 200 - from, "after {after}");
            if let Some(entry) = entries.first() {
                assert_eq!(*entry, Reply::Bulk(log[from].encode().to_vec()), "after {after}");
            }
        }
    })
    .await;
}

/// Another Redis process has the data of an earlier one, perhaps without the last entries: numbers
/// that may have been used are not used again, and the entry names its predecessor.
#[tokio::test]
async fn another_process_opens_an_epoch_with_its_first_entry() {
    bounded(async {
        let mut stage = Stage::start().await;
        let counts = rules(&[], true, false);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.published(&Batch::new(id(2), "a", "2")).await;
        let (first, seq) = (stage.head("a", "epoch").await, stage.head("a", "seq").await);
        for (number, run_id) in [(3, "other"), (4, "other"), (5, "third")] {
            stage.published(&Batch { run_id, ..Batch::new(id(number), "a", "x") }).await;
        }
        let log = stage.log("a").await;
        let epochs: Vec<u64> = log.iter().map(|entry| entry.epoch).collect();
        assert!(epochs[0] == first && epochs[1] == first && first < epochs[2], "{epochs:?}");
        assert!(epochs[2] == epochs[3] && epochs[3] < epochs[4], "{epochs:?}");
        assert!(log[2].first_seq == epochs[2] + 1 && epochs[2] > seq, "{log:?}");
        assert_eq!(log[3].first_seq, log[2].first_seq + 1);
        for pair in log.windows(2) {
            assert_eq!(pair[1].prev, pair[0].id);
        }
        // The clock of the other process may be behind, and a node may know later numbers.
        let ahead = epochs[4] + 86_400_000_000;
        stage.redis.command(&["HSET", "head:a", "seq", &ahead.to_string()]).await;
        stage.published(&Batch { run_id: "fourth", ..Batch::new(id(6), "a", "x") }).await;
        assert_eq!(stage.log("a").await[5].first_seq, ahead + 1);
        let seen_seq = ahead + 1_000;
        stage.published(&Batch { run_id: "fifth", seen_seq, ..Batch::new(id(7), "a", "x") }).await;
        assert_eq!(stage.log("a").await[6].first_seq, seen_seq + 1);
        // The history has other entries than counts, of an earlier epoch.
        for count in [1, 0] {
            stage.update(&Update::new("a", NODES[0], count).with(&counts)).await;
        }
        assert!(stage.exists("head:a").await);
    })
    .await;
}

#[tokio::test]
async fn open_epoch_continues_above_received_sequence_numbers_once() {
    bounded(async {
        let mut stage = Stage::start().await;
        let reply = stage.run(&open_epoch("a", 0, 5)).await;
        assert_eq!(reply.integer(), 0, "there is no head");
        assert!(!stage.exists("head:a").await);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        let (first, now) = (stage.head("a", "epoch").await, stage.now_us().await);
        let mut open = async |epoch: u64, seen: u64| stage.run_integer(&open_epoch("a", epoch, seen)).await;
        assert_eq!(open(first + 1, 0).await, 0, "the channel is in another epoch");
        assert_eq!(open(first, 0).await, 1);
        assert_eq!(open(first, u64::MAX >> 12).await, 0, "the epoch is open already");
        let second = stage.head("a", "epoch").await;
        assert!(second >= now && stage.head("a", "seq").await == second, "{second}");
        // Far above the clock; not formatted as 1.7e+15.
        let seen = second + 86_400_000_000;
        assert_eq!(stage.run_integer(&open_epoch("a", second, seen)).await, 1);
        assert_eq!((stage.head("a", "epoch").await, stage.head("a", "seq").await), (seen, seen));
        // The next event continues from there, with the id of the previous entry.
        stage.published(&Batch::new(id(2), "a", "2")).await;
        let log = stage.log("a").await;
        assert_eq!((log[1].epoch, log[1].first_seq, log[1].prev), (seen, seen + 1, log[0].id));
    })
    .await;
}
