//! The sockets of this node, so that a drain can close them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::event::SocketId;
use crate::hub::outbox::Outbox;
use crate::metrics::metrics;
use crate::node::Node;

#[derive(Debug, Default)]
pub struct Connections(Mutex<HashMap<SocketId, Arc<Outbox>>>);

/// A connection is counted as long as this lives.
#[derive(Debug)]
pub struct Registration {
    node: Node,
    socket: SocketId,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Some of the sockets, at most `count`.
    pub fn some(&self, count: usize) -> Vec<Arc<Outbox>> {
        self.0.lock().values().take(count).cloned().collect()
    }

    pub fn all(&self) -> Vec<Arc<Outbox>> {
        self.some(usize::MAX)
    }
}

impl Registration {
    pub fn new(node: Node, socket: SocketId, outbox: Arc<Outbox>) -> Registration {
        let mut connections = node.connections.0.lock();
        connections.insert(socket, outbox);
        metrics().connections.set(connections.len() as f64);
        metrics().connections_opened.increment(1);
        drop(connections);
        Registration { node, socket }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut connections = self.node.connections.0.lock();
        connections.remove(&self.socket);
        metrics().connections.set(connections.len() as f64);
    }
}
