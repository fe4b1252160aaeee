//! Delivers what happens in channels to the apps' backends (protocol.md 5).
//!
//! The scripts of the backend have decided each event and put it into the outbox
//! of its partition. One node delivers a partition: it claims the outbox, reads
//! it, calls the webhooks, and removes what all of them have got. So an event is
//! delivered at least once, whatever happens to nodes, and under the same id.
//!
//! [`queues`] says what to call when, and [`held`] what is known of the outboxes:
//! neither does IO. [`work`] is what does, [`call`] one call of it; [`desk`] is the task
//! that brings them together.

mod body;
mod call;
mod delivery_queues;
mod dispatcher;
mod in_flight;
mod work;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::node::Node;

use dispatcher::Dispatcher;

/// The task of this node.
#[derive(Debug)]
pub struct Webhooks {
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// Delivers until [`Webhooks::stop`].
pub fn start(node: Node) -> Webhooks {
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(Dispatcher::new(node).run(stopped));
    Webhooks { stop, task }
}

impl Webhooks {
    /// Delivers what is there, as far as [`crate::limits::WEBHOOK_STOP_TIMEOUT`]
    /// allows, and leaves the rest to other nodes.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}
