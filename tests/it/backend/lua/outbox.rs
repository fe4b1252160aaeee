//! A partition's webhook outbox: claims, pages, and events dropped from a full outbox.

use super::calls::{Call, N1, N2, Update, claim, control_entry, rules, settle};
use super::client::{items, number};
use super::stage::Stage;
use crate::support::bounded;
use crate::support::resp::Reply;

/// The reply to a claim.
#[derive(Debug, PartialEq, Eq)]
struct Claimed {
    /// Ids of webhook events.
    ids: Vec<String>,
    due: Vec<String>,
    dropped: i64,
}

impl Stage {
    /// `None` while another node has a claim.
    async fn claim(&mut self, node: &str, lease_ms: u64, after: &str, count_max: u64) -> Option<Claimed> {
        let reply = match self.run(&claim(node, lease_ms, after, count_max)).await {
            Reply::Nil => return None,
            reply => items(reply),
        };
        let [webhook_events, due, dropped] = reply.try_into().unwrap();
        let ids =
            items(webhook_events).into_iter().map(|webhook_event| items(webhook_event)[0].text()).collect();
        Some(Claimed { ids, due: items(due).iter().map(Reply::text).collect(), dropped: dropped.integer() })
    }

    async fn claims(&mut self, node: &str, lease_ms: u64) -> bool {
        self.claim(node, lease_ms, "-", 10).await.is_some()
    }

    async fn claimed_until_ms(&mut self) -> u64 {
        number(&self.client.command(&[b"HGET", b"consumer", b"until"]).await)
    }
}

fn occupied(channel: &str, outbox_max: u64) -> Call {
    let update = Update::new(channel, N1, 1).with(&rules(&["channel_occupied"], false, false));
    Update { outbox_max, ..update }.call()
}

#[tokio::test]
async fn outbox_claim_excludes_other_nodes_until_it_expires() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert!(
            stage.claims(N1, 60_000).await && stage.claims(N2, 60_000).await,
            "an empty outbox is not claimed"
        );
        stage.run(&occupied("a", 10)).await;
        assert!(stage.claims(N1, 60_000).await);
        assert!(!stage.claims(N2, 60_000).await);
        let until_ms = stage.claimed_until_ms().await;
        stage.wait_ms(5).await;
        assert!(stage.claims(N1, 60_000).await, "the claim is renewed");
        let renewed_ms = stage.claimed_until_ms().await;
        let now_ms = stage.now_us().await / 1_000;
        assert!(renewed_ms > until_ms && (30_000..=60_000).contains(&(renewed_ms - now_ms)), "{renewed_ms}");
        assert!(!stage.claims(N2, 60_000).await);
        // The claim expires.
        stage.redis.command(&["HSET", "consumer", "until", &now_ms.to_string()]).await;
        assert!(stage.claims(N2, 60_000).await, "the claim has expired");
        assert!(!stage.claims(N1, 60_000).await);
    })
    .await;
}

#[tokio::test]
async fn outbox_claim_is_released_by_its_holder() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.run(&occupied("a", 10)).await;
        stage.claims(N1, 60_000).await;
        assert_eq!(stage.claim(N2, 0, "-", 0).await, None, "the claim of another node");
        assert!(!stage.claims(N2, 60_000).await);
        let released = Claimed { ids: vec![], due: vec![], dropped: 0 };
        assert_eq!(stage.claim(N1, 0, "-", 0).await, Some(released));
        assert!(!stage.exists("consumer").await);
        assert!(stage.claims(N2, 60_000).await);
    })
    .await;
}

#[tokio::test]
async fn outbox_is_read_in_pages() {
    bounded(async {
        let mut stage = Stage::start().await;
        let nothing = Claimed { ids: vec![], due: vec![], dropped: 0 };
        assert_eq!(stage.claim(N1, 60_000, "-", 3).await, Some(nothing));
        for number in 0..7 {
            stage.run(&occupied(&number.to_string(), 10)).await;
        }
        let (mut after, mut pages) = ("-".to_owned(), Vec::new());
        loop {
            let page = stage.claim(N1, 60_000, &after, 3).await.unwrap().ids;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            pages.push(page);
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        let mut ids = pages.concat();
        ids.dedup();
        assert_eq!(ids.len(), 7);
        // Reading removes nothing; a claim may be renewed without reading.
        assert_eq!(stage.claim(N1, 60_000, "-", 100).await.unwrap().ids, ids);
        assert_eq!(stage.claim(N1, 60_000, "-", 0).await.unwrap().ids, [""; 0]);
    })
    .await;
}

#[tokio::test]
async fn due_transitions_are_read_when_due() {
    bounded(async {
        let mut stage = Stage::start().await;
        let now_ms = stage.now_us().await / 1_000;
        for (transition, at_ms) in
            [("vacated 1:b", now_ms - 1), ("count 1:a", now_ms - 2), ("later", now_ms + 60_000)]
        {
            stage.redis.command(&["ZADD", "due", &at_ms.to_string(), transition]).await;
        }
        assert_eq!(stage.claim(N1, 60_000, "-", 10).await.unwrap().due, ["count 1:a", "vacated 1:b"]);
        assert_eq!(
            stage.claim(N1, 60_000, "-", 0).await.unwrap().due.len(),
            2,
            "also without reading events"
        );
    })
    .await;
}

/// Every script that appends webhook events.
#[tokio::test]
async fn full_outbox_drops_and_counts_webhook_events() {
    bounded(async {
        let mut stage = Stage::start().await;
        for channel in ["a", "b", "c"] {
            stage.run(&occupied(channel, 2)).await;
        }
        assert_eq!(stage.webhook_events().await, ["channel_occupied 1:a", "channel_occupied 1:b"]);
        stage.run(&control_entry("a", 2, b"", true, 2)).await;
        let member = Update::members("presence-a", N1, 1, &[("ann", 1)]);
        let member = Update { outbox_max: 2, ..member.with(&rules(&["member_added"], false, false)) };
        stage.update(&member).await;
        stage.redis.command(&["ZADD", "due", "1", "vacated 1:d"]).await;
        stage.run(&settle("d", "vacated 1:d", 2)).await;
        assert_eq!(stage.webhook_events().await.len(), 2);
        let claimed = stage.claim(N1, 60_000, "-", 10).await.unwrap();
        assert_eq!((claimed.ids.len(), claimed.dropped), (2, 4));
        // The number is returned once. Each removal frees capacity for one event.
        assert_eq!(stage.claim(N1, 60_000, "-", 10).await.unwrap().dropped, 0);
        stage.redis.command(&["XDEL", "outbox", &claimed.ids[0]]).await;
        stage.run(&occupied("e", 2)).await;
        stage.run(&occupied("f", 2)).await;
        let left = stage.claim(N1, 60_000, "-", 10).await.unwrap();
        assert_eq!((left.ids.len(), left.dropped), (2, 1));
        assert_eq!(stage.webhook_events().await[1], "channel_occupied 1:e");
    })
    .await;
}
