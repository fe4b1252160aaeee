//! The newest event of each chain, kept by `publish_batch` for who joins later.

use fanfare::event::encode_events;

use super::calls::{Batch, keyed, open_epoch, signal};
use super::client::{bulk, items, number};
use super::stage::{Stage, id};
use crate::support::bounded;

/// A chain's key, the number of its newest event and the event's data.
type Kept = (String, u64, String);

fn kept(key: &str, seq: u64, data: &str) -> Kept {
    (key.to_owned(), seq, data.to_owned())
}

impl Stage {
    /// Oldest first. Both keys say the same, and the values are whole.
    async fn bases(&mut self, channel: &str) -> Vec<Kept> {
        let (bases, order) = (format!("bases:{channel}"), format!("base_order:{channel}"));
        let pairs =
            items(self.client.command(&[b"ZRANGE", order.as_bytes(), b"0", b"-1", b"WITHSCORES"]).await);
        let count = self.client.command(&[b"HLEN", bases.as_bytes()]).await.integer();
        assert_eq!(count as usize, pairs.len() / 2, "{pairs:?}");
        let mut kept = Vec::new();
        for pair in pairs.chunks(2) {
            let (key, seq) = (pair[0].text(), number(&pair[1]));
            let value = bulk(&self.client.command(&[b"HGET", bases.as_bytes(), key.as_bytes()]).await);
            assert_eq!(value[..8], seq.to_be_bytes(), "{key}");
            let event = fanfare::event::decode_events(value[16..].to_vec().into(), 1).unwrap().remove(0);
            assert_eq!(event.key.as_deref(), Some(key.as_bytes()));
            let data = String::from_utf8(event.data.to_vec()).unwrap();
            assert_eq!(value[16..], encode_events([&keyed(&key, &data)]), "nothing else is in it");
            kept.push((key, seq, data));
        }
        kept
    }

    async fn seq(&mut self, channel: &str) -> u64 {
        self.head(channel, "seq").await
    }
}

#[tokio::test]
async fn the_newest_event_of_each_chain_is_kept() {
    bounded(async {
        let mut stage = Stage::set().await;
        let large = "x".repeat(10_000);
        let events = [("A", "1"), ("B", &*large), ("", "alone"), ("A", "2")];
        stage.published(&Batch::of_chains(id(1), "a", 9, &events)).await;
        let last = stage.seq("a").await;
        let expected = [kept("B", last - 2, &large), kept("", last - 1, "alone"), kept("A", last, "2")];
        assert_eq!(stage.bases("a").await, expected);
        let time = bulk(&stage.client.command(&[b"HGET", b"bases:a", b"A"]).await)[8..16].to_vec();
        assert_eq!(time, stage.head("a", "time").await.to_be_bytes());
        // WebhookEventKind is in no chain, and what is no event, leaves them alone.
        stage.published(&Batch::new(id(2), "a", "in no chain")).await;
        stage.run(&signal("a", 2, b"", false, 9)).await;
        assert_eq!(stage.bases("a").await, expected);
        stage.published(&Batch::of_chains(id(3), "a", 9, &[("B", "3")])).await;
        let now = stage.seq("a").await;
        assert_eq!(
            stage.bases("a").await,
            [kept("", last - 1, "alone"), kept("A", last, "2"), kept("B", now, "3")]
        );
    })
    .await;
}

/// Some channels of a batch have bases, and the app is charged.
#[tokio::test]
async fn each_channel_keeps_its_own() {
    bounded(async {
        let mut stage = Stage::set().await;
        let batch = Batch::of_chains(id(1), "a", 9, &[("A", "1")]).and("b", &["2"]).charged(2, 9, 60_000);
        let ([paid, used, _], _) = stage.publish(&batch).await;
        assert_eq!((paid, used), (1, 2));
        let first = stage.seq("a").await;
        assert_eq!(stage.bases("a").await, [kept("A", first, "1")]);
        assert!(stage.exists("bases:b").await && stage.exists("base_order:b").await);
        let plain = Batch::new(id(2), "c", "1");
        stage.published(&plain).await;
        assert!(!stage.exists("bases:c").await);
        // Who cannot pay has changed nothing.
        let unpaid = Batch::of_chains(id(3), "a", 9, &[("A", "3")]).charged(8, 9, 60_000);
        assert_eq!(stage.publish(&unpaid).await.0[0], 0);
        assert_eq!(stage.bases("a").await, [kept("A", first, "1")]);
    })
    .await;
}

#[tokio::test]
async fn the_chains_that_were_silent_longest_go() {
    bounded(async {
        let mut stage = Stage::set().await;
        let chains = |n, keys_max, events: &[(&str, &str)]| Batch::of_chains(id(n), "a", keys_max, events);
        stage.published(&chains(1, 3, &[("A", "1"), ("B", "1"), ("C", "1")])).await;
        let first = stage.seq("a").await - 2;
        stage.published(&chains(2, 3, &[("A", "2")])).await;
        stage.published(&chains(3, 3, &[("D", "1")])).await;
        let left = [kept("C", first + 2, "1"), kept("A", first + 3, "2"), kept("D", first + 4, "1")];
        assert_eq!(stage.bases("a").await, left);
        // Fewer are allowed than there are.
        stage.published(&chains(4, 2, &[("C", "2")])).await;
        assert_eq!(stage.bases("a").await, [kept("D", first + 4, "1"), kept("C", first + 5, "2")]);
    })
    .await;
}

/// More than Lua could unpack.
#[tokio::test]
async fn ten_thousand_chains_come_and_go() {
    bounded(async {
        let mut stage = Stage::set().await;
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
        assert_eq!(stage.bases("a").await, [kept("last", last, "1")]);
    })
    .await;
}

/// So many that Redis' clock moves on while they are written.
#[tokio::test]
async fn they_live_as_long_as_the_head() {
    bounded(async {
        let mut stage = Stage::set().await;
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
async fn a_new_epoch_begins_without_them() {
    bounded(async {
        let mut stage = Stage::set().await;
        let chain = |n, key| Batch::of_chains(id(n), "a", 9, &[(key, "1")]);
        stage.published(&chain(1, "A")).await;
        // As if the head alone had been lost.
        stage.redis.command(&["DEL", "head:a"]).await;
        stage.published(&chain(2, "B")).await;
        let seq = stage.seq("a").await;
        assert_eq!(stage.bases("a").await, [kept("B", seq, "1")]);
        // After a fork.
        let epoch = stage.head("a", "epoch").await;
        assert_eq!(stage.run_integer(&open_epoch("a", epoch + 1, 0)).await, 0);
        assert_eq!(stage.bases("a").await.len(), 1, "it is in another epoch");
        assert_eq!(stage.run_integer(&open_epoch("a", epoch, 0)).await, 1);
        assert!(!stage.exists("bases:a").await && !stage.exists("base_order:a").await);
    })
    .await;
}

#[tokio::test]
async fn a_resend_keeps_what_is_right() {
    bounded(async {
        let mut stage = Stage::set().await;
        let first = Batch::of_chains(id(1), "a", 9, &[("A", "1")]);
        stage.published(&first).await;
        stage.published(&Batch::of_chains(id(2), "a", 9, &[("A", "2")])).await;
        let seq = stage.seq("a").await;
        stage.published(&first.resent(0)).await;
        assert_eq!(stage.bases("a").await, [kept("A", seq, "2")], "it was applied before the second");
        stage.pass_ms(30).await;
        let lost = Batch::of_chains(id(3), "a", 9, &[("A", "3")]);
        stage.published(&lost.clone().resent(20)).await;
        stage.published(&lost).await;
        assert_eq!(stage.bases("a").await, [kept("A", seq + 1, "3")]);
        assert_eq!(stage.seq("a").await, seq + 1);
    })
    .await;
}
