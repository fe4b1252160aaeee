//! The command line: flags of the server, and small commands that connect to a running
//! server, so that no other tool is needed to try it.

mod app;
mod banner;
mod channel;
mod client;
mod decode;
mod error;
mod frame;
mod healthcheck;
mod import;
mod input;
mod listen;
mod output;
mod sign;
mod signals;
mod target;
mod trigger;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::keys::{self, Key};
use crate::config::{Environment, Flags};

pub use banner::Banner;
pub use error::{CliError, ImportError};
pub use import::convert as convert_apps;
pub use signals::{StopSignals, ignore_signals};
pub use target::Target;

/// A self-hosted realtime server for the Pusher protocol. Without a command, it runs the
/// server.
#[derive(Debug, clap::Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub serve: Serve,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags of the server. Their texts are validated with the rest of the configuration, so
/// that all mistakes are reported together.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// Path of the configuration file, in TOML [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[arg(long, value_name = "HOST:PORT", help = help(keys::LISTEN))]
    pub listen: Option<String>,
    #[arg(long, value_name = "URL", help = help(keys::REDIS))]
    pub redis: Option<String>,
    #[arg(long, value_name = "HOST:PORT", help = help(keys::METRICS_LISTEN))]
    pub metrics_listen: Option<String>,
    /// Development mode: address 127.0.0.1:6001, and a demo app if none is configured
    #[arg(long)]
    pub dev: bool,
    /// Print all settings with their values and sources, then exit
    #[arg(long)]
    pub print_config: bool,
    /// Check the configuration, then exit
    #[arg(long)]
    pub check: bool,
}

/// The help of a flag that sets a key.
fn help(key: &Key) -> String {
    let (first, rest) = key.doc.split_at(1);
    let default = key.default.map(|default| format!(" [default: {default}]")).unwrap_or_default();
    format!("{}{rest} [env: {}]{default}", first.to_ascii_uppercase(), key.variable())
}

impl Serve {
    pub fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            listen: self.listen.clone(),
            redis: self.redis.clone(),
            redis_prefix: None,
            metrics_listen: self.metrics_listen.clone(),
            dev: self.dev,
        }
    }
}

/// Commands: most connect to a running server or to its Redis.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Listen(listen::Listen),
    Trigger(trigger::Trigger),
    Sign(sign::Sign),
    Channel(channel::Channel),
    App(app::AppCommand),
    Import(import::Import),
    Healthcheck(healthcheck::Healthcheck),
}

impl Command {
    /// Runs the command to its end and prints an error to stderr.
    pub fn run(self, environment: &Environment) -> ExitCode {
        match self.try_run(environment) {
            Ok(()) => ExitCode::SUCCESS,
            // As in `fanfare listen news | head -1`: not an error.
            Err(error) if error.is_closed_output() => ExitCode::SUCCESS,
            Err(error) => {
                output::error(&error);
                ExitCode::FAILURE
            }
        }
    }

    fn try_run(self, environment: &Environment) -> Result<(), CliError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(CliError::Runtime)?;
        match self {
            Command::Listen(listen) => runtime.block_on(listen.run(environment)),
            Command::Trigger(trigger) => runtime.block_on(trigger.run(environment)),
            Command::Sign(sign) => sign.run(environment),
            Command::Channel(channel) => runtime.block_on(channel.run(environment)),
            Command::App(app) => runtime.block_on(app.run(environment)),
            Command::Import(import) => import.run(),
            Command::Healthcheck(healthcheck) => runtime.block_on(healthcheck.run(environment)),
        }
    }
}
