//! Delivers webhook events to the apps' backends (protocol.md 5).
//!
//! The backend's scripts write each event to the outbox of its app and partition. One node
//! delivers a partition: it claims the outboxes, reads them, calls the webhooks, and removes
//! the events that all of them have received. So every event is delivered at least once,
//! with the same id at each attempt, even if nodes fail. Every bound is per app, so that an
//! app whose receivers fail delays no other.
//!
//! [`read_queue`] schedules the reads of outboxes, [`in_flight`] tracks the events read from
//! them, and [`delivery_queues`] schedules the calls; none does IO. [`work`] contains the
//! jobs that do, [`call`] a single call. [`dispatcher`] is the task that connects them, and
//! [`report`] its metrics and log lines.

mod body;
mod call;
mod delivery_queues;
mod dispatcher;
mod in_flight;
mod read_queue;
mod report;
mod work;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::node::Node;
use crate::task::Task;

use dispatcher::Dispatcher;

/// The running webhook task of this node.
#[derive(Debug)]
pub struct Webhooks {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Starts the task. It runs until [`Webhooks::stop`].
pub fn start(node: Node) -> Webhooks {
    let (stop, stopped) = oneshot::channel();
    let task = Task::Webhooks.spawn(Dispatcher::new(node).run(stopped));
    Webhooks { stop, task }
}

impl Webhooks {
    /// Delivers queued events for up to [`crate::limits::WEBHOOK_STOP_TIMEOUT`]. The rest
    /// stays in the outbox for other nodes.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
