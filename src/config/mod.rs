//! Strings from file, environment and flags become one typed [`Config`], once,
//! with all mistakes reported together.
//!
//! [`keys`] is the table of everything that can be set; [`layers`] reads the
//! four places a value may come from; [`value`] turns what was written into
//! what was meant; [`build`] checks what concerns several keys at once;
//! [`print`] shows the result. The environment comes in as a map, so that a
//! test never touches that of the process.

mod build;
mod channel_deltas;
mod edge;
mod environment;
pub mod keys;
mod layers;
mod message_rate;
mod pieces;
mod print;
mod problem;
mod raw;
mod reader;
mod redis_url;
mod table;
mod value;
mod webhooks;

#[cfg(test)]
mod app_tests;
#[cfg(test)]
mod delta_tests;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::app::App;
use crate::delta::settings::DeltaConfig;

pub use environment::{Environment, NotUtf8};
pub use layers::{Origin, Place, Setting, Settings};
pub use pieces::{RedisTarget, app_setting_names, check_app_setting, check_apps, read_app, redis_target};
pub use problem::{Problem, Problems, Warning};
pub use redis_url::hide_password;
pub use value::Value;

/// The app that `--dev` adds when no other is configured. All digits, because
/// the Python library takes no other id.
pub const DEV_APP_ID: &str = "1001";
pub const DEV_APP_KEY: &str = "dev-key";
pub const DEV_APP_SECRET: &str = "dev-secret";
/// Where `--dev` listens: this machine only, since everybody knows its secret.
pub const DEV_LISTEN: &str = "127.0.0.1:6001";

/// Everything the server was told, checked.
pub struct Config {
    /// `listen`: both APIs.
    pub listen: SocketAddr,
    /// `metrics_listen`: `/metrics`.
    pub metrics_listen: SocketAddr,
    /// `redis`: the URL of the shared backend; none is the memory backend. It
    /// may hold a password: show it through [`hide_password`] only.
    pub redis: Option<String>,
    /// `redis_prefix`: every key and topic begins with it.
    pub redis_prefix: String,
    /// `path_prefix`: what the paths of both APIs begin with. Empty, or with a
    /// slash at its beginning and none at its end.
    pub path_prefix: String,
    /// `trusted_proxies`: whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Silence after which clients ping. The server pings after 1.25 of it.
    pub activity_timeout: Duration,
    /// How long an HTTP connection stays open between two requests.
    pub keep_alive_timeout: Duration,
    /// `drain_delay` seconds unready before closing begins, and `drain_window`
    /// seconds over which all sockets are closed.
    pub drain_delay: Duration,
    pub drain_window: Duration,
    pub apps: Vec<App>,
    pub delta: DeltaConfig,
    /// `tag_filtering.enabled`: whether subscriptions may be filtered by tags
    /// (protocol.md 4).
    pub tag_filtering: bool,
    /// `log`: a filter that `tracing_subscriber::EnvFilter` can read.
    pub log: String,
    /// `log_format`; none is text on a terminal, else JSON.
    pub log_format: Option<LogFormat>,
    /// `--dev`: print addresses and commands to copy.
    pub dev: bool,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// What the command line said: the topmost layer.
#[derive(Debug, Default, Clone)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub listen: Option<String>,
    pub redis: Option<String>,
    pub metrics_listen: Option<String>,
    pub dev: bool,
}

/// The outcome of [`load`]. The settings are there even when they do not make
/// a configuration, so that `--print-config` can show what is wrong.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub config: Result<Config, Problems>,
    pub warnings: Vec<Warning>,
}

/// Reads all four layers and checks them.
pub fn load(flags: &Flags, environment: &Environment) -> Loaded {
    let mut problems = Vec::new();
    let settings = layers::read(flags, environment, &mut problems);
    let mut warnings = Vec::new();
    let config = build::build(&settings, flags.dev, &mut problems, &mut warnings);
    let config = if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) };
    Loaded { settings, config, warnings }
}

/// By hand, because a Redis URL may hold a password.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("listen", &self.listen)
            .field("metrics_listen", &self.metrics_listen)
            .field("redis", &self.redis.as_deref().map(hide_password))
            .field("redis_prefix", &self.redis_prefix)
            .field("path_prefix", &self.path_prefix)
            .field("trusted_proxies", &self.trusted_proxies)
            .field("apps", &self.apps)
            .field("delta", &self.delta)
            .field("tag_filtering", &self.tag_filtering)
            .field("dev", &self.dev)
            .finish_non_exhaustive()
    }
}
