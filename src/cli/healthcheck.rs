//! `fanfare healthcheck`: a health check for images without a shell.

use std::time::Duration;

use reqwest::Method;

use super::error::CliError;
use super::target::Target;
use super::{client, output};
use crate::config::Environment;

/// Supervisors check every few seconds and expect a result before the next check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Check that the server is ready: exit status 0 or 1.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    /// Check only that the process serves, also while it starts or drains
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    target: Target,
}

impl Healthcheck {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let server = self.target.server(environment)?;
        let path = if self.live { "/live" } else { "/ready" };
        let response = client::send(&server, Method::GET, path, Vec::new(), TIMEOUT).await?;
        Ok(output::remote_line(&response)?)
    }
}
