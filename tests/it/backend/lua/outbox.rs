//! The webhook outboxes of a partition: claims, the index of apps, pages, and events dropped from a
//! full outbox.

use super::calls::{Call, N1, N2, Update, claim, control_entry, read_outbox, rules, settle};
use super::client::{items, number};
use super::stage::Stage;
use crate::support::bounded;
use crate::support::resp::Reply;

/// The reply to a claim.
#[derive(Debug, PartialEq, Eq)]
struct Claimed {
    apps: Vec<String>,
    /// Apps and numbers of events, alternately.
    dropped: Vec<String>,
}

/// The reply to a read.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    /// Ids of webhook events.
    ids: Vec<String>,
    due: Vec<String>,
}

fn texts(reply: Reply) -> Vec<String> {
    items(reply)
        .iter()
        .map(|item| match item {
            Reply::Integer(number) => number.to_string(),
            item => item.text(),
        })
        .collect()
}

impl Stage {
    /// `None` while another node has a claim.
    async fn claim(&mut self, node: &str, lease_ms: u64, is_new: bool) -> Option<Claimed> {
        let reply = match self.run(&claim(node, lease_ms, is_new)).await {
            Reply::Nil => return None,
            reply => items(reply),
        };
        let [apps, dropped] = reply.try_into().unwrap();
        Some(Claimed { apps: texts(apps), dropped: texts(dropped) })
    }

    async fn claims(&mut self, node: &str, lease_ms: u64) -> bool {
        self.claim(node, lease_ms, false).await.is_some()
    }

    /// The apps to be read, for the node that has the claim.
    async fn apps_to_read(&mut self, node: &str) -> Vec<String> {
        self.claim(node, 60_000, false).await.unwrap().apps
    }

    /// `None` if the node has no claim.
    async fn read(&mut self, node: &str, after: &str, count_max: u64) -> Option<Page> {
        let reply = match self.run(&read_outbox(node, after, count_max)).await {
            Reply::Nil => return None,
            reply => items(reply),
        };
        let [webhook_events, due, now_ms] = reply.try_into().unwrap();
        let now_us = self.now_us().await;
        assert!((now_us - 60_000_000..=now_us).contains(&(number(&now_ms) * 1_000)), "{now_ms:?}");
        let ids =
            items(webhook_events).into_iter().map(|webhook_event| items(webhook_event)[0].text()).collect();
        Some(Page { ids, due: texts(due) })
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
            "empty outboxes are not claimed"
        );
        stage.run(&occupied("a", 10)).await;
        assert!(stage.claims(N1, 60_000).await);
        assert!(!stage.claims(N2, 60_000).await);
        assert!(stage.read(N1, "-", 1).await.is_some());
        assert_eq!(stage.read(N2, "-", 1).await, None);
        let until_ms = stage.claimed_until_ms().await;
        stage.wait_ms(5).await;
        assert!(stage.claims(N1, 60_000).await, "the claim is renewed");
        let renewed_ms = stage.claimed_until_ms().await;
        let now_ms = stage.now_us().await / 1_000;
        assert!(renewed_ms > until_ms && (30_000..=60_000).contains(&(renewed_ms - now_ms)), "{renewed_ms}");
        assert!(!stage.claims(N2, 60_000).await);
        // The claim expires.
        stage.redis.command(&["HSET", "consumer", "until", &now_ms.to_string()]).await;
        assert_eq!(stage.read(N1, "-", 1).await, None);
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
        assert_eq!(stage.claim(N2, 0, false).await, None, "the claim of another node");
        assert!(!stage.claims(N2, 60_000).await);
        let released = Claimed { apps: vec![], dropped: vec![] };
        assert_eq!(stage.claim(N1, 0, false).await, Some(released));
        assert!(!stage.exists("consumer").await);
        assert!(stage.claims(N2, 60_000).await);
    })
    .await;
}

#[tokio::test]
async fn app_is_listed_until_its_outbox_is_read() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.run(&occupied("a", 10)).await;
        assert_eq!(stage.apps_to_read(N1).await, ["1"]);
        assert_eq!(stage.apps_to_read(N1).await, ["1"], "a claim alone reads nothing");
        let page = stage.read(N1, "-", 10).await.unwrap();
        assert_eq!(stage.apps_to_read(N1).await, [""; 0]);
        stage.wait_ms(2).await;
        stage.run(&occupied("b", 10)).await;
        assert_eq!(stage.apps_to_read(N1).await, ["1"], "a new event");
        assert_eq!(stage.read(N1, &page.ids[0], 0).await.unwrap().ids, [""; 0]);
        assert_eq!(stage.apps_to_read(N1).await, [""; 0], "the node has no capacity for it");
        // The next consumer has to read the app again.
        assert_eq!(stage.claim(N1, 60_000, true).await.unwrap().apps, ["1"]);
        stage.read(N1, &page.ids[0], 10).await;
        stage.claim(N1, 0, false).await;
        assert_eq!(stage.apps_to_read(N2).await, ["1"]);
        let ids = stage.read(N2, "-", 10).await.unwrap().ids;
        assert_eq!(ids.len(), 2);
        stage.client.command(&[b"XDEL", b"outbox", ids[0].as_bytes(), ids[1].as_bytes()]).await;
        assert_eq!(stage.read(N2, "-", 10).await.unwrap().ids, [""; 0]);
        assert!(!stage.exists("apps").await, "an app without events leaves the index");
        assert!((3_000_000..=3_600_000).contains(&stage.ttl_ms("outbox").await));
    })
    .await;
}

/// The app that has waited longest comes first.
#[tokio::test]
async fn apps_are_listed_by_time() {
    bounded(async {
        let mut stage = Stage::start().await;
        for (at, app) in [("3", "c"), ("1", "a"), ("+inf", "read"), ("2", "b")] {
            stage.redis.command(&["ZADD", "apps", at, app]).await;
        }
        stage.claim(N1, 60_000, true).await;
        stage.redis.command(&["ZADD", "apps", "+inf", "read"]).await;
        assert_eq!(stage.apps_to_read(N1).await, ["a", "b", "c"]);
        assert_eq!(stage.claim(N1, 60_000, true).await.unwrap().apps, ["a", "b", "c", "read"]);
    })
    .await;
}

#[tokio::test]
async fn outbox_is_read_in_pages() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert_eq!(stage.read(N1, "-", 3).await, None, "nothing is claimed");
        for number in 0..7 {
            stage.run(&occupied(&number.to_string(), 10)).await;
        }
        stage.claims(N1, 60_000).await;
        let (mut after, mut pages) = ("-".to_owned(), Vec::new());
        loop {
            let page = stage.read(N1, &after, 3).await.unwrap().ids;
            assert_eq!(
                stage.apps_to_read(N1).await.len(),
                usize::from(page.len() == 3),
                "listed while there is more"
            );
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            pages.push(page);
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        let mut ids = pages.concat();
        ids.dedup();
        assert_eq!(ids.len(), 7);
        // Reading removes nothing.
        assert_eq!(stage.read(N1, "-", 100).await.unwrap().ids, ids);
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
        stage.redis.command(&["ZADD", "apps", &(now_ms - 2).to_string(), "1"]).await;
        assert_eq!(stage.apps_to_read(N1).await, ["1"]);
        assert_eq!(stage.read(N1, "-", 10).await.unwrap().due, ["count 1:a", "vacated 1:b"]);
        assert_eq!(stage.read(N1, "-", 0).await.unwrap().due.len(), 2, "also without reading events");
        assert_eq!(stage.apps_to_read(N1).await, ["1"], "they are not settled yet");
        stage.redis.command(&["ZREM", "due", "count 1:a", "vacated 1:b"]).await;
        stage.read(N1, "-", 10).await;
        assert_eq!(stage.apps_to_read(N1).await, [""; 0]);
        let next_ms = number(&stage.client.command(&[b"ZSCORE", b"apps", b"1"]).await);
        assert_eq!(next_ms, now_ms + 60_000, "the app is listed again when the next one is due");
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
        assert_eq!(stage.claim(N1, 60_000, false).await.unwrap().dropped, ["1", "4"]);
        // The number is returned once. Each removal frees capacity for one event.
        assert_eq!(stage.claim(N1, 60_000, false).await.unwrap().dropped, [""; 0]);
        let ids = stage.read(N1, "-", 10).await.unwrap().ids;
        stage.redis.command(&["XDEL", "outbox", &ids[0]]).await;
        stage.run(&occupied("e", 2)).await;
        stage.run(&occupied("f", 2)).await;
        assert_eq!(stage.claim(N1, 60_000, false).await.unwrap().dropped, ["1", "1"]);
        assert_eq!(stage.read(N1, "-", 10).await.unwrap().ids.len(), 2);
        assert_eq!(stage.webhook_events().await[1], "channel_occupied 1:e");
    })
    .await;
}
