//! The state of a delta client (protocol.md 3.5), modelled on sockudo-js and
//! sharing no code with the server: strip markers as text, decode, keep the text as
//! the next base.

use std::collections::HashMap;

use serde_json::Value;

use super::frame::Frame;

#[derive(Default)]
pub struct DeltaClient {
    /// Per channel: the number and the text of the chain's last event.
    bases: HashMap<String, (u64, String)>,
}

/// How an event was encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Without a number: never a base.
    Plain,
    Full,
    Delta,
}

/// An event as the application receives it.
#[derive(Debug)]
pub struct Event {
    pub encoding: Encoding,
    pub name: String,
    pub data: Value,
    /// The envelope as published, without markers.
    pub text: String,
}

impl Event {
    /// The published text: the contents of a string, or the bytes of inline JSON
    /// between `"data":` and the end.
    pub fn published(&self) -> &str {
        if let Some(text) = self.data.as_str() {
            return text;
        }
        let (_, rest) = self.text.split_once(r#","data":"#).expect("an envelope has data");
        rest.strip_suffix('}').expect("data is the last member")
    }
}

impl DeltaClient {
    /// Handles an event frame; panics where a client would lose it.
    pub fn read(&mut self, frame: &Frame) -> Event {
        let channel = frame.channel.clone().unwrap_or_else(|| panic!("no channel: {}", frame.text));
        let (encoding, text) = match frame.event.as_str() {
            "pusher:delta" => (Encoding::Delta, self.decode(&channel, frame)),
            _ => match marked(&frame.text) {
                Some(seq) => {
                    let text = strip(&frame.text);
                    self.bases.insert(channel.clone(), (seq, text.clone()));
                    (Encoding::Full, text)
                }
                None => (Encoding::Plain, frame.text.clone()),
            },
        };
        let envelope: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
        assert_eq!(envelope["channel"], channel, "{text}");
        let name = envelope["event"].as_str().unwrap().to_owned();
        if encoding == Encoding::Delta {
            assert_eq!(frame.data["event"], name, "the delta names its event: {}", frame.text);
        }
        Event { encoding, name, data: envelope["data"].clone(), text }
    }

    fn decode(&mut self, channel: &str, frame: &Frame) -> String {
        use base64::Engine;
        let data = &frame.data;
        assert_eq!(data["algorithm"], "fossil", "{}", frame.text);
        let (base_seq, base) =
            self.bases.get(channel).unwrap_or_else(|| panic!("a delta without a base: {}", frame.text));
        assert_eq!(
            data["base_index"], *base_seq,
            "the delta refers to another base than the last event: {}",
            frame.text
        );
        let seq = data["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {}", frame.text));
        // Some clients read 32-bit integers only.
        assert!(seq > *base_seq && i32::try_from(seq).is_ok(), "{seq} after {base_seq}");
        let delta = base64::prelude::BASE64_STANDARD.decode(data["delta"].as_str().unwrap()).unwrap();
        let text = String::from_utf8(apply(base.as_bytes(), &delta)).unwrap();
        self.bases.insert(channel.to_owned(), (seq, text.clone()));
        text
    }

    /// Drops the base, as a client without one does.
    pub fn forget(&mut self, channel: &str) {
        self.bases.remove(channel);
    }
}

/// The number of a full event of a chain, from the top level of its envelope.
fn marked(text: &str) -> Option<u64> {
    let envelope: Value = serde_json::from_str(text).unwrap();
    let seq = envelope.get("__delta_seq")?.as_u64();
    let seq = seq.unwrap_or_else(|| panic!("the sequence number is not an integer: {text}"));
    assert!(text.ends_with(&format!(r#","__delta_seq":{seq}}}"#)), "the marker is the last member: {text}");
    Some(seq)
}

/// `text.replace(/,"__delta_seq":\d+/g, "").replace(/"__delta_seq":\d+,/g, "")`
/// and the same for `"__conflation_key":"[^"]*"`, as sockudo-js does.
pub fn strip(text: &str) -> String {
    let digits =
        |rest: &str| Some(rest.bytes().take_while(u8::is_ascii_digit).count()).filter(|count| *count > 0);
    let quoted = |rest: &str| rest.strip_prefix('"').and_then(|rest| rest.find('"')).map(|length| length + 2);
    let text = cut(text, r#","__delta_seq":"#, "", digits);
    let text = cut(&text, r#""__delta_seq":"#, ",", digits);
    let text = cut(&text, r#","__conflation_key":"#, "", quoted);
    cut(&text, r#""__conflation_key":"#, ",", quoted)
}

/// Removes every `before`, value, `after`.
pub fn cut(text: &str, before: &str, after: &str, value: impl Fn(&str) -> Option<usize>) -> String {
    let mut kept = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(before) {
        let found = &rest[at + before.len()..];
        match value(found).filter(|length| found[*length..].starts_with(after)) {
            Some(length) => {
                kept.push_str(&rest[..at]);
                rest = &found[length + after.len()..];
            }
            None => {
                kept.push_str(&rest[..at + 1]);
                rest = &rest[at + 1..];
            }
        }
    }
    kept + rest
}

/// Decodes a Fossil delta (protocol.md 3.14) and verifies its checksum.
pub fn apply(base: &[u8], delta: &[u8]) -> Vec<u8> {
    let mut at = 0;
    let integer = |at: &mut usize| {
        let mut value: u32 = 0;
        while let Some(digit) = delta.get(*at).and_then(|byte| digit(*byte)) {
            value = (value << 6) | digit;
            *at += 1;
        }
        value
    };
    let length = integer(&mut at) as usize;
    assert_eq!(delta[at], b'\n', "the length ends with its line");
    at += 1;
    let mut target = Vec::new();
    loop {
        let count = integer(&mut at);
        let command = delta[at];
        at += 1;
        match command {
            b'@' => {
                let from = integer(&mut at) as usize;
                assert_eq!(delta[at], b',', "a copy ends with a comma");
                at += 1;
                target.extend_from_slice(&base[from..from + count as usize]);
            }
            b':' => {
                target.extend_from_slice(&delta[at..at + count as usize]);
                at += count as usize;
            }
            b';' => {
                assert_eq!(count, checksum(&target), "the checksum is that of the target");
                assert_eq!((at, target.len()), (delta.len(), length), "both lengths are as announced");
                return target;
            }
            other => panic!("unknown command: {:?}", char::from(other)),
        }
    }
}

fn digit(byte: u8) -> Option<u32> {
    let digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";
    digits.iter().position(|digit| *digit == byte).map(|value| value as u32)
}

fn checksum(target: &[u8]) -> u32 {
    target.chunks(4).fold(0, |sum: u32, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(u32::from_be_bytes(word))
    })
}

#[test]
fn protocol_test_vector_decodes() {
    let text = |p: u32| {
        let tail = "a".repeat(67);
        format!(r#"{{"event":"tick","channel":"m","data":"{{\"p\":{p},\"q\":\"{tail}\"}}"}}"#)
    };
    let target = apply(text(1).as_bytes(), b"1~\ni@0,1:21H@j,2SyqLx;");
    assert_eq!(String::from_utf8(target).unwrap(), text(2));
}

#[test]
fn delta_markers_are_stripped_as_by_the_regular_expressions() {
    assert_eq!(strip(r#"{"a":1,"__delta_seq":84,"__conflation_key":"BTC"}"#), r#"{"a":1}"#);
    assert_eq!(strip(r#"{"__delta_seq":84,"__conflation_key":"","a":1}"#), r#"{"a":1}"#);
    assert_eq!(
        strip(r#"{"a":"__delta_seq","b":"\"__delta_seq\":x"}"#),
        r#"{"a":"__delta_seq","b":"\"__delta_seq\":x"}"#
    );
}
