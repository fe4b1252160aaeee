//! `publish_batch`: sequence numbers, history, published entries, counts.

use fanfare::entry::EntryId;

use super::calls::{Batch, NODES, Update};
use super::log::data;
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn publish_batch_numbers_stores_and_publishes_entries() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.total("a", NODES[0], 2).await;
        stage.total("a", NODES[1], 5).await;
        let before = stage.now_us().await;
        let first = Batch::new(id(1), "a", "1").and("b", &["2", "3"]).wanting_counts();
        assert_eq!(stage.published(&first).await, [7, 0, 0, 0]);
        let second = Batch::new(id(2), "b", "4").and("a", &["5", "6", "7"]);
        assert_eq!(stage.published(&second).await, [0_i64; 0]);

        let messages = stage.messages().await;
        let topics: Vec<&str> = messages.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(topics, ["log:a", "log:b", "log:b", "log:a"], "in the order of the batch");
        for (channel, at, expected) in
            [("a", [0, 3], [vec!["1"], vec!["5", "6", "7"]]), ("b", [1, 2], [vec!["2", "3"], vec!["4"]])]
        {
            let log = stage.log(channel).await;
            for n in 0..2 {
                let published = &messages[at[n]].1;
                assert_eq!(&log[n].encode(), published, "the history has the same bytes");
                assert_eq!(data(&log[n]), expected[n]);
                assert_eq!(log[n].id.as_bytes(), id(n as u64 + 1));
            }
            let epoch = stage.head(channel, "epoch").await;
            assert!(epoch >= before && epoch < 1 << 53, "{epoch} is Redis's time in µs");
            assert_eq!((log[0].epoch, log[0].first_seq), (epoch, epoch + 1));
            assert_eq!(log[0].prev, EntryId::NONE);
            assert_eq!((log[1].epoch, log[1].prev), (epoch, log[0].id));
            assert_eq!(log[1].first_seq, log[0].first_seq + u64::from(log[0].count), "no gap");
            assert_eq!(stage.head(channel, "seq").await, log[1].position().seq);
            assert_eq!(stage.head(channel, "time").await, log[1].time_ms);
            stage.assert_log_bytes(channel).await;
        }
    })
    .await;
}

/// Each channel has its own counts, and only the requested ones are returned.
#[tokio::test]
async fn publish_batch_returns_requested_counts() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.total("a", NODES[0], 3).await;
        stage.update(&Update::members("presence-a", NODES[0], 4, &[("ann", 3), ("bob", 1)])).await;
        stage.update(&Update::members("presence-a", NODES[1], 2, &[("ann", 2)])).await;
        let batch = Batch::new(id(1), "presence-a", "1").and("empty", &["1"]).and("a", &["1", "2"]);
        assert_eq!(stage.published(&batch.clone().wanting_counts()).await, [6, 2, 0, 0, 3, 0]);
        let some = Batch::new(id(2), "a", "1").wanting_counts().and("presence-a", &["1"]);
        assert_eq!(stage.published(&some).await, [3, 0]);
    })
    .await;
}
