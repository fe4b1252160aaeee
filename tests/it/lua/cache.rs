//! The last event of a cache channel: kept by `publish_batch`, returned to who
//! joins and by `read_cached`, missed once.

use fanfare::event::{decode_events, encode_events};

use super::answers::Last;
use super::calls::{Assert, Batch, NODES, event, read_cached, rules, signal};
use super::stage::{Stage, id};
use crate::support::bounded;

const CHANNEL: &str = "cache-a";

fn join(count: u64) -> Assert {
    Assert::new(CHANNEL, NODES[0], count).with(&rules(&["cache_miss"], true, false)).wanting_last()
}

fn joins_presence(user: &str, node: &'static str) -> Assert {
    let assert = Assert::members("presence-cache-a", node, 1, &[(user, 1)]);
    assert.with(&rules(&["cache_miss"], false, false)).wanting_last()
}

impl Stage {
    async fn read_cached(&mut self, channel: &str) -> Option<Last> {
        Last::of(self.run(&read_cached(channel)).await)
    }
}

#[tokio::test]
async fn the_last_event_is_kept() {
    bounded(async {
        let mut stage = Stage::set().await;
        assert_eq!(stage.read_cached(CHANNEL).await, None, "nothing was ever published");
        let large = "x".repeat(10_000);
        let batch = Batch::new(id(1), CHANNEL, "0").and("cache-b", &["1", "two", &large]).cached(5_000_000);
        stage.published(&batch).await;
        let last = stage.read_cached("cache-b").await.unwrap();
        assert_eq!(decode_events(last.event.into(), 1), Ok(vec![event(&large)]));
        assert_eq!(
            (last.seq, last.time_ms),
            (stage.head("cache-b", "seq").await, stage.head("cache-b", "time").await)
        );
        assert!((4_900_000..=5_000_000).contains(&last.ttl_ms), "{}", last.ttl_ms);
        // Client events come and go.
        let client_event = encode_events([&event("moved")]);
        stage.run(&signal("cache-b", 2, &client_event, false, 1)).await;
        let kept = stage.read_cached("cache-b").await.unwrap();
        assert_eq!(decode_events(kept.event.into(), 1), Ok(vec![event(&large)]));
        // The next one takes its place.
        stage.published(&Batch::new(id(2), "cache-b", "next").cached(60_000)).await;
        let next = stage.read_cached("cache-b").await.unwrap();
        assert_eq!(decode_events(next.event.into(), 1), Ok(vec![event("next")]));
        assert!(next.ttl_ms <= 60_000 && next.seq > last.seq);
        assert_eq!(stage.read_cached(CHANNEL).await.unwrap().event, encode_events([&event("0")]));
    })
    .await;
}

/// The head, which holds it, lives at least as long, whatever is announced later.
#[tokio::test]
async fn the_head_outlives_the_last_event() {
    bounded(async {
        let mut stage = Stage::set().await;
        let (long, idle) = (50_000_000, 3_600_000);
        let head = format!("head:{CHANNEL}");
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(long)).await;
        assert!(stage.ttl_ms(&head).await > 49_000_000);
        stage.run(&signal(CHANNEL, 6, b"", false, 1)).await;
        stage.assert(&join(1)).await;
        assert!(stage.ttl_ms(&head).await > 49_000_000, "after other entries");
        assert_eq!(stage.said().await.len(), 3);
        // A shorter time than that of silence does not make it shorter.
        stage.published(&Batch::new(id(2), CHANNEL, "2").cached(1_000)).await;
        let ttl = stage.ttl_ms(&head).await;
        assert!((idle / 2..=idle).contains(&ttl), "{ttl}");
    })
    .await;
}

#[tokio::test]
async fn the_last_event_is_forgotten_in_time() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(20)).await;
        stage.pass_ms(25).await;
        assert_eq!(stage.read_cached(CHANNEL).await, None);
        let joined = stage.assert(&join(1)).await;
        assert_eq!(joined.last, None);
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"]);
    })
    .await;
}

#[tokio::test]
async fn who_joins_gets_the_last_event() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(60_000)).await;
        let seq = stage.head(CHANNEL, "seq").await;
        let joined = stage.assert(&join(1)).await;
        let last = joined.last.unwrap();
        assert_eq!((last.seq, last.event), (seq, encode_events([&event("1")]).to_vec()));
        assert!((30_000..=60_000).contains(&last.ttl_ms));
        assert!(joined.at.unwrap().seq > seq, "its number is from before the count");
        // Whoever does not ask is not told.
        let silent = Assert { wants_last: false, ..join(2) };
        assert_eq!(stage.assert(&silent).await.last, None);
        assert_eq!(stage.webhook_events().await, [""; 0]);
        // In a presence channel too.
        stage.published(&Batch::new(id(2), "presence-cache-a", "2").cached(60_000)).await;
        let joined = stage.assert(&joins_presence("ann", NODES[0])).await;
        assert_eq!(joined.last.unwrap().event, encode_events([&event("2")]));
    })
    .await;
}

/// Counts and members are announced meanwhile, which brings no event.
#[tokio::test]
async fn a_miss_is_told_once_until_something_is_published() {
    bounded(async {
        let mut stage = Stage::set().await;
        for count in 1..=3 {
            assert_eq!(stage.assert(&join(count)).await.last, None);
        }
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"]);
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(20)).await;
        stage.pass_ms(25).await;
        for count in 4..=6 {
            stage.assert(&join(count)).await;
            stage.run(&signal(CHANNEL, 6, b"", false, 1)).await;
        }
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"; 2], "once more after an event");
        for (user, node) in [("ann", NODES[0]), ("bob", NODES[1]), ("eve", NODES[2])] {
            stage.assert(&joins_presence(user, node)).await;
        }
        assert_eq!(stage.webhook_events().await[2..], ["cache_miss 1:presence-cache-a"]);
    })
    .await;
}

#[tokio::test]
async fn a_miss_is_told_only_to_who_wants_to_hear_of_it() {
    bounded(async {
        let mut stage = Stage::set().await;
        let all_but = rules(&["channel_vacated", "client_event"], false, false);
        stage.assert(&join(1).with(&all_but)).await;
        // Nobody was let in.
        let refused = Assert { members_max: 0, ..joins_presence("ann", NODES[0]) };
        assert_eq!(stage.assert(&refused).await.refused, [0]);
        assert_eq!(stage.webhook_events().await, [""; 0]);
        assert!(!stage.exists("subs:presence-cache-a").await);
    })
    .await;
}
