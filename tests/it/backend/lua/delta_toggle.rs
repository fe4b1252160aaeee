//! `switch_deltas`, and the delta toggle in the replies to membership updates.

use fanfare::entry::Body;

use super::calls::{Batch, NODES, Update, open_epoch, switch};
use super::stage::{Stage, id};
use crate::support::bounded;

impl Stage {
    /// The toggle in the reply to a membership update.
    async fn deltas_are_off(&mut self, channel: &str) -> bool {
        self.update(&Update::new(channel, NODES[0], 1)).await.deltas_off
    }

    async fn switches(&mut self, on: bool) -> bool {
        self.run_integer(&switch("a", on)).await == 1
    }
}

#[tokio::test]
async fn delta_toggle_is_published_once() {
    bounded(async {
        let mut stage = Stage::start().await;
        assert!(!stage.switches(false).await, "a channel without entries");
        assert_eq!(stage.keys().await, [""; 0]);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.messages().await;
        let first = stage.head("a", "seq").await;
        for (on, changes) in
            [(true, false), (false, true), (false, false), (true, true), (true, false), (false, true)]
        {
            assert_eq!(stage.switches(on).await, changes);
            let expected = if changes { vec![Body::Deltas { on }] } else { vec![] };
            assert_eq!(stage.bodies().await, expected);
            assert_eq!(stage.deltas_are_off("a").await, !on);
        }
        let log = stage.log("a").await;
        assert_eq!((log.len(), log[3].position().seq), (4, first + 3));
        assert_eq!(stage.head("a", "seq").await, first + 3);
        assert_eq!(log[3].prev, log[2].id);
        stage.assert_log_bytes("a").await;
    })
    .await;
}

#[tokio::test]
async fn delta_toggle_is_returned_on_presence_channel() {
    bounded(async {
        let mut stage = Stage::start().await;
        let join = |user| Update::members("presence-a", NODES[0], 1, &[(user, 1)]);
        assert!(!stage.update(&join("ann")).await.deltas_off);
        assert_eq!(stage.run_integer(&switch("presence-a", false)).await, 1);
        assert!(stage.update(&join("bob")).await.deltas_off);
    })
    .await;
}

/// Other entries do not change the toggle; a new epoch begins with deltas enabled.
#[tokio::test]
async fn delta_toggle_lasts_for_an_epoch() {
    bounded(async {
        let mut stage = Stage::start().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        assert!(stage.switches(false).await);
        stage.published(&Batch::new(id(2), "a", "2")).await;
        assert!(stage.deltas_are_off("a").await);
        let epoch = stage.head("a", "epoch").await;
        assert_eq!(stage.run_integer(&open_epoch("a", epoch, 0)).await, 1);
        assert!(!stage.deltas_are_off("a").await, "after a fork");
        assert!(stage.switches(false).await);
        stage.redis.command(&["DEL", "head:a"]).await;
        assert!(!stage.deltas_are_off("a").await, "a channel without a head");
        stage.published(&Batch::new(id(3), "a", "3")).await;
        assert!(!stage.deltas_are_off("a").await);
    })
    .await;
}
