//! Destination and format of the log. Every call site is responsible for its fields: no
//! secret, no signature, no payload.

use std::io::{IsTerminal, stderr};

use crate::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// Initialises the log on stderr, so that stdout carries only the output of commands.
pub fn init(filter: &str, format: Option<LogFormat>) {
    let is_terminal = stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    let log = tracing_subscriber::fmt().with_env_filter(env_filter(filter)).with_writer(stderr);
    // A line that cannot be written is lost. Otherwise it would be reported with `eprintln!`, which
    // panics in the task that logs when stderr is closed or full.
    let log = log.log_internal_errors(false);
    if format == LogFormat::Json {
        log.json().flatten_event(true).with_span_list(false).init();
    } else {
        log.with_ansi(is_terminal).init();
    }
}

/// Adds directives for two libraries. The Redis client logs several warnings per lost
/// connection, and the server logs the effect itself: `fred` is off unless the filter
/// names it. The WebSocket library traces the messages of clients: it is always off.
fn env_filter(filter: &str) -> EnvFilter {
    let names_fred = filter.split(',').any(|directive| directive.trim().starts_with("fred"));
    let fred = if names_fred { "" } else { ",fred=off" };
    EnvFilter::new(format!("{filter}{fred},tungstenite=off,tokio_tungstenite=off"))
}
