//! The last event of a cache channel: stored by `publish_batch`, returned to new subscribers and by
//! `read_cached`. A cache miss is reported once.

use fanfare::event::{decode_events, encode_events};

use super::answers::Last;
use super::calls::{Batch, NODES, Update, control_entry, event, read_cached, rules};
use super::stage::{Stage, id};
use crate::support::bounded;

const CHANNEL: &str = "cache-a";

fn join(count: u64) -> Update {
    Update::new(CHANNEL, NODES[0], count).with(&rules(&["cache_miss"], true, false)).wanting_last()
}

fn join_presence(user: &str, node: &'static str) -> Update {
    let update = Update::members("presence-cache-a", node, 1, &[(user, 1)]);
    update.with(&rules(&["cache_miss"], false, false)).wanting_last()
}

impl Stage {
    async fn read_cached(&mut self, channel: &str) -> Option<Last> {
        Last::of(self.run(&read_cached(channel)).await)
    }
}

#[tokio::test]
async fn cached_event_is_stored_by_publish() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert_eq!(stage.read_cached(CHANNEL).await, None, "nothing has been published");
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
        // Client events are not cached.
        let client_event = encode_events([&event("moved")]);
        stage.run(&control_entry("cache-b", 2, &client_event, false, 1)).await;
        let cached = stage.read_cached("cache-b").await.unwrap();
        assert_eq!(decode_events(cached.event.into(), 1), Ok(vec![event(&large)]));
        // The next event replaces it.
        stage.published(&Batch::new(id(2), "cache-b", "next").cached(60_000)).await;
        let next = stage.read_cached("cache-b").await.unwrap();
        assert_eq!(decode_events(next.event.into(), 1), Ok(vec![event("next")]));
        assert!(next.ttl_ms <= 60_000 && next.seq > last.seq);
        assert_eq!(stage.read_cached(CHANNEL).await.unwrap().event, encode_events([&event("0")]));
    })
    .await;
}

/// The head, which contains the event, lives at least as long, also after other entries.
#[tokio::test]
async fn head_outlives_cached_event() {
    bounded(async {
        let mut stage = Stage::start().await;
        let (long, idle) = (50_000_000, 3_600_000);
        let head = format!("head:{CHANNEL}");
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(long)).await;
        assert!(stage.ttl_ms(&head).await > 49_000_000);
        stage.run(&control_entry(CHANNEL, 6, b"", false, 1)).await;
        stage.update(&join(1)).await;
        assert!(stage.ttl_ms(&head).await > 49_000_000, "after other entries");
        assert_eq!(stage.bodies().await.len(), 3);
        // A shorter time to live than the idle time of the head does not shorten it.
        stage.published(&Batch::new(id(2), CHANNEL, "2").cached(1_000)).await;
        let ttl = stage.ttl_ms(&head).await;
        assert!((idle / 2..=idle).contains(&ttl), "{ttl}");
    })
    .await;
}

#[tokio::test]
async fn cached_event_expires() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(20)).await;
        stage.wait_ms(25).await;
        assert_eq!(stage.read_cached(CHANNEL).await, None);
        let joined = stage.update(&join(1)).await;
        assert_eq!(joined.last, None);
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"]);
    })
    .await;
}

#[tokio::test]
async fn new_subscriber_receives_cached_event() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(60_000)).await;
        let seq = stage.head(CHANNEL, "seq").await;
        let joined = stage.update(&join(1)).await;
        let last = joined.last.unwrap();
        assert_eq!((last.seq, last.event), (seq, encode_events([&event("1")]).to_vec()));
        assert!((30_000..=60_000).contains(&last.ttl_ms));
        assert!(joined.at.unwrap().seq > seq, "the event precedes the count entry");
        // Without `wants_last` the event is not returned.
        let unrequested = Update { wants_last: false, ..join(2) };
        assert_eq!(stage.update(&unrequested).await.last, None);
        assert_eq!(stage.webhook_events().await, [""; 0]);
        // On a presence channel too.
        stage.published(&Batch::new(id(2), "presence-cache-a", "2").cached(60_000)).await;
        let joined = stage.update(&join_presence("ann", NODES[0])).await;
        assert_eq!(joined.last.unwrap().event, encode_events([&event("2")]));
    })
    .await;
}

/// Count and member entries in between are not cached.
#[tokio::test]
async fn cache_miss_is_reported_once_per_published_event() {
    bounded(async {
        let mut stage = Stage::start().await;
        for count in 1..=3 {
            assert_eq!(stage.update(&join(count)).await.last, None);
        }
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"]);
        stage.published(&Batch::new(id(1), CHANNEL, "1").cached(20)).await;
        stage.wait_ms(25).await;
        for count in 4..=6 {
            stage.update(&join(count)).await;
            stage.run(&control_entry(CHANNEL, 6, b"", false, 1)).await;
        }
        assert_eq!(stage.webhook_events().await, ["cache_miss 1:cache-a"; 2], "once more after an event");
        for (user, node) in [("ann", NODES[0]), ("bob", NODES[1]), ("eve", NODES[2])] {
            stage.update(&join_presence(user, node)).await;
        }
        assert_eq!(stage.webhook_events().await[2..], ["cache_miss 1:presence-cache-a"]);
    })
    .await;
}

#[tokio::test]
async fn cache_miss_is_reported_only_with_webhook() {
    bounded(async {
        let mut stage = Stage::start().await;
        let other_events = rules(&["channel_vacated", "client_event"], false, false);
        stage.update(&join(1).with(&other_events)).await;
        // The only subscriber was refused.
        let refused = Update { members_max: 0, ..join_presence("ann", NODES[0]) };
        assert_eq!(stage.update(&refused).await.refused, [0]);
        assert_eq!(stage.webhook_events().await, [""; 0]);
        assert!(!stage.exists("subs:presence-cache-a").await);
    })
    .await;
}
