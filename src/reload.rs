//! SIGHUP: reads the configuration again, and applies what can change while the server runs, the
//! apps and the log filter.

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};

use crate::config::{self, Config, Environment, Flags, Loaded, Problems, Settings, StartSettings};
use crate::logging::LogFilter;
use crate::metrics;
use crate::server::Reload;

/// Reloads the configuration of a server.
#[derive(Debug)]
pub struct Reloader {
    flags: Flags,
    environment: Environment,
    at_start: StartSettings,
    log: LogFilter,
    server: mpsc::Sender<Reload>,
}

impl Reloader {
    /// For a server that was started with `settings` and `config`, which are those of these flags
    /// and this environment.
    pub fn new(
        (flags, environment): (Flags, Environment),
        settings: &Settings,
        config: &Config,
        log: LogFilter,
        server: mpsc::Sender<Reload>,
    ) -> Reloader {
        metrics::install();
        metrics::config_loaded();
        Reloader { flags, environment, at_start: StartSettings::new(settings, config), log, server }
    }

    /// Reloads after each signal. A configuration with mistakes changes nothing.
    pub async fn run(&self, hangups: &mut Signal) {
        while hangups.recv().await.is_some() {
            match self.load().await {
                Ok(loaded) => self.apply(loaded).await,
                Err(problems) => {
                    metrics::config_refused();
                    let problems = problems.in_one_line();
                    tracing::error!(problems, "configuration not reloaded: the old one stays in force");
                }
            }
        }
    }

    /// Reading resolves the host names of addresses, which blocks.
    async fn load(&self) -> Result<(Settings, Config), Problems> {
        let (flags, environment) = (self.flags.clone(), self.environment.clone());
        let loaded = tokio::task::spawn_blocking(move || config::load(&flags, &environment)).await;
        let Loaded { settings, config, warnings } = loaded.expect("reading a configuration does not panic");
        let config = config?;
        warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok((settings, config))
    }

    async fn apply(&self, (settings, config): (Settings, Config)) {
        let differing = self.at_start.differing(&StartSettings::new(&settings, &config)).join(", ");
        if !differing.is_empty() {
            tracing::warn!(settings = differing, "changed settings take effect after a restart");
        }
        self.log.set(&config.log);
        let (apps, (applied, done)) = (config.apps.len(), oneshot::channel());
        let reload = Reload { apps: config.apps, applied };
        // Both fail only when the server has ended.
        if self.server.send(reload).await.is_ok() && done.await.is_ok() {
            metrics::config_reloaded();
            tracing::info!(apps, "configuration reloaded");
        }
    }
}
