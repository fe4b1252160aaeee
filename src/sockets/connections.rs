//! The connections of this node by app, so that a drain can close all of them, and the
//! removal of an app can close its own.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::write_buffer::WriteBuffer;
use crate::app::App;
use crate::capacity::Shrink;
use crate::event::SocketId;
use crate::metrics::apps::AppMetrics;
use crate::metrics::metrics;
use crate::wire::close::Close;

#[derive(Debug, Default)]
pub struct Connections(Mutex<Sockets>);

#[derive(Debug, Default)]
struct Sockets {
    /// Contains only apps with connections.
    by_app: HashMap<Arc<str>, HashMap<SocketId, Arc<WriteBuffer>>>,
    count: usize,
}

/// Keeps a connection registered until it is dropped.
#[derive(Debug)]
pub struct Registration {
    connections: Arc<Connections>,
    /// The app id.
    app: Arc<str>,
    app_metrics: Arc<AppMetrics>,
    socket: SocketId,
}

impl Connections {
    pub fn len(&self) -> usize {
        self.0.lock().count
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Connections that are not closing yet.
    pub fn open(&self) -> Vec<Arc<WriteBuffer>> {
        let sockets = self.0.lock();
        let all = sockets.by_app.values().flat_map(HashMap::values);
        all.filter(|write_buffer| !write_buffer.is_closing()).cloned().collect()
    }

    /// Ids of the apps with connections on this node.
    pub fn apps(&self) -> Vec<Arc<str>> {
        self.0.lock().by_app.keys().cloned().collect()
    }

    /// Closes all connections of an app. Returns their number.
    pub fn close_app(&self, app: &str, close: Close) -> usize {
        // Closing wakes each connection's task: not under the lock.
        let open: Vec<Arc<WriteBuffer>> =
            self.0.lock().by_app.get(app).into_iter().flat_map(HashMap::values).cloned().collect();
        open.iter().for_each(|write_buffer| write_buffer.close(close));
        open.len()
    }

    fn change(&self, registration: &Registration, change: impl FnOnce(&mut Sockets)) {
        let Registration { app, app_metrics, .. } = registration;
        let mut sockets = self.0.lock();
        change(&mut sockets);
        metrics().connections.set(sockets.count as f64);
        app_metrics.connections.set(sockets.by_app.get(app).map_or(0, HashMap::len) as u64);
    }
}

impl Sockets {
    fn add(&mut self, app: &Arc<str>, socket: SocketId, write_buffer: Arc<WriteBuffer>) {
        self.by_app.entry(app.clone()).or_default().insert(socket, write_buffer);
        self.count += 1;
    }

    fn remove(&mut self, app: &Arc<str>, socket: SocketId) {
        let Some(of_app) = self.by_app.get_mut(app) else { return };
        self.count -= usize::from(of_app.remove(&socket).is_some());
        of_app.shrink_if_sparse();
        if of_app.is_empty() {
            self.by_app.remove(app);
            self.by_app.shrink_if_sparse();
        }
    }
}

impl Registration {
    pub fn new(
        connections: Arc<Connections>,
        app: &App,
        socket: SocketId,
        write_buffer: Arc<WriteBuffer>,
    ) -> Registration {
        metrics().connections_opened.increment(1);
        app.metrics.connections_opened.increment(1);
        let (app, app_metrics) = (app.id.clone(), app.metrics.clone());
        let registration = Registration { connections, app, app_metrics, socket };
        let added = |sockets: &mut Sockets| sockets.add(&registration.app, socket, write_buffer);
        registration.connections.change(&registration, added);
        registration
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.connections.change(self, |sockets| sockets.remove(&self.app, self.socket));
    }
}
