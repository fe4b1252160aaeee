//! The tasks without which a node does not work. If one panics, the process ends: the node would
//! seem healthy and do nothing.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{LazyLock, OnceLock};

use futures_util::FutureExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A task of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    Channels,
    Webhooks,
    ConnectionLimit,
    Readiness,
    Expiry,
    AppChanges,
    RedisMessages,
    RedisTopics,
    RedisProbes,
    RedisLinks,
    RedisReconnects,
    RedisMemory,
    Lease,
    LeaseSweep,
}

/// The task that panics as soon as it starts: the setting `test.panic`.
static PANIC: OnceLock<Task> = OnceLock::new();

/// The task that has panicked.
static PANICKED: LazyLock<watch::Sender<Option<Task>>> = LazyLock::new(|| watch::Sender::new(None));

impl Task {
    pub const ALL: [Task; 14] = [
        Task::Channels,
        Task::Webhooks,
        Task::ConnectionLimit,
        Task::Readiness,
        Task::Expiry,
        Task::AppChanges,
        Task::RedisMessages,
        Task::RedisTopics,
        Task::RedisProbes,
        Task::RedisLinks,
        Task::RedisReconnects,
        Task::RedisMemory,
        Task::Lease,
        Task::LeaseSweep,
    ];

    /// The names of [`Task::ALL`].
    pub const NAMES: &[&str] = &{
        let mut names = [""; Task::ALL.len()];
        let mut index = 0;
        while index < names.len() {
            names[index] = Task::ALL[index].name();
            index += 1;
        }
        names
    };

    pub const fn name(self) -> &'static str {
        match self {
            Task::Channels => "channels",
            Task::Webhooks => "webhooks",
            Task::ConnectionLimit => "connection_limit",
            Task::Readiness => "readiness",
            Task::Expiry => "expiry",
            Task::AppChanges => "app_changes",
            Task::RedisMessages => "redis_messages",
            Task::RedisTopics => "redis_topics",
            Task::RedisProbes => "redis_probes",
            Task::RedisLinks => "redis_links",
            Task::RedisReconnects => "redis_reconnects",
            Task::RedisMemory => "redis_memory",
            Task::Lease => "lease",
            Task::LeaseSweep => "lease_sweep",
        }
    }

    /// Spawns the task, which may return: a sweep when it is done, the others with the node.
    pub fn spawn(self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        tokio::spawn(async move {
            let task = async {
                assert!(PANIC.get() != Some(&self), "the setting test.panic names this task");
                task.await;
            };
            if AssertUnwindSafe(task).catch_unwind().await.is_err() {
                PANICKED.send_replace(Some(self));
            }
        })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Waits until a task panics, and returns it.
pub async fn panicked() -> Task {
    let mut panicked = PANICKED.subscribe();
    let panicked = panicked.wait_for(Option::is_some).await;
    panicked.ok().and_then(|task| *task).expect("the sender is never dropped")
}

/// Makes the task with this name, one of [`Task::NAMES`], panic as soon as it starts.
pub fn inject_panic(name: &str) {
    if let Some(task) = Task::ALL.into_iter().find(|task| task.name() == name) {
        let _ = PANIC.set(task);
    }
}
