//! An event as clients see it (protocol.md 2.8, 3.3, 3.4): the JSON text inside
//! a frame.

use std::io::Write;
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use memchr::memmem::Finder;

use super::event_prefix::EventPrefix;
use crate::delta::MARKERS;
use crate::delta::conflation::NO_KEY;
use crate::delta::settings::MarkerStyle;
use crate::event::Event;
use crate::json;

/// What an envelope has beyond Pusher's, for clients that have opted in to
/// something.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    pub tags: bool,
    /// The number of an event that has no marker (docs/resume.md).
    pub seq: Option<u64>,
}

/// Pusher's envelope: `data` is always a string, and `user_id` is there on client
/// events of presence channels.
pub fn plain(channel: &str, event: &Event, extras: Extras) -> Vec<u8> {
    let Event { name, data, user, .. } = event;
    let mut out = open(channel, name, data.len() + data.len() / 8);
    json::write_string(&mut out, data);
    if let Some(user) = user {
        out.extend_from_slice(br#","user_id":"#);
        json::write_string(&mut out, user);
    }
    put_tags(&mut out, event, extras.tags);
    if let Some(seq) = extras.seq {
        write!(out, r#","__seq":{}"#, wire_seq(seq)).expect("a Vec takes every write");
    }
    out.push(b'}');
    out
}

/// The base text of protocol.md 3.5, for sockets with deltas: `data` is the
/// publisher's text verbatim where that is a JSON object or array, so that a
/// full event and a decoded delta give the application the same value.
fn base(channel: &str, event: &Event, tags: bool) -> Vec<u8> {
    let Event { name, data, .. } = event;
    if !json::is_container(data) {
        return plain(channel, event, Extras { tags, seq: None });
    }
    let mut out = open(channel, name, data.len());
    out.extend_from_slice(data);
    put_tags(&mut out, event, tags);
    out.push(b'}');
    out
}

/// An event in full, for sockets with deltas: the text of the frame, and the text
/// that a client holds then, which the next of its chain is a delta to. In the style
/// that is not stripped they are one.
pub fn full(channel: &str, event: &Event, seq: u64, tags: bool, style: MarkerStyle) -> (Bytes, Bytes) {
    let base = Bytes::from(base(channel, event, tags));
    let text = Bytes::from(marked(&base, seq, event.key.as_deref(), style));
    match style {
        MarkerStyle::Underscore => (text, base),
        MarkerStyle::Plain => (text.clone(), text),
    }
}

/// A full frame's text: the base with its number, and the key of its chain where
/// the channel has keys, as last members (protocol.md 3.3).
fn marked(base: &[u8], seq: u64, key: Option<&[u8]>, style: MarkerStyle) -> Vec<u8> {
    let [seq_marker, key_marker] = match style {
        MarkerStyle::Underscore => MARKERS,
        MarkerStyle::Plain => ["sequence", "conflation_key"],
    };
    let (open, _brace) = base.split_at(base.len() - 1);
    let mut out = Vec::with_capacity(base.len() + 32 + key.map_or(0, |key| key.len() + 24));
    out.extend_from_slice(open);
    write!(out, ",\"{seq_marker}\":{}", wire_seq(seq)).expect("a Vec takes every write");
    if let Some(key) = key {
        write!(out, ",\"{key_marker}\":").expect("a Vec takes every write");
        json::write_string(&mut out, key);
    }
    out.push(b'}');
    out
}

/// What a delta frame says (protocol.md 3.4).
#[derive(Debug)]
pub struct DeltaText<'a> {
    pub event_prefix: EventPrefix,
    pub channel: &'a str,
    pub name: &'a [u8],
    pub patch: &'a [u8],
    pub seq: u64,
    /// Goes out as `base_index`: it is a number all the same.
    pub base_seq: u64,
    pub algorithm: Option<&'a str>,
    pub key: Option<&'a [u8]>,
}

/// A delta frame's text.
pub fn delta(delta: &DeltaText<'_>) -> Vec<u8> {
    let DeltaText { event_prefix, channel, name, patch, .. } = delta;
    let mut out = Vec::with_capacity(200 + channel.len() + name.len() + patch.len() / 3 * 4);
    let prefix = event_prefix.prefix();
    write!(out, r#"{{"event":"{prefix}:delta","channel":"#).expect("a Vec takes every write");
    json::write_string(&mut out, channel.as_bytes());
    out.extend_from_slice(br#","data":{"event":"#);
    json::write_string(&mut out, name);
    out.extend_from_slice(br#","delta":""#);
    let start = out.len();
    out.resize(start + patch.len().div_ceil(3) * 4, 0);
    STANDARD.encode_slice(patch, &mut out[start..]).expect("the slice has the encoded length");
    write!(out, r#"","seq":{}"#, wire_seq(delta.seq)).expect("a Vec takes every write");
    if let Some(algorithm) = delta.algorithm {
        write!(out, r#","algorithm":"{algorithm}""#).expect("a Vec takes every write");
    }
    if let Some(key) = delta.key {
        out.extend_from_slice(br#","conflation_key":"#);
        json::write_string(&mut out, key);
    }
    write!(out, r#","base_index":{}}}}}"#, wire_seq(delta.base_seq)).expect("a Vec takes every write");
    out
}

/// The chain that a backend's event is in; outside every chain are what clients
/// would corrupt by stripping markers, what has no key where others have one, and,
/// where deltas are not `enabled`, what does not ask for them itself (protocol.md
/// 3.5, 3.8, 3.11).
pub fn chain_of(event: &Event, enabled: bool) -> Option<Bytes> {
    let is_wanted = enabled || event.delta == Some(true);
    let key = event.key.clone().unwrap_or(NO_KEY);
    let is_keyless = event.key.is_some() && key.is_empty();
    (is_wanted && !is_keyless && !has_marker(event)).then_some(key)
}

/// Whether an event would be corrupted by the clients' stripping: it must go out
/// unmarked, and never be a base (protocol.md 3.5).
pub fn has_marker(event: &Event) -> bool {
    static FINDERS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| MARKERS.map(Finder::new));
    let texts = [Some(&event.name), Some(&event.data), event.tags.as_ref()];
    texts.into_iter().flatten().any(|text| FINDERS.iter().any(|marker| marker.find(text).is_some()))
}

fn put_tags(out: &mut Vec<u8>, event: &Event, wanted: bool) {
    if let Some(tags) = event.tags.as_ref().filter(|_| wanted) {
        out.extend_from_slice(br#","tags":"#);
        out.extend_from_slice(tags);
    }
}

/// What clients see of a sequence number: some read 32-bit integers.
pub fn wire_seq(seq: u64) -> u64 {
    seq & 0x7fff_ffff
}

fn open(channel: &str, name: &[u8], data_len: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(48 + channel.len() + name.len() + data_len);
    out.extend_from_slice(br#"{"event":"#);
    json::write_string(&mut out, name);
    out.extend_from_slice(br#","channel":"#);
    json::write_string(&mut out, channel.as_bytes());
    out.extend_from_slice(br#","data":"#);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: Vec<u8>) -> String {
        String::from_utf8(bytes).expect("frames are UTF-8")
    }

    fn event(name: &'static str, data: &'static str) -> Event {
        Event::new(name, data)
    }

    #[test]
    fn envelopes_are_exact() {
        let plain = |event: &Event| text(plain("m", event, Extras::default()));
        assert_eq!(plain(&event("e\"", "{\"a\":1}")), r#"{"event":"e\"","channel":"m","data":"{\"a\":1}"}"#);
        assert_eq!(
            plain(&Event { user: Some("u\"".into()), ..event("client-e", "x") }),
            r#"{"event":"client-e","channel":"m","data":"x","user_id":"u\""}"#
        );
        assert_eq!(
            text(base("m", &event("e", "{ \"a\":1.0}"), true)),
            r#"{"event":"e","channel":"m","data":{ "a":1.0}}"#
        );
        assert_eq!(text(base("m", &event("e", "7"), false)), r#"{"event":"e","channel":"m","data":"7"}"#);
    }

    #[test]
    fn who_has_opted_in_sees_more() {
        let tagged = Event { tags: Some(r#"{"t":"1"}"#.into()), ..event("e", "[1]") };
        let extras = Extras { tags: true, seq: Some(1 << 31 | 5) };
        assert_eq!(
            text(plain("m", &tagged, extras)),
            r#"{"event":"e","channel":"m","data":"[1]","tags":{"t":"1"},"__seq":5}"#
        );
        assert_eq!(
            text(base("m", &tagged, true)),
            r#"{"event":"e","channel":"m","data":[1],"tags":{"t":"1"}}"#
        );
        let base = base("m", &tagged, false);
        let marked = |key: Option<&[u8]>, style| text(marked(&base, 84, key, style));
        let open = r#"{"event":"e","channel":"m","data":[1],"#;
        let style = MarkerStyle::Underscore;
        assert_eq!(marked(None, style), format!(r#"{open}"__delta_seq":84}}"#));
        assert_eq!(marked(Some(b"k"), style), format!(r#"{open}"__delta_seq":84,"__conflation_key":"k"}}"#));
        let style = MarkerStyle::Plain;
        assert_eq!(marked(Some(b"k"), style), format!(r#"{open}"sequence":84,"conflation_key":"k"}}"#));
    }

    #[test]
    fn deltas_are_exact() {
        let whole = DeltaText {
            event_prefix: EventPrefix::Pusher,
            channel: "m",
            name: b"e",
            patch: b"1;",
            seq: 85,
            base_seq: 84,
            algorithm: Some("fossil"),
            key: Some(b"k"),
        };
        assert_eq!(
            text(delta(&whole)),
            r#"{"event":"pusher:delta","channel":"m","data":{"event":"e","delta":"MTs=","seq":85,"algorithm":"fossil","conflation_key":"k","base_index":84}}"#
        );
        let least = DeltaText {
            event_prefix: EventPrefix::Sockudo,
            patch: b"",
            seq: 1 << 40 | 3,
            base_seq: 2,
            algorithm: None,
            key: None,
            ..whole
        };
        assert_eq!(
            text(delta(&least)),
            r#"{"event":"sockudo:delta","channel":"m","data":{"event":"e","delta":"","seq":3,"base_index":2}}"#
        );
    }

    #[test]
    fn marker_texts_are_seen_wherever_they_stand() {
        assert!(has_marker(&event("e", r#"{"a":1,"__delta_seq":5}"#)));
        assert!(has_marker(&event("__conflation_key", "")));
        assert!(has_marker(&Event { tags: Some(r#"{"__delta_seq":"1"}"#.into()), ..event("e", "") }));
        assert!(!has_marker(&event("e", r#"{"a":"delta_seq"}"#)));
    }
}
