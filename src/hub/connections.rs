//! The sockets of this node, so that a drain can close them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outbox::Outbox;
use crate::event::SocketId;
use crate::metrics::metrics;

#[derive(Debug, Default)]
pub struct Connections(Mutex<HashMap<SocketId, Arc<Outbox>>>);

/// A connection is counted as long as this lives.
#[derive(Debug)]
pub struct Registration {
    connections: Arc<Connections>,
    socket: SocketId,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.0.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sockets that nobody has closed yet.
    pub fn open(&self) -> Vec<Arc<Outbox>> {
        self.0.lock().values().filter(|outbox| !outbox.is_closing()).cloned().collect()
    }

    fn change(&self, change: impl FnOnce(&mut HashMap<SocketId, Arc<Outbox>>)) {
        let mut sockets = self.0.lock();
        change(&mut sockets);
        metrics().connections.set(sockets.len() as f64);
    }
}

impl Registration {
    pub fn new(connections: Arc<Connections>, socket: SocketId, outbox: Arc<Outbox>) -> Registration {
        metrics().connections_opened.increment(1);
        connections.change(|sockets| drop(sockets.insert(socket, outbox)));
        Registration { connections, socket }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.change(|sockets| drop(sockets.remove(&self.socket)));
    }
}
