//! A client for unit tests: reconstructs events from the frames in its write buffer.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::delta::chain::{Base, Chains};
use crate::delta::settings::MarkerStyle;
use crate::delta::{Algorithm, fossil, vcdiff};
use crate::encode::DeliveryOptions;
use crate::event::Event;
use crate::filter::Tags;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::envelope;

/// Name and data of an event, as the client library passes them to the application.
pub(crate) type Received = (String, String);

/// A client that reconstructs events as in protocol.md 3.5.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) write_buffer: Arc<WriteBuffer>,
    pub(crate) options: DeliveryOptions,
    pub(crate) style: MarkerStyle,
    /// By conflation key: sequence number and text of the newest event.
    pub(crate) bases: HashMap<String, (u64, String)>,
    pub(crate) received: Vec<Received>,
    /// The sequence number that the client would resume from.
    pub(crate) position: u64,
}

impl Client {
    pub(crate) fn read(&mut self) {
        for frame in frames(&self.write_buffer.queued().concat()) {
            self.receive(&frame);
        }
    }

    pub(crate) fn receive(&mut self, text: &str) {
        let frame: Value = serde_json::from_str(text).expect("frames are JSON");
        let name = frame["event"].as_str().expect("a name");
        if name == format!("{}:delta", self.options.event_prefix.prefix()) {
            return self.apply(&frame["data"]);
        }
        if name == format!("{}:delta_cache_sync", self.options.event_prefix.prefix()) {
            self.replace_bases(&data(&frame));
        }
        if frame["data"]["missed"] == true {
            self.bases.clear();
        }
        if name.starts_with("pusher") || name.starts_with("sockudo") {
            self.received.push((name.to_owned(), data(&frame)));
            return;
        }
        let (seq, key) = match self.style {
            MarkerStyle::Underscore => ("__delta_seq", "__conflation_key"),
            MarkerStyle::Plain => ("sequence", "conflation_key"),
        };
        assert!(
            self.options.algorithm.is_some() || frame.get(seq).is_none(),
            "markers only with deltas enabled"
        );
        assert!(
            self.options.has_opted_in() || frame.get("tags").is_none(),
            "tags only with an extension enabled"
        );
        assert_eq!(self.options.positions && frame.get(seq).is_none(), frame.get("__seq").is_some());
        if let Some(number) = frame.get(seq).and_then(Value::as_u64) {
            let key = frame.get(key).map_or("", |key| key.as_str().expect("a key")).to_owned();
            let stripped = match self.style {
                MarkerStyle::Plain => text.to_owned(),
                MarkerStyle::Underscore => text
                    .replace(&format!(",\"__delta_seq\":{number}"), "")
                    .replace(&format!(",\"__conflation_key\":\"{key}\""), ""),
            };
            self.bases.insert(key, (number, stripped));
            self.position = number;
        }
        self.position = frame.get("__seq").and_then(Value::as_u64).unwrap_or(self.position);
        self.received.push((name.to_owned(), data(&frame)));
    }

    fn apply(&mut self, delta: &Value) {
        let key = delta.get("conflation_key").map_or("", |key| key.as_str().expect("a key")).to_owned();
        let patch = STANDARD.decode(delta["delta"].as_str().expect("a delta")).expect("base64");
        let (held, base) = &self.bases[&key];
        assert_eq!(Some(*held), delta["base_index"].as_u64(), "a delta only for a client that has its base");
        let algorithm = self.options.algorithm.expect("a delta only with deltas enabled");
        let text = match algorithm {
            Algorithm::Fossil => fossil::decode(base.as_bytes(), &patch, 1 << 20).expect("the right base"),
            Algorithm::Vcdiff => vcdiff::decode(base.as_bytes(), &patch, 1 << 20).expect("the right base"),
        };
        assert_eq!(delta["algorithm"], algorithm.name());
        let text = String::from_utf8(text).expect("UTF-8");
        let envelope: Value = serde_json::from_str(&text).expect("the target is an envelope");
        self.received.push((delta["event"].as_str().expect("a name").into(), data(&envelope)));
        self.position = delta["seq"].as_u64().expect("a number");
        self.bases.insert(key, (self.position, text));
    }

    /// Replaces all bases by the initial bases of the channel (protocol.md 3.9).
    fn replace_bases(&mut self, sync: &str) {
        let sync: Value = serde_json::from_str(sync).expect("the data is JSON");
        let states = sync["states"].as_object().expect("states");
        let base = |(key, newest): (&String, &Value)| {
            let (seq, text) = (newest[0]["seq"].as_u64(), newest[0]["content"].as_str());
            (key.clone(), (seq.expect("a number"), text.expect("a text").to_owned()))
        };
        self.bases = states.iter().map(base).collect();
    }

    /// Whether an event with this name and these tags passes the client's filter.
    pub(crate) fn matches(&self, name: &str, tags: Option<&[u8]>) -> bool {
        self.options.filter.as_ref().is_none_or(|it| it.passes(name.as_bytes(), &Tags::read(tags)))
    }

    /// The client's bases, as known to a node when it resumes.
    pub(crate) fn held(&self) -> Chains {
        let mut held = Chains::default();
        for (key, (seq, text)) in &self.bases {
            let base = Base { text: text.clone().into(), seq: *seq, time_ms: 0 };
            held.advance(&key.clone().into(), base, usize::MAX);
        }
        held
    }
}

/// The text of `data`, whether it is a string or inline JSON.
pub(crate) fn data(envelope: &Value) -> String {
    match &envelope["data"] {
        Value::String(text) => text.clone(),
        inline => inline.to_string(),
    }
}

/// The texts of unmasked frames.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while !bytes.is_empty() {
        assert_eq!(bytes[0], 0x81);
        let (header, len) = match bytes[1] {
            126 => (4, usize::from(u16::from_be_bytes([bytes[2], bytes[3]]))),
            len => (2, usize::from(len)),
        };
        texts.push(String::from_utf8(bytes[header..header + len].to_vec()).expect("UTF-8"));
        bytes = &bytes[header + len..];
    }
    texts
}

/// Inline payloads are compared as JSON values here. `tests/it` compares their bytes
/// with the published ones, with an independent decoder.
pub(crate) fn normalized(data: &str) -> String {
    match crate::json::is_container(data.as_bytes()).then(|| serde_json::from_str::<Value>(data)) {
        Some(Ok(value)) if !envelope::has_marker(&Event::new("", data.to_owned())) => value.to_string(),
        _ => data.to_owned(),
    }
}
