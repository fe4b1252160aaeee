//! Where the log goes and what it looks like. What may stand in it is up to
//! those who write it: no secret, no signature, no payload.

use std::io::{IsTerminal, stderr};

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Sets up the log on stderr, which leaves stdout to what was asked for.
pub fn init(filter: &str, format: Option<LogFormat>) {
    let is_terminal = stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let log = tracing_subscriber::fmt().with_env_filter(env_filter(filter)).with_writer(stderr);
    if format == LogFormat::Json {
        log.json().flatten_event(true).with_span_list(false).init();
    } else {
        log.with_ansi(is_terminal).init();
    }
}

/// The Redis client warns of every lost connection, several times; what it means
/// for this server is said here. It is heard where the filter names it. The
/// WebSocket library would trace what clients say: it is never heard.
fn env_filter(filter: &str) -> EnvFilter {
    let names_fred = filter.split(',').any(|directive| directive.trim().starts_with("fred"));
    let fred = if names_fred { "" } else { ",fred=off" };
    EnvFilter::new(format!("{filter}{fred},tungstenite=off,tokio_tungstenite=off"))
}
