//! `fanfare trigger`: signs and publishes one event or a batch.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::error::CliError;
use super::input::read_file;
use super::sign::{encode, now, signed_target};
use super::target::Target;
use super::{client, output};
use crate::config::Environment;

/// Time limit of a publish, which may wait for Redis.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Publish one event, or the events of a JSON file.
#[derive(Debug, clap::Args)]
pub struct Trigger {
    /// Channel to publish on
    #[arg(required_unless_present = "file")]
    channel: Option<String>,
    /// Name of the event
    #[arg(required_unless_present = "file")]
    event: Option<String>,
    /// Data of the event, delivered verbatim
    #[arg(required_unless_present = "file", allow_negative_numbers = true)]
    data: Option<String>,
    /// Socket id of a connection that does not receive the event
    #[arg(long, value_name = "ID")]
    socket_id: Option<String>,
    /// Comma-separated attributes of the channel to return, such as subscription_count
    #[arg(long, value_name = "NAMES")]
    info: Option<String>,
    /// Full event for all subscribers, never a delta
    #[arg(long)]
    no_delta: bool,
    /// JSON file with one event, a list of events or {"batch":[…]}; - is stdin
    #[arg(long, conflicts_with_all = ["channel", "event", "data", "socket_id", "info", "no_delta"])]
    file: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
}

/// The body of `POST …/events` (protocol.md 1.3).
#[derive(Serialize)]
struct Event<'a> {
    name: &'a str,
    channel: &'a str,
    data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<bool>,
}

/// The body of a request and the last segment of its path.
#[derive(Debug, PartialEq)]
struct Request {
    endpoint: &'static str,
    body: Vec<u8>,
}

impl Trigger {
    pub(super) async fn run(self, environment: &Environment) -> Result<(), CliError> {
        let server = self.target.server(environment)?;
        let app = self.target.credentials(environment)?;
        let Request { endpoint, body } = match &self.file {
            Some(path) => request_of_file(path, &read_file(path)?)?,
            None => self.request(),
        };
        let path = format!("/apps/{}/{endpoint}", encode(&app.app_id));
        let target = signed_target(&app, "POST", &path, &[], &body, now())?;
        let response = client::send(&server, Method::POST, &target, body, TIMEOUT).await?;
        Ok(output::remote_line(&response)?)
    }

    fn request(&self) -> Request {
        let event = Event {
            name: self.event.as_deref().unwrap_or_default(),
            channel: self.channel.as_deref().unwrap_or_default(),
            data: self.data.as_deref().unwrap_or_default(),
            socket_id: self.socket_id.as_deref(),
            info: self.info.as_deref(),
            delta: self.no_delta.then_some(false),
        };
        Request {
            endpoint: "events",
            body: serde_json::to_vec(&event).expect("texts can be written as JSON"),
        }
    }
}

/// The request for a file. Its JSON is sent verbatim, and the server validates the events.
/// A bare list is wrapped in `{"batch":…}`.
fn request_of_file(path: &Path, text: &[u8]) -> Result<Request, CliError> {
    let raw: &RawValue =
        serde_json::from_slice(text).map_err(|error| CliError::NotJson { path: path.to_owned(), error })?;
    let body = raw.get().trim();
    if body.starts_with('[') {
        return Ok(Request { endpoint: "batch_events", body: format!("{{\"batch\":{body}}}").into_bytes() });
    }
    let members: Result<std::collections::HashMap<String, &RawValue>, _> = serde_json::from_str(body);
    let members = members.map_err(|_| CliError::NotEvents { path: path.to_owned() })?;
    let endpoint = if members.contains_key("batch") { "batch_events" } else { "events" };
    Ok(Request { endpoint, body: body.as_bytes().to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_file(text: &str) -> Option<(&'static str, String)> {
        let request = request_of_file(Path::new("f.json"), text.as_bytes()).ok()?;
        Some((request.endpoint, String::from_utf8(request.body).expect("UTF-8")))
    }

    #[test]
    fn request_of_file_selects_the_endpoint_by_the_json() {
        let event = r#"{"name":"e","channel":"c","data":{"n":1.0}}"#;
        assert_eq!(of_file(&format!(" {event}\n")), Some(("events", event.to_owned())));
        let batch = format!("{{\"batch\":[{event}]}}");
        assert_eq!(of_file(&format!("[{event}]")), Some(("batch_events", batch.clone())));
        assert_eq!(of_file(&batch), Some(("batch_events", batch)));
        for wrong in ["", "7", "\"text\"", "{", "[1"] {
            assert_eq!(of_file(wrong), None, "{wrong}");
        }
    }
}
