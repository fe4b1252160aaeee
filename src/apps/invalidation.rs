//! Applies changes of apps, in Redis and in the configuration: invalidates the cache and closes the
//! sockets of apps that were removed or disabled.

use std::sync::Arc;

use futures_util::StreamExt;

use super::{Apps, CachedApp, ConfiguredApps};
use crate::app::App;
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
        if self.configured(id).is_some() {
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
        self.close(id, close, connections);
    }

    /// Replaces the apps of the configuration with those of a reload. Closes the sockets of apps
    /// that it has removed or disabled.
    pub async fn configure(&self, apps: Vec<App>, connections: &Connections) {
        let before = std::mem::replace(&mut *self.configured.write(), ConfiguredApps::new(apps));
        // A socket that is accepted now is checked again after its registration.
        for id in connections.apps() {
            if let Some(close) = self.close_code(&id, before.by_id.contains_key(&id)).await {
                self.close(&id, close, connections);
            }
        }
    }

    /// Why the sockets of an app have to be closed after a change of the configuration.
    async fn close_code(&self, id: &str, was_configured: bool) -> Option<Close> {
        let app = match self.configured(id) {
            Some(app) => app,
            None if !was_configured => return None,
            // Perhaps it was moved to Redis.
            None => match self.cached(id).await {
                Ok(CachedApp::App(app)) => app,
                Ok(CachedApp::Removed | CachedApp::Nothing) => return Some(Close::UnknownApp),
                // Clients connect again, and receive the answer when Redis can be read.
                Ok(CachedApp::Unreadable) | Err(_) => return Some(Close::OverCapacity),
            },
        };
        (!app.enabled).then_some(Close::AppDisabled)
    }

    fn close(&self, id: &str, close: Close, connections: &Connections) {
        let sockets = connections.close_app(id, close);
        tracing::info!(app = id, sockets, reason = close.label(), "app removed or disabled: sockets closed");
    }
}
