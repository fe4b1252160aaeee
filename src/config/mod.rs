//! Configuration: strings from file, environment and flags become one typed
//! [`Config`]. All mistakes are reported together.
//!
//! [`keys`] is the table of all settings. [`layers`] reads the four sources of a
//! value. [`kind`] parses, checks and stores single values. [`build`] checks relations
//! between keys. [`print`] formats the result. The environment is a map, so that
//! tests do not depend on that of the process.

mod app_draft;
mod build;
mod channel_deltas;
mod edge;
mod environment;
mod fault;
pub mod keys;
mod kind;
mod layers;
mod message_rate;
mod origin;
mod pieces;
mod place;
mod print;
mod problem;
mod raw;
mod redis_url;
mod start_settings;
mod table;
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
use crate::limits::DetectionTimes;

pub use environment::{Environment, NotUtf8};
pub use kind::SECRET_EXPECTED;
pub use layers::{Setting, Settings};
pub use origin::Origin;
pub use pieces::{
    AppCredentials, RedisTarget, ServerAddress, app_credentials, app_setting, check_app_setting, check_apps,
    read_app, redis_target, server_address,
};
pub use place::Place;
pub use problem::{Problem, Problems, Warning};
pub use redis_url::hide_password;
pub use start_settings::StartSettings;

/// Id of the app that `--dev` adds when no other is configured. All digits, because
/// Pusher's Python library rejects other ids.
pub const DEV_APP_ID: &str = "1001";
pub const DEV_APP_KEY: &str = "dev-key";
pub const DEV_APP_SECRET: &str = "dev-secret";
/// Listening address of `--dev`: loopback only, because the secret is public.
pub const DEV_LISTEN: &str = "127.0.0.1:6001";

/// The complete configuration of a server, validated.
pub struct Config {
    /// `listen`: address of the HTTP API and of WebSocket connections.
    pub listen: SocketAddr,
    /// `metrics_listen`: address of `/metrics`.
    pub metrics_listen: SocketAddr,
    /// `redis`: URL of the Redis backend; `None` selects the memory backend. It may
    /// contain a password: print it through [`hide_password`] only.
    pub redis: Option<String>,
    /// The file that `redis` was read from, whose credentials are read again later.
    pub redis_file: Option<PathBuf>,
    /// `redis_prefix`: prefix of every Redis key and topic.
    pub redis_prefix: String,
    /// `path_prefix`: prefix of the paths of the HTTP API and of WebSocket connections.
    /// Empty, or with a leading and without a trailing slash.
    pub path_prefix: String,
    /// `trusted_proxies`: networks whose `X-Forwarded-For` is used.
    pub trusted_proxies: Vec<IpNet>,
    /// Silence after which clients ping. The server pings after 1.25 times as long.
    pub activity_timeout: Duration,
    /// Time for which an idle HTTP connection stays open between two requests.
    pub keep_alive_timeout: Duration,
    /// HTTP connections in all.
    pub http_connections_max: usize,
    /// HTTP connections of one client address that are open for a while.
    pub http_connections_per_address_max: usize,
    /// Time from `/ready` failing to the first closed connection of a drain.
    pub drain_delay: Duration,
    /// Time over which a drain closes all connections.
    pub drain_window: Duration,
    pub apps: Vec<App>,
    pub delta: DeltaConfig,
    /// `tag_filtering.enabled`: whether subscriptions may have tag filters
    /// (protocol.md 4).
    pub tag_filtering: bool,
    /// `log`: a filter in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// `log_format`; `None` is text on a terminal, otherwise JSON.
    pub log_format: Option<LogFormat>,
    /// `test.speedup`: see [`DetectionTimes`].
    pub detection_times: DetectionTimes,
    /// `test.history_age`: the age of histories in the memory backend.
    pub history_age: Duration,
    /// `test.panic`: see [`crate::task::inject_panic`].
    pub test_panic: Option<&'static str>,
    /// `--dev`: print addresses and example commands.
    pub dev: bool,
}

impl Config {
    /// Without the defaults of the keys.
    fn unset() -> Config {
        let address = SocketAddr::from(([0, 0, 0, 0], 0));
        Config {
            listen: address,
            metrics_listen: address,
            redis: None,
            redis_file: None,
            redis_prefix: String::new(),
            path_prefix: String::new(),
            trusted_proxies: Vec::new(),
            activity_timeout: Duration::ZERO,
            keep_alive_timeout: Duration::ZERO,
            http_connections_max: 0,
            http_connections_per_address_max: 0,
            drain_delay: Duration::ZERO,
            drain_window: Duration::ZERO,
            apps: Vec::new(),
            delta: DeltaConfig::default(),
            tag_filtering: false,
            log: String::new(),
            log_format: None,
            history_age: Duration::ZERO,
            test_panic: None,
            detection_times: DetectionTimes::default(),
            dev: false,
        }
    }
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// Flags of the command line: the highest layer.
#[derive(Debug, Default, Clone)]
pub struct Flags {
    pub config: Option<PathBuf>,
    pub listen: Option<String>,
    pub redis: Option<String>,
    /// Of the commands for apps in Redis; the server has no such flag.
    pub redis_prefix: Option<String>,
    pub metrics_listen: Option<String>,
    pub dev: bool,
}

/// The outcome of [`load`]. The settings are present even if the configuration is
/// invalid, so that `--print-config` can show them.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub config: Result<Config, Problems>,
    pub warnings: Vec<Warning>,
}

/// Reads all four layers and checks them.
pub fn load(flags: &Flags, environment: &Environment) -> Loaded {
    let mut problems = Vec::new();
    let mut settings = layers::read(flags, environment, &mut problems);
    let mut warnings = Vec::new();
    let config = build::build(&mut settings, flags.dev, &mut problems, &mut warnings);
    let config = if problems.is_empty() { Ok(config) } else { Err(Problems(problems)) };
    Loaded { settings, config, warnings }
}

/// Implemented by hand, because a Redis URL may contain a password.
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
