//! A frame as a client parses it.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::output::printable;

/// The envelope of protocol.md 2.8, with the markers of 3.3.
#[derive(Debug, Deserialize)]
pub(super) struct Frame<'a> {
    pub(super) event: String,
    pub(super) channel: Option<String>,
    #[serde(borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(rename = "__delta_seq")]
    pub(super) sequence: Option<u64>,
    #[serde(rename = "__conflation_key")]
    pub(super) conflation_key: Option<String>,
}

impl<'a> Frame<'a> {
    pub(super) fn parse(text: &'a str) -> serde_json::Result<Frame<'a>> {
        serde_json::from_str(text)
    }

    /// Whether the frame is an event for the application, not one of the protocol.
    pub(super) fn is_event(&self) -> bool {
        !self.event.starts_with("pusher:") && !self.event.starts_with("pusher_internal:")
    }

    /// The published data: the value of a string, or the text of inline JSON.
    pub(super) fn data_text(&self) -> String {
        let Some(raw) = self.data else { return String::new() };
        serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned())
    }

    /// `data` of a protocol frame: an object, or a string with the JSON of one.
    pub(super) fn data_as<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_str(&self.data_text())
    }

    /// Event, channel and data, separated by tabs, on one line.
    pub(super) fn columns(&self) -> String {
        let channel = self.channel.as_deref().unwrap_or("-");
        [&self.event, channel, &self.data_text()].map(printable).join("\t")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, columns: &str, is_event: bool) {
        let frame = Frame::parse(text).expect("a frame");
        assert_eq!((frame.columns().as_str(), frame.is_event()), (columns, is_event), "{text}");
    }

    #[test]
    fn columns_contain_event_channel_and_published_data() {
        check(r#"{"event":"e","channel":"c","data":"{\"a\": 1}"}"#, "e\tc\t{\"a\": 1}", true);
        check(r#"{"event":"e","channel":"c","data":{"a": 1},"__delta_seq":4}"#, "e\tc\t{\"a\": 1}", true);
        check(r#"{"event":"e","channel":"c","data":"two\nlines"}"#, "e\tc\ttwo\\nlines", true);
        check(r#"{"event":"pusher:pong"}"#, "pusher:pong\t-\t", false);
        check(
            r#"{"event":"pusher_internal:x","channel":"c","data":"{}"}"#,
            "pusher_internal:x\tc\t{}",
            false,
        );
    }
}
