//! Destination and format of the log. Every call site is responsible for its fields: no
//! secret, no signature, no payload.

use std::fmt::{self, Debug, Write};
use std::io::{IsTerminal, stderr};

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::config::LogFormat;

/// Changes the filter of the log while the server runs.
#[derive(Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Registry>);

impl LogFilter {
    /// `filter` is valid: the configuration has checked it.
    pub fn set(&self, filter: &str) {
        // An error means that the log has ended, with the process.
        let _ = self.0.reload(env_filter(filter));
    }
}

/// Initialises the log on stderr, so that stdout carries only the output of commands.
pub fn init(filter: &str, format: Option<LogFormat>) -> LogFilter {
    let is_terminal = stderr().is_terminal();
    let format = format.unwrap_or(if is_terminal { LogFormat::Text } else { LogFormat::Json });
    // A line that cannot be written is lost. Otherwise it would be reported with `eprintln!`, which
    // panics in the task that logs when stderr is closed or full.
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).log_internal_errors(false);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).with_span_list(false).boxed(),
        LogFormat::Text => {
            lines.with_ansi(is_terminal).fmt_fields(debug_fn(write_field).delimited(" ")).boxed()
        }
    };
    let (filter, handle) = reload::Layer::new(env_filter(filter));
    tracing_subscriber::registry().with(filter).with(lines).init();
    LogFilter(handle)
}

/// Adds directives for two libraries. The Redis client logs several warnings per lost
/// connection, and the server logs the effect itself: `fred` is off unless the filter
/// names it. The WebSocket library traces the messages of clients: it is always off.
fn env_filter(filter: &str) -> EnvFilter {
    let names_fred = filter.split(',').any(|directive| directive.trim().starts_with("fred"));
    let fred = if names_fred { "" } else { ",fred=off" };
    EnvFilter::new(format!("{filter}{fred},tungstenite=off,tokio_tungstenite=off"))
}

/// Writes a field of the text format, with control characters escaped: values of strangers must
/// neither begin a line of their own nor control a terminal.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaped(writer), "{value:?}")
}

struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|char| match char.is_control() {
            true => write!(self.0, "{}", char.escape_default()),
            false => self.0.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        let mut line = String::new();
        write!(Escaped(&mut line), "täglich\n\u{1b}[2J\u{9b}").expect("a text");
        assert_eq!(line, "täglich\\n\\u{1b}[2J\\u{9b}");
    }
}
