//! The file of the Redis URL, whose credentials may be rotated while the node runs.

use std::path::PathBuf;

use async_trait::async_trait;
use fred::prelude::{Error, ErrorKind};
use fred::types::config::{Config, CredentialProvider, Server};

/// Read at each new connection. Only user and password can change: the address is that of the start.
#[derive(Debug)]
pub(super) struct UrlFile {
    path: PathBuf,
}

impl UrlFile {
    pub(super) fn new(path: PathBuf) -> UrlFile {
        UrlFile { path }
    }
}

#[async_trait]
impl CredentialProvider for UrlFile {
    async fn fetch(&self, _: Option<&Server>) -> Result<(Option<String>, Option<String>), Error> {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read_to_string(path)).await;
        let unreadable = |error: &dyn std::fmt::Display| {
            Error::new(ErrorKind::Auth, format!("the file of the Redis URL cannot be read: {error}"))
        };
        let text = read.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
        let text = text.trim_end_matches(['\r', '\n']);
        // fred accepts other schemes. Its errors could contain the password.
        let is_redis = text.starts_with("redis://") || text.starts_with("rediss://");
        let url = is_redis.then(|| Config::from_url(text).ok()).flatten();
        let url =
            url.ok_or_else(|| Error::new(ErrorKind::Auth, "the file of the Redis URL has no valid URL"))?;
        Ok((url.username, url.password))
    }
}
