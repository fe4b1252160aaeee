//! What a client says (protocol.md 2.2, 2.4, 3.2, 3.10): text becomes a
//! [`Command`], or an error that can be sent back.

use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::json;
use crate::limits;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ping,
    Pong,
    Subscribe(Subscribe),
    Unsubscribe {
        channel: String,
    },
    /// `pusher:enable_delta_compression`; no list means any algorithm.
    EnableDelta {
        algorithms: Option<Vec<String>>,
    },
    /// `pusher:delta_sync_error`: the client has no base for a delta.
    DeltaSyncError {
        channel: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub channel: String,
    /// `key:signature`; absent or empty for public channels.
    pub auth: Option<String>,
    pub delta: DeltaRequest,
    /// `filter` or `tags_filter` is there.
    pub filtered: bool,
}

/// What a subscription says of deltas, in all forms of protocol.md 3.2.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeltaRequest {
    /// Nothing, or nothing that means something: the socket's opt-in decides.
    #[default]
    Unsaid,
    Off,
    /// On, with the algorithm that the client named, lower-cased.
    On {
        algorithm: Option<String>,
    },
}

/// The connection stays open; the client is told in a `pusher:error`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    #[error("The message is nested deeper than {} levels", limits::JSON_DEPTH_MAX)]
    TooDeep,
    #[error("The message is not valid JSON: {0}")]
    NotJson(String),
    #[error("`{field}` must be {expected}")]
    Field { field: &'static str, expected: &'static str },
    #[error("Client events are not supported by this version")]
    ClientEvent,
    #[error("`{0}` is not supported by this version")]
    Unsupported(String),
    #[error("`{0}` is not an event that a client may send")]
    Unknown(String),
}

impl CommandError {
    /// Protocol.md 2.3: 4301 for client events, none where no code fits.
    pub fn code(&self) -> Option<u16> {
        matches!(self, CommandError::ClientEvent).then_some(4301)
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
struct SubscribeData<'a> {
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    filter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tags_filter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    algorithms: Option<&'a RawValue>,
}

impl Command {
    /// Reads one text message. Members that mean nothing are ignored.
    pub fn parse(text: &str) -> Result<Command, CommandError> {
        if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
            return Err(CommandError::TooDeep);
        }
        let message: Message<'_> =
            serde_json::from_str(text).map_err(|error| CommandError::NotJson(error.to_string()))?;
        let event = string("event", message.event)?;
        match event.as_str() {
            "pusher:ping" => Ok(Command::Ping),
            "pusher:pong" => Ok(Command::Pong),
            "pusher:subscribe" => with_data(message.data, |data| subscribe(&data)),
            "pusher:unsubscribe" => {
                with_data(message.data, |data| Ok(Command::Unsubscribe { channel: channel(&data)? }))
            }
            "pusher:enable_delta_compression" => with_data(message.data, |data| enable_delta(&data)),
            "pusher:delta_sync_error" => {
                with_data(message.data, |data| Ok(Command::DeltaSyncError { channel: channel(&data)? }))
            }
            "pusher:signin" => Err(CommandError::Unsupported(event)),
            name if name.starts_with("client-") => Err(CommandError::ClientEvent),
            _ => Err(CommandError::Unknown(event)),
        }
    }
}

/// `data` is an object, or a string whose content is one (protocol.md 2.4);
/// absent is empty.
fn with_data<T>(
    raw: Option<&RawValue>,
    read: impl FnOnce(SubscribeData<'_>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let not_object = |_| CommandError::Field { field: "data", expected: "an object" };
    let Some(raw) = raw else { return read(SubscribeData::default()) };
    if !raw.get().starts_with('"') {
        return read(serde_json::from_str(raw.get()).map_err(not_object)?);
    }
    let text: String = serde_json::from_str(raw.get()).map_err(not_object)?;
    if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
        return Err(CommandError::TooDeep);
    }
    read(serde_json::from_str(&text).map_err(not_object)?)
}

fn subscribe(data: &SubscribeData<'_>) -> Result<Command, CommandError> {
    Ok(Command::Subscribe(Subscribe {
        channel: channel(data)?,
        auth: data.auth.map(|auth| string("auth", Some(auth))).transpose()?,
        delta: data.delta.map_or(DeltaRequest::Unsaid, delta_request),
        filtered: data.filter.is_some() || data.tags_filter.is_some(),
    }))
}

fn enable_delta(data: &SubscribeData<'_>) -> Result<Command, CommandError> {
    let algorithms = data.algorithms.map(|list| {
        serde_json::from_str::<Vec<String>>(list.get())
            .map(|names| names.iter().map(|name| name.to_ascii_lowercase()).collect())
            .map_err(|_| CommandError::Field { field: "algorithms", expected: "an array of strings" })
    });
    Ok(Command::EnableDelta { algorithms: algorithms.transpose()? })
}

fn delta_request(raw: &RawValue) -> DeltaRequest {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Switch(bool),
        Name(String),
        Settings {
            #[serde(default = "yes")]
            enabled: Option<bool>,
            #[serde(default)]
            algorithm: Option<String>,
        },
    }
    fn yes() -> Option<bool> {
        Some(true)
    }
    let on =
        |algorithm: Option<String>| DeltaRequest::On { algorithm: algorithm.map(|a| a.to_ascii_lowercase()) };
    match serde_json::from_str(raw.get()) {
        Ok(Form::Switch(true)) => on(None),
        Ok(Form::Switch(false)) => DeltaRequest::Off,
        Ok(Form::Name(name)) => match name.to_ascii_lowercase().as_str() {
            "disabled" | "false" | "none" => DeltaRequest::Off,
            _ => on(Some(name)),
        },
        Ok(Form::Settings { enabled: Some(false), .. }) => DeltaRequest::Off,
        Ok(Form::Settings { algorithm, .. }) => on(algorithm),
        Err(_) => DeltaRequest::Unsaid,
    }
}

fn channel(data: &SubscribeData<'_>) -> Result<String, CommandError> {
    string("channel", data.channel)
}

fn string(field: &'static str, raw: Option<&RawValue>) -> Result<String, CommandError> {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .ok_or(CommandError::Field { field, expected: "a string" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn on(algorithm: Option<&str>) -> DeltaRequest {
        DeltaRequest::On { algorithm: algorithm.map(str::to_owned) }
    }

    #[test]
    fn every_form_of_delta_is_read() {
        for (form, expected) in [
            (r#""fossil""#, on(Some("fossil"))),
            (r#""XDelta3""#, on(Some("xdelta3"))),
            (r#""anything""#, on(Some("anything"))),
            (r#""disabled""#, DeltaRequest::Off),
            (r#""False""#, DeltaRequest::Off),
            (r#""none""#, DeltaRequest::Off),
            ("true", on(None)),
            ("false", DeltaRequest::Off),
            ("{}", on(None)),
            (r#"{"enabled":null,"algorithm":"fossil"}"#, on(Some("fossil"))),
            (r#"{"enabled":true,"algorithms":["x"]}"#, on(None)),
            (r#"{"enabled":false,"algorithm":"fossil"}"#, DeltaRequest::Off),
            ("7", DeltaRequest::Unsaid),
            ("[1]", DeltaRequest::Unsaid),
        ] {
            let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"c","delta":{form}}}}}"#);
            let Ok(Command::Subscribe(subscribe)) = Command::parse(&text) else { panic!("{text}") };
            assert_eq!(subscribe.delta, expected, "{form}");
        }
    }

    #[test]
    fn data_may_be_a_string() {
        let text = r#"{"event":"pusher:unsubscribe","data":"{\"channel\":\"c\"}"}"#;
        assert_eq!(Command::parse(text), Ok(Command::Unsubscribe { channel: "c".into() }));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, error) in [
            ("{}", "`event` must be a string"),
            (r#"{"event":7}"#, "`event` must be a string"),
            (r#"{"event":"pusher:subscribe"}"#, "`channel` must be a string"),
            (r#"{"event":"pusher:subscribe","data":7}"#, "`data` must be an object"),
            (r#"{"event":"pusher:subscribe","data":{"channel":"c","auth":1}}"#, "`auth` must be a string"),
            (r#"{"event":"client-x","data":1}"#, "Client events are not supported by this version"),
            (r#"{"event":"x"}"#, "`x` is not an event that a client may send"),
            (r#"{"event":"pusher:signin"}"#, "`pusher:signin` is not supported by this version"),
        ] {
            assert_eq!(Command::parse(text).map_err(|e| e.to_string()), Err(error.to_owned()), "{text}");
        }
        assert_eq!(Command::parse(&"[".repeat(20_000)), Err(CommandError::TooDeep));
        let nested = serde_json::json!({ "event": "pusher:subscribe", "data": "[".repeat(20_000) });
        assert_eq!(Command::parse(&nested.to_string()), Err(CommandError::TooDeep));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in any::<String>()) {
            let _ = Command::parse(&text);
        }
    }
}
