//! Decodes deltas to events, as client libraries do (protocol.md 3.3 to 3.5).

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::DecodeError;
use super::frame::Frame;
use crate::delta::{Algorithm, fossil, vcdiff};

/// Limit of decoded frames, in bytes: above any frame of a server. A broken delta cannot
/// allocate more.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The data of `pusher:delta`.
#[derive(Deserialize)]
struct Delta {
    event: String,
    delta: String,
    seq: u64,
    algorithm: Option<String>,
    #[serde(default)]
    conflation_key: String,
    base_index: u64,
}

/// The newest event of a chain.
#[derive(Debug)]
struct Base {
    sequence: u64,
    text: String,
}

/// Bases by channel and conflation key.
#[derive(Debug, Default)]
pub(super) struct Chains {
    bases: HashMap<(String, String), Base>,
}

/// The event that a delta encodes.
#[derive(Debug)]
pub(super) struct Decoded {
    /// Event name of the delta frame; that of the decoded envelope is ignored.
    pub(super) event: String,
    /// The decoded envelope.
    pub(super) text: String,
}

impl Chains {
    /// Stores a full frame with markers as the base of its chain.
    pub(super) fn keep(&mut self, frame: &Frame<'_>, text: &str) {
        if let (Some(channel), Some(sequence)) = (&frame.channel, frame.sequence) {
            let chain = (channel.clone(), frame.conflation_key.clone().unwrap_or_default());
            self.bases.insert(chain, Base { sequence, text: without_markers(text) });
        }
    }

    /// Decodes a delta frame. After an error, the bases of the channel are dropped until its
    /// next full frame.
    pub(super) fn apply(&mut self, frame: &Frame<'_>) -> Result<Decoded, DecodeError> {
        let channel = frame.channel.as_deref().unwrap_or_default();
        let decoded = self.decode(channel, frame);
        if decoded.is_err() {
            self.bases.retain(|(of, _), _| of != channel);
        }
        decoded
    }

    fn decode(&mut self, channel: &str, frame: &Frame<'_>) -> Result<Decoded, DecodeError> {
        let delta: Delta = frame.data_as()?;
        let algorithm = delta.algorithm.as_deref().unwrap_or(Algorithm::Fossil.name());
        let algorithm =
            Algorithm::parse(algorithm).ok_or_else(|| DecodeError::Algorithm(algorithm.to_owned()))?;
        let base = self.bases.get_mut(&(channel.to_owned(), delta.conflation_key));
        let held = base.as_ref().map(|base| base.sequence);
        let base = base.filter(|base| base.sequence == delta.base_index);
        let base = base.ok_or(DecodeError::NoBase { base_index: delta.base_index, held })?;
        let (from, patch) = (base.text.as_bytes(), STANDARD.decode(delta.delta)?);
        let bytes = match algorithm {
            Algorithm::Fossil => fossil::decode(from, &patch, FRAME_BYTES_MAX)?,
            Algorithm::Vcdiff => vcdiff::decode(from, &patch, FRAME_BYTES_MAX)?,
        };
        let text = String::from_utf8(bytes).map_err(|_| DecodeError::NotUtf8)?;
        *base = Base { sequence: delta.seq, text: text.clone() };
        Ok(Decoded { event: delta.event, text })
    }
}

/// Removes the markers as the JavaScript client does with `/,"__delta_seq":\d+/g` and
/// `/,"__conflation_key":"[^"]*"/g`: everywhere in the text, payloads included.
fn without_markers(text: &str) -> String {
    let sequence = remove(text, ",\"__delta_seq\":", |rest| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        (digits > 0).then_some(digits)
    });
    remove(&sequence, ",\"__conflation_key\":\"", |rest| rest.find('"').map(|at| at + 1))
}

/// Removes each `start` that is followed by a value. `value` returns the length of the
/// value in bytes, or `None` if there is none.
fn remove(text: &str, start: &str, value: impl Fn(&str) -> Option<usize>) -> String {
    let (mut kept, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(start) {
        let (before, after) = (at, at + start.len());
        match value(&rest[after..]) {
            Some(len) => {
                kept.push_str(&rest[..before]);
                rest = &rest[after + len..];
            }
            None => {
                kept.push_str(&rest[..after]);
                rest = &rest[after..];
            }
        }
    }
    kept + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = r#"{"event":"tick","channel":"m","data":"{\"p\":1,\"q\":\"AAA\"}"}"#;

    fn first() -> String {
        FIRST.replace("AAA", &"a".repeat(67))
    }

    fn marked(text: &str, markers: &str) -> String {
        format!("{}{markers}}}", text.strip_suffix('}').expect("an object"))
    }

    fn second() -> String {
        first().replace(":1,", ":2,")
    }

    /// The frame that carries a delta from the event numbered `base` to the next.
    fn frame(algorithm: &str, delta: &[u8], base: u64) -> String {
        let (delta, seq) = (STANDARD.encode(delta), base + 1);
        format!(
            r#"{{"event":"pusher:delta","channel":"m","data":{{"event":"tick","delta":"{delta}","seq":{seq},"algorithm":"{algorithm}","base_index":{base}}}}}"#
        )
    }

    /// With the vector of protocol.md 3.14.
    fn delta(base: u64) -> String {
        frame("fossil", b"1~\ni@0,1:21H@j,2SyqLx;", base)
    }

    fn kept() -> Chains {
        let (mut chains, text) = (Chains::default(), marked(&first(), r#","__delta_seq":7"#));
        chains.keep(&Frame::parse(&text).expect("a frame"), &text);
        chains
    }

    #[test]
    fn delta_decodes_to_the_next_envelope_and_base() {
        let (mut chains, text) = (kept(), delta(7));
        let decoded = chains.apply(&Frame::parse(&text).expect("a frame")).expect("decoded");
        assert_eq!((decoded.event.as_str(), &decoded.text), ("tick", &second()));
        let base = &chains.bases[&("m".to_owned(), String::new())];
        assert_eq!((base.sequence, &base.text), (8, &decoded.text));
    }

    #[test]
    fn delta_is_decoded_with_its_own_algorithm() {
        let apply = |algorithm: &str, delta: &[u8]| {
            let text = frame(algorithm, delta, 7);
            kept().apply(&Frame::parse(&text).expect("a frame"))
        };
        let patch = vcdiff::encode(first().as_bytes(), second().as_bytes());
        assert_eq!(apply("xdelta3", &patch).expect("decoded").text, second());
        assert!(matches!(apply("fossil", &patch), Err(DecodeError::Fossil(_))));
        assert!(matches!(apply("xdelta3", b"1~"), Err(DecodeError::Vcdiff(_))));
        assert!(matches!(apply("brotli", &patch), Err(DecodeError::Algorithm(name)) if name == "brotli"));
    }

    #[test]
    fn delta_against_another_base_drops_the_chain() {
        let (mut chains, text) = (kept(), delta(6));
        let refused = chains.apply(&Frame::parse(&text).expect("a frame"));
        assert!(matches!(refused, Err(DecodeError::NoBase { base_index: 6, held: Some(7) })), "{refused:?}");
        assert!(chains.bases.is_empty());
    }

    #[test]
    fn without_markers_removes_only_markers() {
        let check = |text: &str, expect: &str| assert_eq!(without_markers(text), expect);
        check(r#"{"a":1,"__delta_seq":84,"__conflation_key":"BTC"}"#, r#"{"a":1}"#);
        check(r#"{"a":{"b":1,"__delta_seq":3},"__delta_seq":84}"#, r#"{"a":{"b":1}}"#);
        check(
            r#"{"a":1,"__delta_seq":"x","__conflation_key":7}"#,
            r#"{"a":1,"__delta_seq":"x","__conflation_key":7}"#,
        );
        check(r#"{"a":"__delta_seq"}"#, r#"{"a":"__delta_seq"}"#);
        check("", "");
    }
}
