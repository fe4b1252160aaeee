//! `fanfare healthcheck`: for an image without a shell.

use std::time::Duration;

use hyper::Method;

use super::error::CliError;
use super::target::Target;
use super::{client, output};
use crate::config::Environment;

/// A supervisor asks every few seconds and wants an answer before the next.
const PATIENCE: Duration = Duration::from_secs(5);

/// Exit with 0 if the server is ready, else with 1.
#[derive(Debug, clap::Args)]
pub struct Healthcheck {
    #[command(flatten)]
    target: Target,
}

impl Healthcheck {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let authority = self.target.authority(environment)?;
        let answer = client::send(&authority, Method::GET, "/ready", Vec::new(), PATIENCE).await?;
        Ok(output::line(&answer)?)
    }
}
