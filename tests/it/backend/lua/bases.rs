//! `publish_batch` stores the newest event of each chain for new subscribers.

use fanfare::event::encode_events;

use super::calls::{Batch, control_entry, keyed, open_epoch};
use super::client::{bulk, items, number};
use super::stage::{Stage, id};
use crate::support::bounded;

/// A chain's key, the number of its newest event and the event's data.
type Base = (String, u64, String);

fn base(key: &str, seq: u64, data: &str) -> Base {
    (key.to_owned(), seq, data.to_owned())
}

impl Stage {
    /// Oldest first. Checks that both keys agree, and that the values are complete.
    async fn bases(&mut self, channel: &str) -> Vec<Base> {
        let (bases, order) = (format!("bases:{channel}"), format!("base_order:{channel}"));
        let pairs =
            items(self.client.command(&[b"ZRANGE", order.as_bytes(), b"0", b"-1", b"WITHSCORES"]).await);
        let count = self.client.command(&[b"HLEN", bases.as_bytes()]).await.integer();
        assert_eq!(count as usize, pairs.len() / 2, "{pairs:?}");
        let mut stored = Vec::new();
        for pair in pairs.chunks(2) {
            let (key, seq) = (pair[0].text(), number(&pair[1]));
            let value = bulk(&self.client.command(&[b"HGET", bases.as_bytes(), key.as_bytes()]).await);
            assert_eq!(value[..8], seq.to_be_bytes(), "{key}");
            let event = fanfare::event::decode_events(value[16..].to_vec().into(), 1).unwrap().remove(0);
            assert_eq!(event.key.as_deref(), Some(key.as_bytes()));
            let data = String::from_utf8(event.data.to_vec()).unwrap();
            assert_eq!(value[16..], encode_events([&keyed(&key, &data)]), "nothing follows the event");
            stored.push((key, seq, data));
        }
        stored
    }

    async fn seq(&mut self, channel: &str) -> u64 {
        self.head(channel, "seq").await
    }
}

#[tokio::test]
async fn bases_store_newest_event_of_each_chain() {
    bounded(async {
        let mut stage = Stage::start().await;
        let large = "x".repeat(10_000);
        let events = [("A", "1"), ("B", &*large), ("", "single"), ("A", "2")];
        stage.published(&Batch::of_chains(id(1), "a", 9, &events)).await;
        let last = stage.seq("a").await;
        let expected = [base("B", last - 2, &large), base("", last - 1, "single"), base("A", last, "2")];
        assert_eq!(stage.bases("a").await, expected);
        let time = bulk(&stage.client.command(&[b"HGET", b"bases:a", b"A"]).await)[8..16].to_vec();
        assert_eq!(time, stage.head("a", "time").await.to_be_bytes());
        // Events in no chain, and control entries, change no base.
        stage.published(&Batch::new(id(2), "a", "in no chain")).await;
        stage.run(&control_entry("a", 2, b"", false, 9)).await;
        assert_eq!(stage.bases("a").await, expected);
        stage.published(&Batch::of_chains(id(3), "a", 9, &[("B", "3")])).await;
        let now = stage.seq("a").await;
        assert_eq!(
            stage.bases("a").await,
            [base("", last - 1, "single"), base("A", last, "2"), base("B", now, "3")]
        );
    })
    .await;
}

/// A batch with a charge and with bases on some of its channels.
#[tokio::test]
async fn bases_are_stored_per_channel() {
    bounded(async {
        let mut stage = Stage::start().await;
        let batch = Batch::of_chains(id(1), "a", 9, &[("A", "1")]).and("b", &["2"]).charged(2, 9, 60_000);
        let ([paid, used, _], _) = stage.publish(&batch).await;
        assert_eq!((paid, used), (1, 2));
        let first = stage.seq("a").await;
        assert_eq!(stage.bases("a").await, [base("A", first, "1")]);
        assert!(stage.exists("bases:b").await && stage.exists("base_order:b").await);
        let plain = Batch::new(id(2), "c", "1");
        stage.published(&plain).await;
        assert!(!stage.exists("bases:c").await);
        // A refused charge changes nothing.
        let unpaid = Batch::of_chains(id(3), "a", 9, &[("A", "3")]).charged(8, 9, 60_000);
        assert_eq!(stage.publish(&unpaid).await.0[0], 0);
        assert_eq!(stage.bases("a").await, [base("A", first, "1")]);
    })
    .await;
}

#[tokio::test]
async fn bases_above_limit_remove_oldest_chains() {
    bounded(async {
        let mut stage = Stage::start().await;
        let chains = |n, keys_max, events: &[(&str, &str)]| Batch::of_chains(id(n), "a", keys_max, events);
        stage.published(&chains(1, 3, &[("A", "1"), ("B", "1"), ("C", "1")])).await;
        let first = stage.seq("a").await - 2;
        stage.published(&chains(2, 3, &[("A", "2")])).await;
        stage.published(&chains(3, 3, &[("D", "1")])).await;
        let left = [base("C", first + 2, "1"), base("A", first + 3, "2"), base("D", first + 4, "1")];
        assert_eq!(stage.bases("a").await, left);
        // A limit below the current number of chains.
        stage.published(&chains(4, 2, &[("C", "2")])).await;
        assert_eq!(stage.bases("a").await, [base("D", first + 4, "1"), base("C", first + 5, "2")]);
    })
    .await;
}

/// More values than Lua can unpack.
#[tokio::test]
async fn bases_of_ten_thousand_chains_are_replaced() {
    bounded(async {
        let mut stage = Stage::start().await;
        let names: Vec<String> = (0..20_000).map(|number| format!("key-{number:05}")).collect();
        for (n, names) in (1..).zip(names.chunks(10_000)) {
            let events: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
            stage.published(&Batch::of_chains(id(n), "a", 10_000, &events)).await;
            let oldest = items(stage.client.command(&[b"ZRANGE", b"base_order:a", b"0", b"0"]).await);
            assert_eq!(oldest[0].text(), names[0]);
            assert_eq!(stage.client.command(&[b"HLEN", b"bases:a"]).await.integer(), 10_000);
        }
        stage.published(&Batch::of_chains(id(9), "a", 1, &[("last", "1")])).await;
        let last = stage.seq("a").await;
        assert_eq!(stage.bases("a").await, [base("last", last, "1")]);
    })
    .await;
}

/// So many that Redis's clock advances while they are written.
#[tokio::test]
async fn bases_expire_with_head() {
    bounded(async {
        let mut stage = Stage::start().await;
        let names: Vec<String> = (0..10_000).map(|number| format!("key-{number:05}")).collect();
        let events: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        let batch = Batch { head_idle_ms: 100_000, ..Batch::of_chains(id(1), "a", 10_000, &events) };
        for batch in [batch.clone(), Batch { id: id(2), ..batch }.cached(900_000)] {
            stage.published(&batch).await;
            let at = async |stage: &mut Stage, key: &str| {
                stage.client.command(&[b"PEXPIRETIME", key.as_bytes()]).await.integer()
            };
            let head = at(&mut stage, "head:a").await;
            assert_eq!(at(&mut stage, "bases:a").await, head);
            assert_eq!(at(&mut stage, "base_order:a").await, head);
        }
    })
    .await;
}

#[tokio::test]
async fn new_epoch_removes_bases() {
    bounded(async {
        let mut stage = Stage::start().await;
        let chain = |n, key| Batch::of_chains(id(n), "a", 9, &[(key, "1")]);
        stage.published(&chain(1, "A")).await;
        // Only the head is lost.
        stage.redis.command(&["DEL", "head:a"]).await;
        stage.published(&chain(2, "B")).await;
        let seq = stage.seq("a").await;
        assert_eq!(stage.bases("a").await, [base("B", seq, "1")]);
        // After a fork.
        let epoch = stage.head("a", "epoch").await;
        assert_eq!(stage.run_integer(&open_epoch("a", epoch + 1, 0)).await, 0);
        assert_eq!(stage.bases("a").await.len(), 1, "the channel is in another epoch");
        assert_eq!(stage.run_integer(&open_epoch("a", epoch, 0)).await, 1);
        assert!(!stage.exists("bases:a").await && !stage.exists("base_order:a").await);
    })
    .await;
}

#[tokio::test]
async fn resend_does_not_restore_older_base() {
    bounded(async {
        let mut stage = Stage::start().await;
        let first = Batch::of_chains(id(1), "a", 9, &[("A", "1")]);
        stage.published(&first).await;
        stage.published(&Batch::of_chains(id(2), "a", 9, &[("A", "2")])).await;
        let seq = stage.seq("a").await;
        stage.published(&first.resent(0)).await;
        assert_eq!(
            stage.bases("a").await,
            [base("A", seq, "2")],
            "the first batch was applied before the second"
        );
        stage.wait_ms(30).await;
        let lost = Batch::of_chains(id(3), "a", 9, &[("A", "3")]);
        stage.published(&lost.clone().resent(20)).await;
        stage.published(&lost).await;
        assert_eq!(stage.bases("a").await, [base("A", seq + 1, "3")]);
        assert_eq!(stage.seq("a").await, seq + 1);
    })
    .await;
}
