//! An event as clients see it (protocol.md 2.8, 3.3, 3.4): the JSON text inside
//! a frame. Channel names need no escaping: their characters are checked.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::event::Event;
use crate::json;

/// What follows the `data` of a marked frame; clients strip it again to get the
/// base, by regular expression, wherever it stands in the text.
const SEQ_MARKER: &str = "__delta_seq";
const KEY_MARKER: &str = "__conflation_key";

/// Pusher's envelope: `data` is always a string, and `user_id` is there on client
/// events of presence channels.
pub fn plain(channel: &str, event: &Event) -> Vec<u8> {
    let Event { name, data, user, .. } = event;
    let mut out = open(channel, name, data.len() + data.len() / 8);
    json::write_string(&mut out, data);
    if let Some(user) = user {
        out.extend_from_slice(br#","user_id":"#);
        json::write_string(&mut out, user);
    }
    out.push(b'}');
    out
}

/// The base text of protocol.md 3.5, for sockets with deltas: `data` is the
/// publisher's text verbatim where that is a JSON object or array, so that a
/// full event and a decoded delta give the application the same value.
pub fn base(channel: &str, event: &Event) -> Vec<u8> {
    let Event { name, data, .. } = event;
    if !json::is_container(data) {
        return plain(channel, event);
    }
    let mut out = open(channel, name, data.len());
    out.extend_from_slice(data);
    out.push(b'}');
    out
}

/// A full frame's text: the base with the sequence as its last member.
pub fn marked(base: &[u8], seq: u64) -> Vec<u8> {
    let (open, _brace) = base.split_at(base.len() - 1);
    let mut out = Vec::with_capacity(base.len() + 32);
    out.extend_from_slice(open);
    write!(out, ",\"{SEQ_MARKER}\":{}}}", wire_seq(seq)).expect("a Vec takes every write");
    out
}

/// A delta frame's text (protocol.md 3.4). `base_index` is the sequence number
/// of the base, whatever its name says.
pub fn delta(
    channel: &str,
    name: &[u8],
    delta: &[u8],
    seq: u64,
    base_seq: u64,
    algorithm: Option<&str>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(160 + channel.len() + name.len() + delta.len() / 3 * 4);
    write!(out, r#"{{"event":"pusher:delta","channel":"{channel}","data":{{"event":"#)
        .expect("a Vec takes every write");
    json::write_string(&mut out, name);
    out.extend_from_slice(br#","delta":""#);
    let start = out.len();
    out.resize(start + delta.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(delta, &mut out[start..]).expect("the slice has the encoded length");
    write!(out, r#"","seq":{}"#, wire_seq(seq)).expect("a Vec takes every write");
    if let Some(algorithm) = algorithm {
        write!(out, r#","algorithm":"{algorithm}""#).expect("a Vec takes every write");
    }
    write!(out, r#","base_index":{}}}}}"#, wire_seq(base_seq)).expect("a Vec takes every write");
    out
}

/// Whether an event would be corrupted by the clients' stripping: it must go out
/// unmarked, and never be a base (protocol.md 3.5).
pub fn has_marker(name: &[u8], data: &[u8]) -> bool {
    [name, data].iter().any(|text| {
        [SEQ_MARKER, KEY_MARKER].iter().any(|marker| memchr::memmem::find(text, marker.as_bytes()).is_some())
    })
}

/// What clients see of a sequence number: some read 32-bit integers.
fn wire_seq(seq: u64) -> u64 {
    seq & 0x7fff_ffff
}

fn open(channel: &str, name: &[u8], data_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + channel.len() + name.len() + data_len);
    out.extend_from_slice(br#"{"event":"#);
    json::write_string(&mut out, name);
    out.extend_from_slice(br#","channel":""#);
    out.extend_from_slice(channel.as_bytes());
    out.extend_from_slice(br#"","data":"#);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("frames are UTF-8")
    }

    fn event(name: &'static str, data: &'static str) -> Event {
        let (name, data) = (name.into(), data.into());
        Event { name, data, except: None, tags: None, delta: None, user: None }
    }

    #[test]
    fn envelopes_are_exact() {
        let plain = |event: &Event| text(plain("m", event));
        assert_eq!(plain(&event("e\"", "{\"a\":1}")), r#"{"event":"e\"","channel":"m","data":"{\"a\":1}"}"#);
        assert_eq!(
            plain(&Event { user: Some("u\"".into()), ..event("client-e", "x") }),
            r#"{"event":"client-e","channel":"m","data":"x","user_id":"u\""}"#
        );
        assert_eq!(
            text(base("m", &event("e", "{ \"a\":1.0}"))),
            r#"{"event":"e","channel":"m","data":{ "a":1.0}}"#
        );
        assert_eq!(text(base("m", &event("e", "7"))), r#"{"event":"e","channel":"m","data":"7"}"#);
        let base = base("m", &event("e", "[1]"));
        assert_eq!(text(marked(&base, 84)), r#"{"event":"e","channel":"m","data":[1],"__delta_seq":84}"#);
        assert_eq!(
            text(delta("m", b"e", b"1;", 85, 84, Some("fossil"))),
            r#"{"event":"pusher:delta","channel":"m","data":{"event":"e","delta":"MTs=","seq":85,"algorithm":"fossil","base_index":84}}"#
        );
        assert_eq!(
            text(delta("m", b"e", b"", 1 << 40 | 3, 2, None)),
            r#"{"event":"pusher:delta","channel":"m","data":{"event":"e","delta":"","seq":3,"base_index":2}}"#
        );
    }

    #[test]
    fn marker_texts_are_seen_in_names_and_data() {
        assert!(has_marker(b"e", br#"{"a":1,"__delta_seq":5}"#));
        assert!(has_marker(b"__conflation_key", b""));
        assert!(!has_marker(b"e", br#"{"a":"delta_seq"}"#));
    }
}
