//! What a client says (protocol.md 2.2, 2.4, 2.7, 2.9, 3.2, 3.10): text becomes a
//! [`Command`], or an error that can be sent back.

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use super::event_prefix::EventPrefix;
use crate::delta::Algorithm;
use crate::json::{self, BYTE_ORDER_MARK, DecodeError};
use crate::limits;

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
    /// `enable_delta_compression`, with those of the algorithms that are known; no list
    /// means any.
    EnableDelta {
        algorithms: Vec<Algorithm>,
    },
    /// `delta_sync_error`: the client has no base for a delta.
    DeltaSyncError {
        channel: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub channel: String,
    /// `key:signature`; absent or empty for public channels.
    pub auth: Option<String>,
    /// On presence channels, who joins: the text that `auth` has signed.
    pub channel_data: Option<String>,
    pub delta: DeltaRequest,
    /// JSON text, to be compiled.
    pub filter: Option<FilterText>,
    /// JSON text, to be read (docs/resume.md).
    pub resume: Option<String>,
}

impl Subscribe {
    /// Some libraries send an empty string for what they do not have.
    pub fn channel_data(&self) -> Option<&str> {
        self.channel_data.as_deref().filter(|text| !text.is_empty())
    }
}

/// Which of the two members stands there; `filter` wins (protocol.md 4).
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
    /// The text that `auth` has signed.
    pub user_data: String,
}

/// An event for the others on a channel (protocol.md 2.7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientEvent {
    /// Begins with `client-`.
    pub name: String,
    pub channel: String,
    /// The string that was sent, or the JSON text of another value, as Pusher
    /// does it. `{}` where there is none: libraries parse it.
    pub data: String,
}

/// What a subscription says of deltas, in all forms of protocol.md 3.2.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeltaRequest {
    /// Nothing, or nothing that means something: the socket's opt-in decides.
    #[default]
    Unspecified,
    Off,
    /// On, in one of these formats: those of the client's that are known. Any, if it
    /// names none or another one.
    On {
        algorithms: Vec<Algorithm>,
    },
}

/// Why a message is no command. The connection stays open.
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
    /// In a subscription whose channel is known, so that the error is reported on
    /// the channel.
    #[error("{error}")]
    Subscription { channel: String, error: Box<CommandError> },
    #[error("`{0}` is not an event that a client may send")]
    Unknown(String),
}

/// What is wrong with a member of a message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    #[error("must be {0}")]
    Type(&'static str),
    #[error("has half of a surrogate pair, {0}, which is not a character")]
    LoneSurrogate(String),
}

impl CommandError {
    /// Protocol.md 2.3: 4301 for client events, 4009 for sign-ins, none where no
    /// code fits.
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
    // `null` is a value of a client event.
    #[serde(borrow, default, deserialize_with = "even_null")]
    data: Option<&'a RawValue>,
}

fn even_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// The members of `data` that mean something in one command or another.
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
    /// Reads one text message. Members that mean nothing are ignored.
    pub fn parse(text: &str) -> Result<Command, CommandError> {
        let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
        if !json::depth_within(text.as_bytes(), limits::JSON_DEPTH_MAX) {
            return Err(CommandError::TooDeep);
        }
        // An array would do for serde: its elements would be taken for the members.
        if !text.trim_start().starts_with('{') {
            return Err(not_an_object(text));
        }
        let message: Message<'_> =
            serde_json::from_str(text).map_err(|error| CommandError::NotJson(error.to_string()))?;
        let event = string("event", message.event)?;
        match own_name(&event) {
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

/// What the event is called without its prefix, which may be that of either
/// event_prefix, whichever the connection is spoken to in (protocol.md 2.1).
fn own_name(event: &str) -> Option<&str> {
    let (prefix, name) = event.split_once(':')?;
    [EventPrefix::Pusher, EventPrefix::Sockudo]
        .iter()
        .any(|event_prefix| event_prefix.prefix() == prefix)
        .then_some(name)
}

/// Why a message that does not begin as an object is refused.
fn not_an_object(text: &str) -> CommandError {
    match (other_protocol(text), serde_json::from_str::<IgnoredAny>(text)) {
        (Some(protocol), _) => CommandError::OtherProtocol(protocol),
        (None, Ok(_)) => CommandError::NotObject,
        (None, Err(error)) => CommandError::NotJson(error.to_string()),
    }
}

/// The packets of Engine.IO begin with a digit for their type. Type 4 is a message,
/// in which Socket.IO puts a type of its own: `40`, `42["name"]`.
fn other_protocol(text: &str) -> Option<&'static str> {
    let is_type = |byte: &u8| (b'0'..=b'6').contains(byte);
    match text.trim_start().as_bytes() {
        [b'4', second, ..] if is_type(second) => Some("a Socket.IO packet"),
        [b'2' | b'3', b'p', ..] | [b'0'..=b'6', b'{' | b'[', ..] => Some("an Engine.IO packet"),
        [first] if is_type(first) => Some("an Engine.IO packet"),
        _ => None,
    }
}

/// `data` is an object, or a string whose content is one (protocol.md 2.4);
/// absent is empty.
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
    // An array would do as well: its elements would be taken for the members.
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

/// JSON text of a member that is there.
fn text(raw: Option<&RawValue>) -> Option<String> {
    raw.map(|raw| raw.get().to_owned())
}

fn signin(data: &Data<'_>) -> Result<Command, CommandError> {
    let auth = string("auth", data.auth)?;
    Ok(Command::Signin(Signin { auth, user_data: string("user_data", data.user_data)? }))
}

/// Members other than these three are dropped: `user_id`, for one, is not for
/// the client to say.
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
        Ok(known(&names))
    });
    Ok(Command::EnableDelta { algorithms: algorithms.transpose()?.unwrap_or(Algorithm::ALL.to_vec()) })
}

fn known(names: &[String]) -> Vec<Algorithm> {
    names.iter().filter_map(|name| Algorithm::parse(name)).collect()
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
        Ok(Form::Switch(true)) => any(),
        Ok(Form::Switch(false)) => DeltaRequest::Off,
        Ok(Form::Name(name)) => match name.to_ascii_lowercase().as_str() {
            "disabled" | "false" | "none" => DeltaRequest::Off,
            name => named(name).unwrap_or_else(any),
        },
        Ok(Form::Settings { enabled: Some(false), .. }) => DeltaRequest::Off,
        Ok(Form::Settings { algorithm: Some(name), .. }) => named(&name).unwrap_or_else(any),
        Ok(Form::Settings { algorithms: Some(names), .. }) => DeltaRequest::On { algorithms: known(&names) },
        Ok(Form::Settings { .. }) => any(),
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
