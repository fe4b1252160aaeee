//! The envelope of an event: the JSON text inside a frame (protocol.md 2.8, 3.3, 3.4).

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
use crate::event::{Event, EventRef};
use crate::json;

/// The members of an envelope in addition to Pusher's, for subscribers with an extension.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    pub tags: bool,
    /// The sequence number as `__seq`, for an event without markers (docs/resume.md).
    pub seq: Option<u64>,
}

/// Pusher's envelope (protocol.md 2.8): `data` is always a string; client events on presence
/// channels have `user_id`.
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

/// The base text of protocol.md 3.5, for subscribers with deltas. `data` is the published text
/// verbatim if that is a JSON object or array, so that a full event and a decoded delta give
/// the application the same value.
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

/// A full event for subscribers with deltas: the text of the frame, and the base that the
/// client derives from it, against which the next event of the chain is encoded. With
/// [`MarkerStyle::Plain`] clients remove no markers, and both texts are the same buffer.
pub fn full(channel: &str, event: &Event, seq: u64, tags: bool, style: MarkerStyle) -> (Bytes, Bytes) {
    let base = Bytes::from(base(channel, event, tags));
    let text = Bytes::from(marked(&base, seq, event.key.as_deref(), style));
    match style {
        MarkerStyle::Underscore => (text, base),
        MarkerStyle::Plain => (text.clone(), text),
    }
}

/// The text of a full frame: the base with its sequence number and, on a channel with
/// conflation keys, the key as last members (protocol.md 3.3).
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

/// The members of a delta frame (protocol.md 3.4).
#[derive(Debug)]
pub struct DeltaText<'a> {
    pub event_prefix: EventPrefix,
    pub channel: &'a str,
    pub name: &'a [u8],
    pub patch: &'a [u8],
    pub seq: u64,
    /// The sequence number of the base. The member is named `base_index`, but is no index.
    pub base_seq: u64,
    pub algorithm: Option<&'a str>,
    pub key: Option<&'a [u8]>,
}

/// The text of a delta frame.
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

/// The key of the chain that a published event belongs to. `None`, so in no chain, are events
/// with the text of a marker (protocol.md 3.5), events without a key on a channel with
/// conflation keys (3.8), and, where deltas are not `enabled`, events without `"delta":true`
/// (3.11).
pub fn chain_of<'a>(event: impl Into<EventRef<'a>>, enabled: bool) -> Option<Bytes> {
    let event = event.into();
    let is_requested = enabled || event.delta == Some(true);
    let key = event.key.cloned().unwrap_or(NO_KEY);
    let is_keyless = event.key.is_some() && key.is_empty();
    (is_requested && !is_keyless && !has_marker(event)).then_some(key)
}

/// Whether an event contains the text of a marker. Clients remove markers by patterns over the
/// whole text and would corrupt it, so it is sent without markers and is never a base
/// (protocol.md 3.5).
pub fn has_marker<'a>(event: impl Into<EventRef<'a>>) -> bool {
    let event = event.into();
    static FINDERS: LazyLock<[Finder<'static>; 2]> = LazyLock::new(|| MARKERS.map(Finder::new));
    let texts = [Some(event.name), Some(event.data), event.tags];
    texts.into_iter().flatten().any(|text| FINDERS.iter().any(|marker| marker.find(text).is_some()))
}

fn put_tags(out: &mut Vec<u8>, event: &Event, enabled: bool) {
    if let Some(tags) = event.tags.as_ref().filter(|_| enabled) {
        out.extend_from_slice(br#","tags":"#);
        out.extend_from_slice(tags);
    }
}

/// The low 31 bits of a sequence number: some clients read it as a signed 32-bit integer
/// (protocol.md 3.7).
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
    fn plain_and_base_envelopes_match_byte_for_byte() {
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
    fn extensions_append_tags_sequence_number_and_markers() {
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
    fn delta_frames_match_byte_for_byte() {
        let complete = DeltaText {
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
            text(delta(&complete)),
            r#"{"event":"pusher:delta","channel":"m","data":{"event":"e","delta":"MTs=","seq":85,"algorithm":"fossil","conflation_key":"k","base_index":84}}"#
        );
        let minimal = DeltaText {
            event_prefix: EventPrefix::Sockudo,
            patch: b"",
            seq: 1 << 40 | 3,
            base_seq: 2,
            algorithm: None,
            key: None,
            ..complete
        };
        assert_eq!(
            text(delta(&minimal)),
            r#"{"event":"sockudo:delta","channel":"m","data":{"event":"e","delta":"","seq":3,"base_index":2}}"#
        );
    }

    #[test]
    fn marker_text_is_found_in_name_data_and_tags() {
        assert!(has_marker(&event("e", r#"{"a":1,"__delta_seq":5}"#)));
        assert!(has_marker(&event("__conflation_key", "")));
        assert!(has_marker(&Event { tags: Some(r#"{"__delta_seq":"1"}"#.into()), ..event("e", "") }));
        assert!(!has_marker(&event("e", r#"{"a":"delta_seq"}"#)));
    }
}
