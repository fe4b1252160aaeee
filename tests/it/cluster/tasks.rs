//! A node ends with a panic of one of its tasks: it must not seem healthy and do nothing.

use fanfare::task::Task;

use crate::support::{AppSpec, Backend, Cluster, Redis, Server, bounded};

/// Tasks that start later than the node: with the first connection of an app with a limit, and
/// with the death of another node.
const LATE: [Task; 2] = [Task::ConnectionLimit, Task::LeaseSweep];

const PANIC: &str = "FANFARE_TEST__PANIC";

fn assert_reported(task: Task, code: Option<i32>, output: &str) {
    assert_eq!(code, Some(1), "{task:?}: {output}");
    let is_report =
        |line: &str| line.contains("has panicked: the process ends") && line.contains(task.name());
    assert!(output.lines().any(is_report), "{task:?}: {output}");
}

#[tokio::test]
async fn node_on_redis_ends_when_a_task_panics() {
    bounded(async {
        let redis = Redis::start().await;
        for task in Task::ALL.into_iter().filter(|task| !LATE.contains(task)) {
            let node = Server::builder().redis(&redis).env(PANIC, task.name());
            let (status, output) = node.start_refused().await;
            assert_reported(task, status.code(), &output);
        }
    })
    .await;
}

#[tokio::test]
async fn node_in_memory_ends_when_a_task_panics() {
    bounded(async {
        for task in [Task::Channels, Task::Webhooks, Task::Readiness] {
            let (status, output) = Server::builder().env(PANIC, task.name()).start_refused().await;
            assert_reported(task, status.code(), &output);
        }
    })
    .await;
}

#[tokio::test]
async fn node_ends_when_the_task_of_a_connection_limit_panics() {
    bounded(async {
        let app = AppSpec::new("1").set("max_connections", 5);
        let node = Server::builder().app(app).env(PANIC, Task::ConnectionLimit.name()).start().await;
        let _refused = node.connect("/app/key1?protocol=7").await;
        let (status, output) = node.ended_by_panic().await;
        assert_reported(Task::ConnectionLimit, status.code(), &output);
    })
    .await;
}

#[tokio::test]
async fn cluster_node_ends_when_a_sweep_panics() {
    bounded(async {
        let mut cluster = Cluster::builder(Backend::Redis).nodes(1).quick_detection().start().await;
        let sweeper = Server::builder().redis(cluster.redis()).env(PANIC, Task::LeaseSweep.name());
        let sweeper = sweeper.env("FANFARE_TEST__SPEEDUP", "4").start().await;
        cluster.nodes[0].kill9();
        let (status, output) = sweeper.ended_by_panic().await;
        assert_reported(Task::LeaseSweep, status.code(), &output);
    })
    .await;
}
