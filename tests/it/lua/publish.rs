//! `publish_batch`: numbers, the log, what is announced, what is counted.

use fanfare::entry::EntryId;

use super::calls::{Assert, Batch, NODES};
use super::log::data;
use super::stage::{Stage, id};
use crate::support::bounded;

#[tokio::test]
async fn publish_batch_numbers_remembers_and_announces() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.total("a", NODES[0], 2).await;
        stage.total("a", NODES[1], 5).await;
        let before = stage.now_us().await;
        let first = Batch::new(id(1), "a", "1").and("b", &["2", "3"]).wanting_counts();
        assert_eq!(stage.published(&first).await, [7, 0, 0, 0]);
        let second = Batch::new(id(2), "b", "4").and("a", &["5", "6", "7"]);
        assert_eq!(stage.published(&second).await, [0_i64; 0]);

        let heard = stage.heard().await;
        let topics: Vec<&str> = heard.iter().map(|(topic, _)| topic.as_str()).collect();
        assert_eq!(topics, ["log:a", "log:b", "log:b", "log:a"], "in their order");
        for (channel, at, expected) in
            [("a", [0, 3], [vec!["1"], vec!["5", "6", "7"]]), ("b", [1, 2], [vec!["2", "3"], vec!["4"]])]
        {
            let log = stage.log(channel).await;
            for n in 0..2 {
                let announced = &heard[at[n]].1;
                assert_eq!(&log[n].encode(), announced, "the log holds the very bytes");
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

/// Each channel has its own counts, and only those that are asked for.
#[tokio::test]
async fn subscriptions_and_users_are_returned() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.total("a", NODES[0], 3).await;
        stage.assert(&Assert::members("presence-a", NODES[0], 4, &[("ann", 3), ("bob", 1)])).await;
        stage.assert(&Assert::members("presence-a", NODES[1], 2, &[("ann", 2)])).await;
        let batch = Batch::new(id(1), "presence-a", "1").and("nobody", &["1"]).and("a", &["1", "2"]);
        assert_eq!(stage.published(&batch.clone().wanting_counts()).await, [6, 2, 0, 0, 3, 0]);
        let some = Batch::new(id(2), "a", "1").wanting_counts().and("presence-a", &["1"]);
        assert_eq!(stage.published(&some).await, [3, 0]);
    })
    .await;
}
