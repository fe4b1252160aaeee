//! `hold_connections`: the connection limit over all nodes.

use rand::RngExt;

use super::calls::{N1, N2, N3, NODES, hold, renew};
use super::stage::Stage;
use crate::support::{Seed, bounded};

async fn begin_leases(stage: &mut Stage) {
    for node in NODES {
        stage.run(&renew(node, true)).await;
    }
}

#[tokio::test]
async fn connection_limit_grants_remaining_connections() {
    bounded(async {
        let mut stage = Stage::start().await;
        begin_leases(&mut stage).await;
        for (node, held, requested, granted) in [
            (N1, 0, 60, 60),
            (N2, 0, 60, 40),
            (N3, 0, 1, 0),
            (N1, 60, 61, 60),
            (N1, 10, 20, 20),
            (N3, 0, 60, 40),
            (N2, 40, 0, 40),
            (N2, 0, 0, 0),
            (N1, 20, 100, 60),
        ] {
            let answer = stage.run_integer(&hold(node, held, requested, 100)).await;
            assert_eq!(answer, granted, "{node} holds {held} and requests {requested}");
        }
        // A lower limit closes no connection.
        assert_eq!(stage.run_integer(&hold(N1, 60, 70, 50)).await, 60);
        assert_eq!(stage.run_integer(&hold(N2, 0, 1, 50)).await, 0);
        let held = stage.hash("connections").await;
        assert_eq!(
            held.values().collect::<Vec<_>>(),
            ["60", "40"],
            "a node without connections is not listed"
        );
    })
    .await;
}

#[tokio::test]
async fn connections_of_dead_nodes_are_removed() {
    bounded(async {
        let mut stage = Stage::start().await;
        begin_leases(&mut stage).await;
        for (node, requested) in [(N1, 70), (N2, 30)] {
            stage.run(&hold(node, 0, requested, 100)).await;
        }
        stage.redis.command(&["HDEL", "leases", N1]).await;
        assert_eq!(stage.run_integer(&hold(N3, 0, 90, 100)).await, 70);
        assert_eq!(stage.hash("connections").await.into_keys().collect::<Vec<_>>(), [N2, N3]);
        // A node with an expired lease returns with its connections.
        stage.run(&renew(N1, true)).await;
        assert_eq!(stage.run_integer(&hold(N1, 70, 80, 100)).await, 70);
    })
    .await;
}

#[tokio::test]
async fn connection_limit_is_never_exceeded() {
    bounded(async {
        let mut rng = Seed::new().rng();
        let mut stage = Stage::start().await;
        begin_leases(&mut stage).await;
        let mut granted = [0; 3];
        for step in 0..500 {
            let node = rng.random_range(0..3);
            let held = rng.random_range(0..=granted[node]);
            let requested = rng.random_range(held..=held + 40);
            let answer = stage.run_integer(&hold(NODES[node], held, requested, 60)).await as u64;
            assert!((held..=requested).contains(&answer), "step {step}: {answer} of {held}..={requested}");
            let others: u64 = granted.iter().sum::<u64>() - granted[node];
            assert_eq!(
                answer,
                requested.min(60 - others).max(held),
                "step {step}: as many as the limit permits"
            );
            granted[node] = answer;
            assert!(granted.iter().sum::<u64>() <= 60, "step {step}: {granted:?}");
        }
    })
    .await;
}
