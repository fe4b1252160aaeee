//! Where the log goes and what it looks like. What may stand in it is up to
//! those who write it: no secret, no signature, no payload.

use std::io::{IsTerminal, stderr};

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Sets up the log on stderr, which leaves stdout to what was asked for.
pub fn init(filter: &str, format: Option<LogFormat>) {
    let is_terminal = stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(filter)).with_writer(stderr);
    if format == LogFormat::Json {
        log.json().flatten_event(true).with_span_list(false).init();
    } else {
        log.with_ansi(is_terminal).init();
    }
}
