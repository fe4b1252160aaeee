//! `renew_node` and `fence_node`.

use std::collections::BTreeMap;

use super::calls::{fence, renew};
use super::client::{items, number};
use super::stage::Stage;
use crate::support::bounded;
use crate::support::resp::Reply;

async fn lists(stage: &mut Stage, node: &str, is_new: bool) -> [BTreeMap<String, u64>; 2] {
    let reply = items(stage.run(&renew(node, is_new)).await);
    let [_, _, key, run_id, seen] = &reply[..] else { panic!("{reply:?}") };
    assert_eq!(key.text(), "key-a");
    assert!(number(seen) >= stage.now_us().await - 60_000_000, "{seen:?}");
    let info = stage.redis.command(&["INFO", "server"]).await.text();
    assert!(info.contains(&format!("run_id:{}", run_id.text())), "{info}");
    let pairs = |list: &Reply| {
        let list = items(list.clone());
        list.chunks(2).map(|pair| (pair[0].text(), number(&pair[1]))).collect()
    };
    [pairs(&reply[0]), pairs(&reply[1])]
}

fn pairs<const N: usize>(pairs: [(&str, u64); N]) -> BTreeMap<String, u64> {
    pairs.into_iter().map(|(node, value)| (node.to_owned(), value)).collect()
}

#[tokio::test]
async fn lease_is_renewed_and_fenced() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.assert_refused(&renew("n1", false), "SWEPT").await;
        assert_eq!(lists(&mut stage, "n1", true).await, [pairs([("n1", 1)]), pairs([])]);
        assert_eq!(lists(&mut stage, "n1", false).await, [pairs([("n1", 2)]), pairs([])]);
        assert_eq!(lists(&mut stage, "n2", true).await, [pairs([("n1", 2), ("n2", 1)]), pairs([])]);
        assert_eq!(stage.run_integer(&fence("n1", "1")).await, 0, "the counter has changed");
        assert_eq!(stage.run_integer(&fence("n3", "1")).await, 0, "the node does not exist");
        assert_eq!(stage.run_integer(&fence("n1", "2")).await, 1);
        assert_eq!(stage.run_integer(&fence("n1", "2")).await, 0, "already fenced");
        stage.assert_refused(&renew("n1", false), "SWEPT").await;
        stage.wait_ms(20).await;
        let [leases, dead] = lists(&mut stage, "n2", false).await;
        assert_eq!(leases, pairs([("n2", 2)]));
        assert_eq!(dead.keys().collect::<Vec<_>>(), ["n1"]);
        assert!((20..10_000).contains(&dead["n1"]), "ms since the fencing: {dead:?}");
    })
    .await;
}

#[tokio::test]
async fn leases_are_renewed_when_memory_is_full() {
    bounded(async {
        let mut stage = Stage::start().await;
        lists(&mut stage, "n1", true).await;
        lists(&mut stage, "n2", true).await;
        stage.set_memory_full(true).await;
        assert_eq!(lists(&mut stage, "n1", false).await[0], pairs([("n1", 2), ("n2", 1)]));
        assert_eq!(lists(&mut stage, "n3", true).await[0], pairs([("n1", 2), ("n2", 1), ("n3", 1)]));
        assert_eq!(stage.run_integer(&fence("n2", "1")).await, 1);
        let [leases, dead] = lists(&mut stage, "n1", false).await;
        assert_eq!(leases, pairs([("n1", 3), ("n3", 1)]));
        assert!(dead.contains_key("n2"));
        stage.assert_refused(&renew("n2", false), "SWEPT").await;
    })
    .await;
}
