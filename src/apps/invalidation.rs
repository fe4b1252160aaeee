//! Invalidations of apps, as they are heard: what is remembered is forgotten, and the
//! sockets of an app that has ended are closed.

use std::sync::Arc;

use super::{Apps, CachedApp};
use crate::backend::AppChange;
use crate::backend::redis::apps::AppChanges;
use crate::metrics::metrics;
use crate::sockets::connections::Connections;
use crate::wire::close::Close;

/// Runs as long as the node.
pub async fn watch_changes(apps: Arc<Apps>, connections: Arc<Connections>, mut changes: AppChanges) {
    loop {
        let change = changes.next().await;
        metrics().app_changes.increment(1);
        match change {
            AppChange::One(id) => {
                apps.changes.invalidate(&id).await;
                apps.apply_changes(&id, &connections).await;
            }
            AppChange::Any => {
                apps.changes.invalidate_all();
                for id in connections.apps() {
                    apps.apply_changes(&id, &connections).await;
                }
            }
        }
    }
}

impl Apps {
    /// Closes the sockets of an app that has ended. One that nothing is known of
    /// keeps them: Redis may have lost its data, and clients that are told that
    /// there is no such app do not come back.
    async fn apply_changes(&self, id: &str, connections: &Connections) {
        if self.by_id.contains_key(id) {
            return;
        }
        let close = match self.cached(id).await {
            Ok(CachedApp::App(app)) => {
                // Somebody may have been told that nobody has this key.
                self.changes.invalidate(&app.key).await;
                if app.enabled {
                    return;
                }
                Close::AppDisabled
            }
            Ok(CachedApp::Removed) => Close::UnknownApp,
            // After the next reconnect all is looked at again.
            Ok(CachedApp::Nothing | CachedApp::Unreadable) | Err(_) => return,
        };
        let closed = connections.close_app(id, close);
        tracing::info!(app = id, sockets = closed, reason = close.label(), "the app has ended");
    }
}
