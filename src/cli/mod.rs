//! The command line: flags that run the server, and small commands that speak
//! to one, so that nothing but `fanfare` itself is needed to see it work.

mod app;
mod banner;
mod channel;
mod client;
mod decode;
mod error;
mod frame;
mod healthcheck;
mod import;
mod listen;
mod output;
mod sign;
mod signals;
mod target;
mod trigger;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::{Environment, Flags};

pub use banner::Banner;
pub use error::CliError;
pub use import::ImportError;
pub use signals::StopSignals;
pub use target::Target;

/// A self-hosted, Pusher-protocol realtime server. Without a command it runs
/// the server.
#[derive(Debug, clap::Parser)]
#[command(name = "fanfare", version, args_conflicts_with_subcommands = true, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub serve: Serve,
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What runs the server. Texts are checked with the rest of the configuration,
/// so that all mistakes are told together.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// TOML file with the configuration [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of both APIs [env: FANFARE_LISTEN] [default: 0.0.0.0:6001]
    #[arg(long, value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// URL of the shared backend; without it this process is alone [env: FANFARE_REDIS]
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Address of /metrics [env: FANFARE_METRICS_LISTEN] [default: 127.0.0.1:9601]
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,
    /// Try it: listen on 127.0.0.1:6001, with a demo app if none is configured
    #[arg(long)]
    pub dev: bool,
    /// Show every setting, its value and where it came from, then exit
    #[arg(long)]
    pub print_config: bool,
    /// Check the configuration, then exit
    #[arg(long)]
    pub check: bool,
}

impl Serve {
    pub fn flags(&self) -> Flags {
        Flags {
            config: self.config.clone(),
            listen: self.listen.clone(),
            redis: self.redis.clone(),
            metrics_listen: self.metrics_listen.clone(),
            dev: self.dev,
        }
    }
}

/// What speaks to a running server.
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
    /// Runs the command to its end, and says on stderr what went wrong.
    pub fn run(self, environment: &Environment) -> ExitCode {
        match self.try_run(environment) {
            Ok(()) => ExitCode::SUCCESS,
            // `fanfare listen news | head -1` has what it wanted.
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
