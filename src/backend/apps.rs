//! The contract of stored apps: a node reads apps that are not in its configuration, and receives
//! their changes. The memory backend stores none.

use futures_util::StreamExt;
use futures_util::stream::BoxStream;

use super::{Backend, BackendError};

/// The changes of stored apps, without end.
pub type AppChanges = BoxStream<'static, AppChange>;

impl Backend {
    /// The stored app with this id.
    pub async fn find_app(&self, id: &str) -> Result<StoredApp, BackendError> {
        match self {
            Backend::Memory(_) => Ok(StoredApp::Nothing),
            Backend::Redis(redis) => redis.apps().find(id).await,
        }
    }

    /// The id of the stored app with this key.
    pub async fn find_app_id(&self, key: &str) -> Result<Option<String>, BackendError> {
        match self {
            Backend::Memory(_) => Ok(None),
            Backend::Redis(redis) => redis.apps().find_id(key).await,
        }
    }

    /// Subscribes to changes of stored apps. `None` if the backend stores no apps.
    pub fn app_changes(&self) -> Option<AppChanges> {
        match self {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => Some(redis.apps().changes().boxed()),
        }
    }
}

/// The stored value for an app id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredApp {
    /// TOML, as below `[[apps]]`, including secrets.
    Settings(String),
    /// The app existed and was removed.
    Removed,
    Nothing,
}

/// A notification that stored apps may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AppChange {
    /// The app with this id.
    One(String),
    /// Any app: notifications may have been lost.
    Any,
}
