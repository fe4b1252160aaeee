//! The frames of the server.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// An envelope with the members that clients read. Borrows from the text, because some
/// tests receive a million of them.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow)]
    pub event: Cow<'a, str>,
    #[serde(borrow)]
    pub channel: Option<Cow<'a, str>>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(rename = "__delta_seq", alias = "sequence")]
    pub marker: Option<u32>,
    #[serde(borrow, rename = "__conflation_key", alias = "conflation_key")]
    pub key: Option<Cow<'a, str>>,
    #[serde(rename = "__seq")]
    pub seq: Option<u32>,
}

impl<'a> Envelope<'a> {
    pub fn parse(text: &'a str) -> Result<Envelope<'a>, String> {
        serde_json::from_str(text).map_err(|error| format!("{error} in frame {text}"))
    }

    /// The JSON text of `data`.
    pub fn data(&self) -> &'a str {
        self.data.map_or("null", RawValue::get)
    }

    /// The published text: the contents of a string, or inline JSON unchanged.
    pub fn published(&self) -> Cow<'a, str> {
        #[derive(Deserialize)]
        struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
        match serde_json::from_str(self.data()) {
            Ok(Text(text)) => text,
            Err(_) => Cow::Borrowed(self.data()),
        }
    }
}

/// A frame, independent of the buffer that it was received in.
#[derive(Debug, Clone)]
pub struct Frame {
    pub event: String,
    pub channel: Option<String>,
    /// As in the envelope: a string or an object.
    pub data: Value,
    /// The frame, byte for byte.
    pub text: String,
}

impl Frame {
    #[track_caller]
    pub fn parse(text: &str) -> Frame {
        let envelope = Envelope::parse(text).unwrap_or_else(|error| panic!("{error}"));
        Frame {
            event: envelope.event.to_string(),
            channel: envelope.channel.as_deref().map(str::to_owned),
            data: serde_json::from_str(envelope.data()).expect("a part of JSON is JSON"),
            text: text.into(),
        }
    }

    /// The string that every frame of an event carries.
    #[track_caller]
    pub fn data_text(&self) -> &str {
        self.data.as_str().unwrap_or_else(|| panic!("data is not a string: {}", self.text))
    }

    /// The JSON inside that string.
    #[track_caller]
    pub fn data_json(&self) -> Value {
        serde_json::from_str(self.data_text()).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }
}
