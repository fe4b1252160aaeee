//! Messages from clients (protocol.md 2.2, 2.4, 2.7, 2.9, 3.2, 3.10): parses a text message
//! into a [`Command`], or into an error for the client.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use super::event_prefix::EventPrefix;
use crate::delta::Algorithm;
use crate::json::{self, BYTE_ORDER_MARK, DecodeError};
use crate::limits;

/// A message from a client. Nothing but its form has been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ping,
    Pong,
    Subscribe(Subscribe),
    Unsubscribe {
        channel: String,
    },
    Signin(Signin),
    ClientEvent(ClientEvent),
    /// `enable_delta_compression`, with the known ones of its algorithms. A message without a
    /// list accepts any.
    EnableDelta {
        algorithms: Vec<Algorithm>,
    },
    /// `delta_sync_error`: the client lacks the base of a delta.
    DeltaSyncError {
        channel: String,
    },
}

/// `subscribe` (protocol.md 2.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub channel: String,
    /// `key:signature`. Absent or empty for public channels.
    pub auth: Option<String>,
    /// The member of a presence channel, as the exact text that `auth` signs.
    pub channel_data: Option<String>,
    pub delta: DeltaRequest,
    /// JSON text, not yet compiled.
    pub filter: Option<FilterText>,
    /// JSON text, not yet parsed (docs/resume.md).
    pub resume: Option<String>,
}

impl Subscribe {
    /// `channel_data`, unless it is absent or empty: some libraries send an empty string for an
    /// absent one.
    pub fn channel_data(&self) -> Option<&str> {
        self.channel_data.as_deref().filter(|text| !text.is_empty())
    }
}

/// The member that contains the filter of a subscription: `filter` or `tags_filter`. With both,
/// `filter` counts (protocol.md 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterText {
    Filter(String),
    Tags(String),
}

/// `signin` (protocol.md 2.9).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signin {
    /// `key:signature`
    pub auth: String,
    /// The exact text that `auth` signs.
    pub user_data: String,
}

/// An event for the other subscribers of a channel (protocol.md 2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEvent {
    /// Begins with `client-`.
    pub name: String,
    pub channel: String,
    /// A string as it is, any other value as its JSON text, as Pusher does. `{}` if absent:
    /// client libraries parse it.
    pub data: String,
}

/// The member `delta` of a subscription, parsed from all forms of protocol.md 3.2.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeltaRequest {
    /// Absent or without a meaning: the setting of the connection applies.
    #[default]
    Unspecified,
    Off,
    /// On, in one of these algorithms: the known ones of the client's list. All algorithms if
    /// the client names none, or a single unknown one.
    On {
        algorithms: Vec<Algorithm>,
    },
}

/// Why a message is not a command. The connection stays open.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    #[error("The message is nested deeper than {} levels", limits::JSON_DEPTH_MAX)]
    TooDeep,
    #[error("The message is not valid JSON: {0}")]
    NotJson(String),
    #[error("The message must be a JSON object with the member `event`")]
    NotObject,
    #[error("This is {0}: this server speaks the Pusher protocol, so connect with a Pusher client")]
    OtherProtocol(&'static str),
    #[error("Messages must be text, not binary")]
    Binary,
    #[error("`{field}` {fault}")]
    Field { field: &'static str, fault: Fault, code: Option<u16> },
    /// An error in a subscription with a valid `channel`: the server reports it on the channel.
    #[error("{error}")]
    Subscription { channel: String, error: Box<CommandError> },
    #[error("`{0}` is not an event that a client may send")]
    Unknown(String),
}

/// Why a member of a message is not valid.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("must be {0}")]
    Type(&'static str),
    #[error("has half of a surrogate pair, {0}, which is not a character")]
    LoneSurrogate(String),
}

impl CommandError {
    /// The code of the `pusher:error` (protocol.md 2.3): 4301 for client events, 4009 for
    /// sign-ins, otherwise none.
    pub fn code(&self) -> Option<u16> {
        match self {
            CommandError::Field { code, .. } => *code,
            _ => None,
        }
    }

    fn with_code(self, code: u16) -> CommandError {
        match self {
            CommandError::Field { field, fault, .. } => {
                CommandError::Field { field, fault, code: Some(code) }
            }
            other => other,
        }
    }
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    event: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    // `null` is a valid value in a client event, and different from an absent member.
    #[serde(borrow, default, deserialize_with = "keep_null")]
    data: Option<&'a RawValue>,
}

fn keep_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The members of `data` of all commands. A command reads only its own.
#[derive(Deserialize, Default)]
struct Data<'a> {
    #[serde(borrow, default)]
    channel: Option<&'a RawValue>,
    #[serde(borrow, default)]
    auth: Option<&'a RawValue>,
    #[serde(borrow, default)]
    channel_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user_data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    filter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tags_filter: Option<&'a RawValue>,
    #[serde(borrow, default)]
    resume: Option<&'a RawValue>,
    #[serde(borrow, default)]
    algorithms: Option<&'a RawValue>,
}

impl Command {
    /// Parses one text message. Unknown members are ignored.
    pub fn parse(text: &str) -> Result<Command, CommandError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
            return Err(CommandError::TooDeep);
        }
        // serde also accepts an array, and reads its elements as the members.
        if !text.trim_start().starts_with('{') {
            return Err(not_an_object(text));
        }
        let message: Message<'_> =
            serde_json::from_str(text).map_err(|error| CommandError::NotJson(error.to_string()))?;
        let event = string("event", message.event)?;
        match protocol_event(&event) {
            Some("ping") => Ok(Command::Ping),
            Some("pong") => Ok(Command::Pong),
            Some("subscribe") => with_data(message.data, |data| subscribe(&data)),
            Some("unsubscribe") => {
                with_data(message.data, |data| Ok(Command::Unsubscribe { channel: channel(&data)? }))
            }
            Some("enable_delta_compression") => with_data(message.data, |data| enable_delta(&data)),
            Some("delta_sync_error") => {
                with_data(message.data, |data| Ok(Command::DeltaSyncError { channel: channel(&data)? }))
            }
            Some("signin") => {
                with_data(message.data, |data| signin(&data)).map_err(|error| error.with_code(4009))
            }
            None if event.starts_with("client-") => {
                client_event(event, &message).map_err(|error| error.with_code(4301))
            }
            _ => Err(CommandError::Unknown(event)),
        }
    }
}

/// The name of a protocol event without its event prefix. Either prefix is accepted on every
/// connection (protocol.md 2.1).
fn protocol_event(event: &str) -> Option<&str> {
    let (prefix, name) = event.split_once(':')?;
    [EventPrefix::Pusher, EventPrefix::Sockudo]
        .iter()
        .any(|event_prefix| event_prefix.prefix() == prefix)
        .then_some(name)
}

/// The error of a message that does not begin with `{`.
fn not_an_object(text: &str) -> CommandError {
    match (other_protocol(text), serde_json::from_str::<IgnoredAny>(text)) {
        (Some(protocol), _) => CommandError::OtherProtocol(protocol),
        (None, Ok(_)) => CommandError::NotObject,
        (None, Err(error)) => CommandError::NotJson(error.to_string()),
    }
}

/// Recognises the packets of two other protocols. An Engine.IO packet begins with a digit for
/// its type. Type 4 is a message, in which Socket.IO adds a type of its own: `40`, `42["name"]`.
fn other_protocol(text: &str) -> Option<&'static str> {
    let is_type = |byte: &u8| (b'0'..=b'6').contains(byte);
    match text.trim_start().as_bytes() {
        [b'4', second, ..] if is_type(second) => Some("a Socket.IO packet"),
        [b'2' | b'3', b'p', ..] | [b'0'..=b'6', b'{' | b'[', ..] => Some("an Engine.IO packet"),
        [first] if is_type(first) => Some("an Engine.IO packet"),
        _ => None,
    }
}

/// Parses `data` and passes it to `read`. `data` is an object, or a string that holds one
/// (protocol.md 2.4); absent and `null` count as an empty object.
fn with_data<T>(
    raw: Option<&RawValue>,
    read: impl FnOnce(Data<'_>) -> Result<T, CommandError>,
) -> Result<T, CommandError> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return read(Data::default()) };
    let not_object = || wrong_type("data", "an object");
    let text: Cow<'_, str> = match raw.get().starts_with('"') {
        true => decode::<String>("data", "an object", Some(raw))?.into(),
        false => raw.get().into(),
    };
    if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
        return Err(CommandError::TooDeep);
    }
    // serde also accepts an array, and reads its elements as the members.
    if !text.trim_start().starts_with('{') {
        return Err(not_object());
    }
    read(serde_json::from_str(&text).map_err(|_| not_object())?)
}

fn subscribe(data: &Data<'_>) -> Result<Command, CommandError> {
    let channel = channel(data)?;
    let signed = |field, raw: Option<_>| raw.map(|raw| string(field, Some(raw))).transpose();
    let of_channel = |error| CommandError::Subscription { channel: channel.clone(), error: Box::new(error) };
    Ok(Command::Subscribe(Subscribe {
        auth: signed("auth", data.auth).map_err(of_channel)?,
        channel_data: signed("channel_data", data.channel_data).map_err(of_channel)?,
        channel,
        delta: data.delta.map_or(DeltaRequest::Unspecified, delta_request),
        filter: text(data.filter)
            .map(FilterText::Filter)
            .or_else(|| text(data.tags_filter).map(FilterText::Tags)),
        resume: text(data.resume),
    }))
}

/// The JSON text of a member, if it is present.
fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned())
}

fn signin(data: &Data<'_>) -> Result<Command, CommandError> {
    let auth = string("auth", data.auth)?;
    Ok(Command::Signin(Signin { auth, user_data: string("user_data", data.user_data)? }))
}

/// Keeps `event`, `channel` and `data` only. A `user_id` from the client would be forged: the
/// server takes it from the subscription.
fn client_event(name: String, message: &Message<'_>) -> Result<Command, CommandError> {
    let channel = string("channel", message.channel)?;
    let data = match message.data.map(RawValue::get) {
        None => "{}".to_owned(),
        Some(text) if text.starts_with('"') => string("data", message.data)?,
        Some(text) => text.to_owned(),
    };
    Ok(Command::ClientEvent(ClientEvent { name, channel, data }))
}

fn enable_delta(data: &Data<'_>) -> Result<Command, CommandError> {
    let algorithms = data.algorithms.map(|list| {
        let names: Vec<String> = decode("algorithms", "an array of strings", Some(list))?;
        Ok(known_algorithms(&names))
    });
    Ok(Command::EnableDelta { algorithms: algorithms.transpose()?.unwrap_or(Algorithm::ALL.to_vec()) })
}

/// The known ones of the client's list, each once: a connection keeps them.
fn known_algorithms(names: &[String]) -> Vec<Algorithm> {
    let mut known = Vec::new();
    for algorithm in names.iter().filter_map(|name| Algorithm::parse(name)) {
        if !known.contains(&algorithm) {
            known.push(algorithm);
        }
    }
    known
}

fn delta_request(raw: &RawValue) -> DeltaRequest {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum DeltaValue {
        Switch(bool),
        Name(String),
        Settings {
            #[serde(default = "yes")]
            enabled: Option<bool>,
            #[serde(default)]
            algorithm: Option<String>,
            #[serde(default)]
            algorithms: Option<Vec<String>>,
        },
    }
    fn yes() -> Option<bool> {
        Some(true)
    }
    let any = || DeltaRequest::On { algorithms: Algorithm::ALL.to_vec() };
    let named = |name: &str| Algorithm::parse(name).map(|one| DeltaRequest::On { algorithms: vec![one] });
    match serde_json::from_str(raw.get()) {
        Ok(DeltaValue::Switch(true)) => any(),
        Ok(DeltaValue::Switch(false)) => DeltaRequest::Off,
        Ok(DeltaValue::Name(name)) => match name.to_ascii_lowercase().as_str() {
            "disabled" | "false" | "none" => DeltaRequest::Off,
            name => named(name).unwrap_or_else(any),
        },
        Ok(DeltaValue::Settings { enabled: Some(false), .. }) => DeltaRequest::Off,
        Ok(DeltaValue::Settings { algorithm: Some(name), .. }) => named(&name).unwrap_or_else(any),
        Ok(DeltaValue::Settings { algorithms: Some(names), .. }) => {
            DeltaRequest::On { algorithms: known_algorithms(&names) }
        }
        Ok(DeltaValue::Settings { .. }) => any(),
        Err(_) => DeltaRequest::Unspecified,
    }
}

fn channel(data: &Data<'_>) -> Result<String, CommandError> {
    string("channel", data.channel)
}

fn string(field: &'static str, raw: Option<&RawValue>) -> Result<String, CommandError> {
    decode(field, "a string", raw)
}

fn decode<'de, T: Deserialize<'de>>(
    field: &'static str,
    expected: &'static str,
    raw: Option<&'de RawValue>,
) -> Result<T, CommandError> {
    let raw = raw.ok_or_else(|| wrong_type(field, expected))?;
    json::decode(raw).map_err(|error| match error {
        DecodeError::Type => wrong_type(field, expected),
        DecodeError::LoneSurrogate(escape) => {
            CommandError::Field { field, fault: Fault::LoneSurrogate(escape), code: None }
        }
    })
}

fn wrong_type(field: &'static str, expected: &'static str) -> CommandError {
    CommandError::Field { field, fault: Fault::Type(expected), code: None }
}

#[cfg(test)]
mod tests;
