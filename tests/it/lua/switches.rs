//! `switch_deltas`, and who is told that they are off.

use fanfare::entry::Body;

use super::calls::{Assert, Batch, NODES, open_epoch, switch};
use super::stage::{Stage, id};
use crate::support::bounded;

impl Stage {
    /// As those hear it who join.
    async fn are_off(&mut self, channel: &str) -> bool {
        self.assert(&Assert::new(channel, NODES[0], 1)).await.deltas_off
    }

    async fn switches(&mut self, on: bool) -> bool {
        self.run_integer(&switch("a", on)).await == 1
    }
}

#[tokio::test]
async fn a_switch_is_announced_once() {
    bounded(async {
        let mut stage = Stage::set().await;
        assert!(!stage.switches(false).await, "a channel that has never said anything");
        assert_eq!(stage.keys().await, [""; 0]);
        stage.published(&Batch::new(id(1), "a", "1")).await;
        stage.heard().await;
        let first = stage.head("a", "seq").await;
        for (on, changes) in
            [(true, false), (false, true), (false, false), (true, true), (true, false), (false, true)]
        {
            assert_eq!(stage.switches(on).await, changes);
            let said = if changes { vec![Body::Deltas { on }] } else { vec![] };
            assert_eq!(stage.said().await, said);
            assert_eq!(stage.are_off("a").await, !on);
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
async fn members_are_told_too() {
    bounded(async {
        let mut stage = Stage::set().await;
        let join = |user| Assert::members("presence-a", NODES[0], 1, &[(user, 1)]);
        assert!(!stage.assert(&join("ann")).await.deltas_off);
        assert_eq!(stage.run_integer(&switch("presence-a", false)).await, 1);
        assert!(stage.assert(&join("bob")).await.deltas_off);
    })
    .await;
}

/// Other entries do not change it; a new epoch begins with deltas.
#[tokio::test]
async fn it_holds_for_an_epoch() {
    bounded(async {
        let mut stage = Stage::set().await;
        stage.published(&Batch::new(id(1), "a", "1")).await;
        assert!(stage.switches(false).await);
        stage.published(&Batch::new(id(2), "a", "2")).await;
        assert!(stage.are_off("a").await);
        let epoch = stage.head("a", "epoch").await;
        assert_eq!(stage.run_integer(&open_epoch("a", epoch, 0)).await, 1);
        assert!(!stage.are_off("a").await, "after a fork");
        assert!(stage.switches(false).await);
        stage.redis.command(&["DEL", "head:a"]).await;
        assert!(!stage.are_off("a").await, "nothing is known of the channel");
        stage.published(&Batch::new(id(3), "a", "3")).await;
        assert!(!stage.are_off("a").await);
    })
    .await;
}
