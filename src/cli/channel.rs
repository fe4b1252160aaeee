//! `fanfare channel`: queries the state of a channel.

use std::time::Duration;

use reqwest::Method;

use super::error::CliError;
use super::sign::{encode, now, signed_target};
use super::target::Target;
use super::{client, output};
use crate::config::Environment;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Query the state of a channel: occupied or not, and its counts.
#[derive(Debug, clap::Args)]
pub struct Channel {
    /// Name of the channel
    name: String,
    /// Comma-separated attributes to return, such as subscription_count
    #[arg(long, value_name = "NAMES")]
    info: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Channel {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let server = self.target.server(environment)?;
        let app = self.target.credentials(environment)?;
        let path = format!("/apps/{}/channels/{}", encode(&app.app_id), encode(&self.name));
        let query: Vec<_> = self.info.into_iter().map(|info| ("info".to_owned(), info)).collect();
        let target = signed_target(&app, "GET", &path, &query, b"", now())?;
        let response = client::send(&server, Method::GET, &target, Vec::new(), TIMEOUT).await?;
        Ok(output::remote_line(&response)?)
    }
}
