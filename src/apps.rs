//! The apps that this node serves, found by id (backends) or by key (browsers).

use std::collections::HashMap;
use std::sync::Arc;

use crate::app::App;
use crate::backend::BackendError;

/// All apps of the configuration.
#[derive(Debug, Default)]
pub struct Apps {
    by_id: HashMap<Arc<str>, Arc<App>>,
    by_key: HashMap<String, Arc<App>>,
}

impl Apps {
    /// `apps` have distinct ids and distinct keys: [`crate::config`] has
    /// checked it.
    pub fn new(apps: impl IntoIterator<Item = App>) -> Apps {
        let mut all = Apps::default();
        for app in apps {
            let app = Arc::new(app);
            all.by_id.insert(app.id.clone(), app.clone());
            all.by_key.insert(app.key.clone(), app);
        }
        all
    }

    #[allow(clippy::unused_async, reason = "apps may be kept in the backend")]
    pub async fn by_id(&self, id: &str) -> Result<Option<Arc<App>>, BackendError> {
        Ok(self.by_id.get(id).cloned())
    }

    #[allow(clippy::unused_async, reason = "apps may be kept in the backend")]
    pub async fn by_key(&self, key: &str) -> Result<Option<Arc<App>>, BackendError> {
        Ok(self.by_key.get(key).cloned())
    }
}
