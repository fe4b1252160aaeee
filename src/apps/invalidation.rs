//! Applies changes of apps in Redis: invalidates the cache and closes the sockets of
//! apps that were removed or disabled.

use std::sync::Arc;

use futures_util::StreamExt;

use super::{Apps, CachedApp};
use crate::backend::{AppChange, AppChanges};
use crate::metrics::metrics;
use crate::sockets::connections::Connections;
use crate::wire::close::Close;

/// Applies changes until the node stops.
pub async fn watch_changes(apps: Arc<Apps>, connections: Arc<Connections>, mut changes: AppChanges) {
    while let Some(change) = changes.next().await {
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
    /// Closes the sockets of an app that was removed or disabled. Those of an app that is
    /// absent stay open: Redis may have lost its data, and clients do not reconnect after
    /// a close with 4001.
    async fn apply_changes(&self, id: &str, connections: &Connections) {
        if self.by_id.contains_key(id) {
            return;
        }
        let close = match self.cached(id).await {
            Ok(CachedApp::App(app)) => {
                // The absence of an app with this key may be cached.
                self.changes.invalidate(&app.key).await;
                if app.enabled {
                    return;
                }
                Close::AppDisabled
            }
            Ok(CachedApp::Removed) => Close::UnknownApp,
            // The next reconnect to Redis checks all apps again.
            Ok(CachedApp::Nothing | CachedApp::Unreadable) | Err(_) => return,
        };
        let closed = connections.close_app(id, close);
        tracing::info!(
            app = id,
            sockets = closed,
            reason = close.label(),
            "app removed or disabled: sockets closed"
        );
    }
}
