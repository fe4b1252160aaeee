//! The apps of this node, by id (backends) or by key (clients): first those of the
//! configuration, then those stored in Redis, through a cache.

mod app_cache;
mod invalidation;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::app::App;
use crate::backend::{Backend, BackendError, StoredApp};
use crate::config::{self, Origin};
use crate::limits;
use crate::metrics::metrics;

use app_cache::{AppCache, Invalidations, Lifetime};

pub use invalidation::watch_changes;

#[derive(Debug)]
pub struct Apps {
    /// Replaced by [`Apps::configure`].
    configured: RwLock<ConfiguredApps>,
    backend: Arc<Backend>,
    /// Apps stored in the backend, by id.
    cached: AppCache<CachedApp>,
    /// Ids of the same apps, by key; `None` for a key without an app.
    ids: AppCache<Option<String>>,
    changes: Invalidations,
    lookups: Semaphore,
}

/// The apps of the configuration.
#[derive(Debug)]
struct ConfiguredApps {
    by_id: HashMap<Arc<str>, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
}

/// The state of an id in the backend.
#[derive(Debug, Clone)]
enum CachedApp {
    App(Arc<App>),
    Removed,
    /// Never stored, or lost.
    Nothing,
    /// Settings that this version cannot parse.
    Unreadable,
}

impl ConfiguredApps {
    fn new(apps: impl IntoIterator<Item = App>) -> ConfiguredApps {
        let (mut by_id, mut by_key) = (HashMap::new(), HashMap::new());
        for app in apps {
            let app = Arc::new(app);
            by_id.insert(app.id.clone(), app.clone());
            by_key.insert(app.key.clone(), app);
        }
        ConfiguredApps { by_id, by_key }
    }
}

impl Apps {
    /// The ids and the keys of `configured` must be distinct: [`crate::config`] checks it.
    pub fn new(configured: impl IntoIterator<Item = App>, backend: Arc<Backend>) -> Apps {
        Apps {
            configured: RwLock::new(ConfiguredApps::new(configured)),
            backend,
            cached: AppCache::new(),
            ids: AppCache::new(),
            changes: Invalidations::new(),
            lookups: Semaphore::new(limits::APP_LOOKUPS_MAX),
        }
    }

    /// Removes cached apps whose time is over.
    pub async fn remove_expired(&self) {
        self.cached.remove_expired().await;
        self.ids.remove_expired().await;
        self.changes.remove_expired().await;
    }

    /// Looks up an app by its id.
    ///
    /// # Errors
    ///
    /// [`BackendError::Unavailable`] if the app is not configured or cached and the backend
    /// does not answer; [`BackendError::Unreadable`] if its settings cannot be parsed.
    pub async fn by_id(&self, id: &str) -> Result<Option<Arc<App>>, BackendError> {
        match self.configured(id) {
            Some(app) => Ok(Some(app)),
            None => Box::pin(self.cached(id)).await?.app(id),
        }
    }

    fn configured(&self, id: &str) -> Option<Arc<App>> {
        self.configured.read().by_id.get(id).cloned()
    }

    /// Looks up an app by its key. Errors are those of [`Apps::by_id`].
    pub async fn by_key(&self, key: &str) -> Result<Option<Arc<App>>, BackendError> {
        let configured = self.configured.read().by_key.get(key).cloned();
        if configured.is_some() {
            return Ok(configured);
        }
        if !is_valid_name(key) {
            return Ok(None);
        }
        let read = || self.lookup(self.backend.find_app_id(key));
        let Some(id) = self.ids.get(key, &self.changes, read).await? else { return Ok(None) };
        let app = self.by_id(&id).await?;
        // The id may belong to another app by now.
        Ok(app.filter(|app| app.key == key))
    }

    /// The current state of an app, for a socket that holds an earlier one. Returns `app`
    /// itself if the look-up fails or finds no app: [`watch_changes`] closes the sockets of
    /// removed apps.
    pub async fn current(&self, app: &Arc<App>) -> Arc<App> {
        match self.by_id(&app.id).await {
            Ok(Some(current)) => current,
            Ok(None) | Err(_) => app.clone(),
        }
    }

    async fn cached(&self, id: &str) -> Result<CachedApp, BackendError> {
        if !is_valid_name(id) {
            return Ok(CachedApp::Nothing);
        }
        let read = async || {
            let stored = self.lookup(self.backend.find_app(id)).await?;
            Ok(CachedApp::read(id, stored))
        };
        self.cached.get(id, &self.changes, read).await
    }

    /// Runs `read`, with at most [`limits::APP_LOOKUPS_MAX`] concurrent reads. Others wait
    /// for up to [`limits::SCRIPT_DEADLINE`], then fail as unavailable.
    async fn lookup<T>(
        &self,
        read: impl Future<Output = Result<T, BackendError>>,
    ) -> Result<T, BackendError> {
        let Ok(Ok(_permit)) = timeout(limits::SCRIPT_DEADLINE, self.lookups.acquire()).await else {
            metrics().app_lookups_refused.increment(1);
            return Err(BackendError::Unavailable);
        };
        metrics().app_lookups.increment(1);
        read.await
    }
}

impl CachedApp {
    fn read(id: &str, stored: StoredApp) -> CachedApp {
        let text = match stored {
            StoredApp::Settings(text) => text,
            StoredApp::Removed => return CachedApp::Removed,
            StoredApp::Nothing => return CachedApp::Nothing,
        };
        match config::read_app(&text, &Origin::Stored { id: id.to_owned() }) {
            Ok(app) if &*app.id == id => CachedApp::App(Arc::new(app)),
            Ok(app) => {
                tracing::error!(id, found = %app.id, "app in Redis contains the id of another app");
                CachedApp::Unreadable
            }
            Err(problems) => {
                tracing::error!(id, %problems, "invalid settings of an app in Redis");
                CachedApp::Unreadable
            }
        }
    }

    fn app(self, id: &str) -> Result<Option<Arc<App>>, BackendError> {
        match self {
            CachedApp::App(app) => Ok(Some(app)),
            CachedApp::Removed | CachedApp::Nothing => Ok(None),
            CachedApp::Unreadable => Err(BackendError::Unreadable(format!("the settings of app {id}"))),
        }
    }
}

/// Whether the text can be the id or the key of an app. Other texts are neither looked up
/// nor cached.
fn is_valid_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    (1..=limits::APP_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// The absence of an app is cached only for a short time: the app may be added.
fn lifetime(is_known: bool) -> Duration {
    if is_known { limits::APP_CACHE_TTL } else { limits::UNKNOWN_APP_CACHE_TTL }
}

impl Lifetime for CachedApp {
    fn lifetime(&self) -> Duration {
        lifetime(matches!(self, CachedApp::App(_)))
    }
}

impl Lifetime for Option<String> {
    fn lifetime(&self) -> Duration {
        lifetime(self.is_some())
    }
}
