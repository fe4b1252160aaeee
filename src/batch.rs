//! Stage 2 of the path of a batch (design.md 2): parses a request body into a valid [`Batch`].
//!
//! All events are validated before any is published (P1). The first error ends the parse and
//! contains the index and the field of its event.

use std::collections::{HashMap, HashSet};
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::app::AppLimits;
use crate::channel::{ChannelKind, ChannelName, ChannelNameError};
use crate::event::{EventRef, RESERVED_PREFIXES, SocketId};
use crate::json::{self, BYTE_ORDER_MARK, DecodeError};
use crate::limits;

/// Valid events, in the caller's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    pub events: Vec<BatchEvent>,
}

/// A valid event, as an app's server publishes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchEvent {
    /// UTF-8, 1 to 200 characters.
    pub name: Bytes,
    /// UTF-8: the string that was published, or the text of the JSON value.
    pub data: Bytes,
    /// The connection that is excluded from delivery.
    pub except: Option<SocketId>,
    /// A JSON object of strings, as text.
    pub tags: Option<Bytes>,
    /// As in [`crate::event::Event`].
    pub delta: Option<bool>,
    /// At least one channel, without duplicates, in the caller's order.
    pub channels: Vec<ChannelName>,
    pub info: Info,
}

impl BatchEvent {
    /// Bytes of the event over all of its channels, as [`limits::BATCH_BYTES_MAX`] counts them.
    fn bytes(&self) -> usize {
        let tags = self.tags.as_ref().map_or(0, Bytes::len);
        self.channels.len() * (self.name.len() + self.data.len() + tags)
    }

    /// The event as it is encoded for a channel, where it may have a conflation key.
    pub fn with_key<'a>(&'a self, key: Option<&'a Bytes>) -> EventRef<'a> {
        let BatchEvent { name, data, except, tags, delta, .. } = self;
        EventRef { name, data, except: *except, tags: tags.as_ref(), delta: *delta, user: None, key }
    }
}

/// The channel attributes that a caller requests (protocol.md 1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Info {
    /// The request contains `info`, with known or unknown names: the reply has an object.
    pub asked: bool,
    pub subscription_count: bool,
    pub user_count: bool,
}

impl Info {
    /// Ignores unknown names, as publish requests do.
    fn parse(names: &str) -> Info {
        let mut info = Info { asked: true, ..Info::default() };
        for name in names.split(',') {
            match name.trim() {
                "subscription_count" => info.subscription_count = true,
                "user_count" => info.user_count = true,
                _ => {}
            }
        }
        info
    }
}

/// Why a body is not a valid batch. `http::error` maps it to 400, 413 or 422.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchError {
    /// Index of the event in the batch. `None` for the body as a whole, and for `/events`.
    pub index: Option<usize>,
    /// The invalid member of the event or of the body.
    pub field: Option<&'static str>,
    pub fault: BatchFault,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BatchFault {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    #[error("JSON is nested deeper than {depth_max} levels")]
    TooDeep { depth_max: usize },
    #[error("must be {expected}")]
    Type { expected: &'static str },
    #[error("has half of a surrogate pair, {escape}, which is not a character")]
    LoneSurrogate { escape: String },
    #[error("begins with {prefix:?}, which is reserved for the protocol")]
    Reserved { prefix: &'static str },
    #[error("is required")]
    Missing,
    #[error("must not be empty")]
    Empty,
    #[error("has {chars} characters (limit: {chars_max})")]
    TooLong { chars: usize, chars_max: usize },
    #[error("has {bytes} bytes (limit: {bytes_max})")]
    TooLarge { bytes: usize, bytes_max: usize },
    #[error("has {bytes} bytes over all channels (limit: {bytes_max})")]
    TooLargeOverall { bytes: usize, bytes_max: usize },
    #[error("has {count} {what} (limit: {count_max})")]
    TooMany { what: &'static str, count: usize, count_max: usize },
    #[error("{0}")]
    Channel(ChannelNameError),
    #[error("an encrypted channel must be an event's only channel: each has its own key")]
    EncryptedWithOthers,
    #[error("must look like 123.456")]
    SocketId,
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "event {index}: ")?;
        }
        match (self.field, &self.fault) {
            (Some(field), _) => write!(f, "`{field}` ")?,
            (None, BatchFault::Type { .. }) if self.index.is_none() => f.write_str("the body ")?,
            (None, _) => {}
        }
        self.fault.fmt(f)
    }
}

impl std::error::Error for BatchError {}

impl Batch {
    /// Parses the body of `POST …/batch_events` (protocol.md 1.4).
    ///
    /// # Errors
    ///
    /// The first fault, with the index of its event and the field. One fault refuses the whole
    /// batch (promise P1).
    ///
    /// # Examples
    ///
    /// ```
    /// use fanfare::app::AppLimits;
    /// use fanfare::batch::Batch;
    ///
    /// let limits = AppLimits::default();
    /// let body = br#"{"batch":[{"name":"goal","channel":"match-7","data":"2:1"}]}"#;
    /// let batch = Batch::parse_batch(body, &limits)?;
    /// assert_eq!(batch.events.len(), 1);
    ///
    /// let body = br#"{"batch":[{"name":"goal","channel":"match-7","data":"2:1"},{"name":""}]}"#;
    /// let error = Batch::parse_batch(body, &limits).unwrap_err();
    /// assert_eq!((error.index, error.field), (Some(1), Some("name")));
    /// assert_eq!(error.to_string(), "event 1: `name` must not be empty");
    /// # Ok::<(), fanfare::batch::BatchError>(())
    /// ```
    pub fn parse_batch(body: &[u8], app: &AppLimits) -> Result<Batch, BatchError> {
        #[derive(Deserialize)]
        struct Body<'a> {
            #[serde(borrow)]
            batch: Option<&'a RawValue>,
        }
        let body: Body<'_> = parse_object(body)?;
        let batch = body.batch.ok_or(in_field("batch", BatchFault::Missing))?;
        let items: Vec<&RawValue> = decode("batch", "an array", batch)?;
        let (count, count_max) = (items.len(), app.batch_events_max);
        if count > count_max {
            return Err(in_field("batch", BatchFault::TooMany { what: "events", count, count_max }));
        }
        let (mut events, mut publications) = (Vec::with_capacity(count), 0);
        for (index, item) in items.into_iter().enumerate() {
            let at_index = |error| BatchError { index: Some(index), ..error };
            let event = parse_event(item.get(), app).map_err(at_index)?;
            publications += event.channels.len();
            check_publications(publications, app).map_err(at_index)?;
            events.push(event);
        }
        check_bytes("batch", events)
    }

    /// Parses the body of `POST …/events` (protocol.md 1.3) as a batch with one event.
    pub fn parse_event(body: &[u8], app: &AppLimits) -> Result<Batch, BatchError> {
        let text = checked_text(body)?;
        serde_json::from_str::<&RawValue>(text).map_err(not_json)?;
        let event = parse_event(text, app)?;
        check_publications(event.channels.len(), app)?;
        check_bytes("data", vec![event])
    }

    /// The charge of the batch against the app's rate limit: each event once per channel
    /// (protocol.md 1.8).
    pub fn cost(&self) -> u64 {
        self.events.iter().map(|event| event.channels.len() as u64).sum()
    }
}

/// The known members of an event; others are ignored.
#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    // `null` is a value here; for other members it means absent.
    #[serde(borrow, default, deserialize_with = "including_null")]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    channel: Option<&'a RawValue>,
    #[serde(borrow)]
    channels: Option<&'a RawValue>,
    #[serde(borrow)]
    socket_id: Option<&'a RawValue>,
    #[serde(borrow)]
    info: Option<&'a RawValue>,
    #[serde(borrow)]
    tags: Option<&'a RawValue>,
    #[serde(borrow)]
    delta: Option<&'a RawValue>,
    #[serde(borrow)]
    idempotency_key: Option<&'a RawValue>,
}

fn including_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Checks in the order of the list in protocol.md 1.4.
fn parse_event(text: &str, app: &AppLimits) -> Result<BatchEvent, BatchError> {
    let raw: RawEvent<'_> = serde_json::from_str(text).map_err(|error| {
        let fault = match text.trim_start().starts_with('{') {
            // The text is valid JSON at this point: the remaining error is a duplicate key.
            true => BatchFault::NotJson(error.to_string()),
            false => BatchFault::Type { expected: "an object" },
        };
        BatchError { index: None, field: None, fault }
    })?;
    let name = parse_name(raw.name, app)?;
    let data = parse_data(raw.data, app)?;
    let channels = parse_channels(raw.channel, raw.channels, app)?;
    let except = parse_socket_id(raw.socket_id)?;
    let info = raw.info.map(parse_info).transpose()?;
    let tags = raw.tags.map(parse_tags).transpose()?;
    let delta = raw.delta.map(|delta| decode("delta", "true or false", delta));
    if let Some(key) = raw.idempotency_key {
        check_idempotency_key(&string("idempotency_key", key)?)?;
    }
    Ok(BatchEvent {
        name: name.into(),
        data: data.into(),
        except,
        tags,
        delta: delta.transpose()?,
        channels,
        info: info.unwrap_or_default(),
    })
}

fn parse_name(raw: Option<&RawValue>, app: &AppLimits) -> Result<String, BatchError> {
    let name = string("name", required("name", raw)?)?;
    let (chars, chars_max) = (name.chars().count(), app.event_name_chars_max);
    if chars == 0 {
        return Err(in_field("name", BatchFault::Empty));
    }
    if chars > chars_max {
        return Err(in_field("name", BatchFault::TooLong { chars, chars_max }));
    }
    match RESERVED_PREFIXES.into_iter().find(|prefix| name.starts_with(prefix)) {
        Some(prefix) => Err(in_field("name", BatchFault::Reserved { prefix })),
        None => Ok(name),
    }
}

/// Parses a comma-separated list of names, or an array of names.
fn parse_info(raw: &RawValue) -> Result<Info, BatchError> {
    let names = match raw.get().starts_with('[') {
        true => decode::<Vec<String>>("info", "a string or an array of strings", raw)?.join(","),
        false => decode("info", "a string or an array of strings", raw)?,
    };
    Ok(Info::parse(&names))
}

/// Returns the value of a string; any other value as its JSON text, verbatim.
fn parse_data(raw: Option<&RawValue>, app: &AppLimits) -> Result<String, BatchError> {
    let raw = required("data", raw)?;
    let data = match raw.get().starts_with('"') {
        true => string("data", raw)?,
        false => raw.get().to_owned(),
    };
    let (bytes, bytes_max) = (data.len(), app.payload_bytes_max);
    match bytes > bytes_max {
        true => Err(in_field("data", BatchFault::TooLarge { bytes, bytes_max })),
        false => Ok(data),
    }
}

/// The names in `channel`, then in `channels`, without duplicates (protocol.md 1.3).
fn parse_channels(
    channel: Option<&RawValue>,
    channels: Option<&RawValue>,
    app: &AppLimits,
) -> Result<Vec<ChannelName>, BatchError> {
    let mut names = Vec::new();
    if let Some(channel) = channel {
        names.push(("channel", string("channel", channel)?));
    }
    if let Some(channels) = channels {
        let list: Vec<String> = decode("channels", "an array of strings", channels)?;
        if list.is_empty() && names.is_empty() {
            return Err(in_field("channels", BatchFault::Empty));
        }
        names.extend(list.into_iter().map(|name| ("channels", name)));
    }
    if names.is_empty() {
        return Err(in_field("channel", BatchFault::Missing));
    }
    let (count, count_max) = (names.len(), app.event_channels_max);
    if count > count_max {
        return Err(in_field("channels", BatchFault::TooMany { what: "channels", count, count_max }));
    }
    let mut parsed: Vec<ChannelName> = Vec::with_capacity(count);
    for (field, name) in names {
        let name = ChannelName::parse(&name, app.channel_name_chars_max)
            .map_err(|error| in_field(field, BatchFault::Channel(error)))?;
        parsed.push(name);
    }
    // One channel, the usual case, needs no set.
    if count > 1 {
        let mut seen = HashSet::with_capacity(count);
        parsed.retain(|name| seen.insert(name.clone()));
    }
    if parsed.len() > 1 && parsed.iter().any(|name| name.kind() == ChannelKind::Encrypted) {
        return Err(in_field("channels", BatchFault::EncryptedWithOthers));
    }
    Ok(parsed)
}

fn parse_socket_id(raw: Option<&RawValue>) -> Result<Option<SocketId>, BatchError> {
    let Some(raw) = raw else { return Ok(None) };
    let text = string("socket_id", raw)?;
    match SocketId::is_shaped(&text) {
        true => Ok(SocketId::parse(&text)),
        false => Err(in_field("socket_id", BatchFault::SocketId)),
    }
}

fn parse_tags(raw: &RawValue) -> Result<Bytes, BatchError> {
    let tags: HashMap<String, String> = decode("tags", "an object of strings", raw)?;
    let bytes = tags.iter().map(|(key, value)| key.len() + value.len()).sum();
    let bytes_max = limits::TAGS_BYTES_MAX;
    match bytes > bytes_max {
        true => Err(in_field("tags", BatchFault::TooLarge { bytes, bytes_max })),
        false => Ok(Bytes::copy_from_slice(raw.get().as_bytes())),
    }
}

/// Validates an idempotency key, which has no effect yet (design.md 7): a retry publishes again.
pub fn check_idempotency_key(key: &str) -> Result<(), BatchError> {
    let (chars, chars_max) = (key.chars().count(), limits::IDEMPOTENCY_KEY_CHARS_MAX);
    match chars {
        0 => Err(in_field("idempotency_key", BatchFault::Empty)),
        _ if chars > chars_max => Err(in_field("idempotency_key", BatchFault::TooLong { chars, chars_max })),
        _ => Ok(()),
    }
}

fn check_publications(count: usize, app: &AppLimits) -> Result<(), BatchError> {
    let count_max = app.batch_publications_max;
    match count > count_max {
        true => {
            Err(in_field("channels", BatchFault::TooMany { what: "publications so far", count, count_max }))
        }
        false => Ok(()),
    }
}

fn check_bytes(field: &'static str, events: Vec<BatchEvent>) -> Result<Batch, BatchError> {
    let (bytes, bytes_max) = (events.iter().map(BatchEvent::bytes).sum(), limits::BATCH_BYTES_MAX);
    match bytes > bytes_max {
        true => Err(in_field(field, BatchFault::TooLargeOverall { bytes, bytes_max })),
        false => Ok(Batch { events }),
    }
}

fn parse_object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, BatchError> {
    let text = checked_text(body)?;
    if !text.trim_start().starts_with('{') {
        serde_json::from_str::<&RawValue>(text).map_err(not_json)?;
        return Err(of_body(BatchFault::Type { expected: "an object" }));
    }
    serde_json::from_str(text).map_err(not_json)
}

fn checked_text(body: &[u8]) -> Result<&str, BatchError> {
    let text = std::str::from_utf8(body).map_err(|_| of_body(BatchFault::NotUtf8))?;
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    match json::depth_within(body, limits::JSON_DEPTH_MAX) {
        true => Ok(text),
        false => Err(of_body(BatchFault::TooDeep { depth_max: limits::JSON_DEPTH_MAX })),
    }
}

fn required<'a>(field: &'static str, raw: Option<&'a RawValue>) -> Result<&'a RawValue, BatchError> {
    raw.ok_or(in_field(field, BatchFault::Missing))
}

fn string(field: &'static str, raw: &RawValue) -> Result<String, BatchError> {
    decode(field, "a string", raw)
}

fn decode<'de, T: Deserialize<'de>>(
    field: &'static str,
    expected: &'static str,
    raw: &'de RawValue,
) -> Result<T, BatchError> {
    json::decode(raw).map_err(|error| match error {
        DecodeError::Type => in_field(field, BatchFault::Type { expected }),
        DecodeError::LoneSurrogate(escape) => in_field(field, BatchFault::LoneSurrogate { escape }),
    })
}

#[allow(clippy::needless_pass_by_value, reason = "it is passed to `map_err`")]
fn not_json(error: serde_json::Error) -> BatchError {
    of_body(BatchFault::NotJson(error.to_string()))
}

fn of_body(fault: BatchFault) -> BatchError {
    BatchError { index: None, field: None, fault }
}

fn in_field(field: &'static str, fault: BatchFault) -> BatchError {
    BatchError { index: None, field: Some(field), fault }
}

#[cfg(test)]
mod tests;
