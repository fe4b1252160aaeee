//! Events, and the encoding of the events of an entry (design.md 3).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// Prefixes of protocol event names. Clients and libraries act on them, so an app's server must not
/// publish such an event.
pub const RESERVED_PREFIXES: [&str; 4] = ["pusher:", "pusher_internal:", "sockudo:", "sockudo_internal:"];

/// An event as nodes deliver it, decoded from an entry. [`crate::batch::BatchEvent`] is an event
/// that an app's server publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// UTF-8, 1 to 200 characters.
    pub name: Bytes,
    /// UTF-8: the string that was published, or the text of the JSON value.
    pub data: Bytes,
    /// The connection that is excluded from delivery.
    pub except: Option<SocketId>,
    /// A JSON object of strings, as text: input of subscribers' filters.
    pub tags: Option<Bytes>,
    /// `false` sends this event in full to every subscriber, `true` ignores the minimum size
    /// (protocol.md 3.11).
    pub delta: Option<bool>,
    /// The user id of the sender, for a client event of a presence channel (protocol.md 2.7).
    pub user: Option<Bytes>,
    /// The conflation key that selects the event's chain, on a channel with conflation keys; empty
    /// without a usable key (protocol.md 3.8).
    pub key: Option<Bytes>,
}

impl Event {
    /// An event with a name and data, without options.
    pub fn new(name: impl Into<Bytes>, data: impl Into<Bytes>) -> Event {
        let (name, data) = (name.into(), data.into());
        Event { name, data, except: None, tags: None, delta: None, user: None, key: None }
    }
}

/// The parts of an event that [`encode_events`] encodes, of the type in which the caller has it.
#[derive(Debug, Clone, Copy)]
pub struct EventRef<'a> {
    pub name: &'a Bytes,
    pub data: &'a Bytes,
    pub except: Option<SocketId>,
    pub tags: Option<&'a Bytes>,
    pub delta: Option<bool>,
    pub user: Option<&'a Bytes>,
    pub key: Option<&'a Bytes>,
}

impl<'a> From<&'a Event> for EventRef<'a> {
    fn from(event: &'a Event) -> EventRef<'a> {
        let Event { name, data, except, tags, delta, user, key } = event;
        let (tags, user, key) = (tags.as_ref(), user.as_ref(), key.as_ref());
        EventRef { name, data, except: *except, tags, delta: *delta, user, key }
    }
}

/// Identifier of a connection, `digits.digits` in text. Both halves are 32 bits, drawn at random by
/// the node that accepts the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

impl SocketId {
    pub fn random() -> SocketId {
        SocketId(rand::random())
    }

    /// Parses the text of a socket id. Returns `None` if no node generates this id, even if it has
    /// the right shape.
    pub fn parse(text: &str) -> Option<SocketId> {
        let (high, low) = text.split_once('.')?;
        let id = SocketId(u64::from(high.parse::<u32>().ok()?) << 32 | u64::from(low.parse::<u32>().ok()?));
        // `01.2` or `+1.2` would be second spellings of the same id.
        (id.to_string() == text).then_some(id)
    }

    /// Whether `text` matches `^\d+\.\d+$`, the format that the protocol promises to callers
    /// (protocol.md 2.1).
    pub fn is_shaped(text: &str) -> bool {
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        text.split_once('.').is_some_and(|(high, low)| digits(high) && digits(low))
    }
}

impl fmt::Display for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for SocketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes that are not an encoding of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeEventsError {
    #[error("an event ends after {bytes} bytes, before its end")]
    Truncated { bytes: usize },
    #[error("a run of {count} events has {bytes} bytes left over")]
    Leftover { count: u32, bytes: usize },
}

/// One byte of flags, and the lengths of an empty name and empty data.
const EVENT_BYTES_MIN: usize = 7;

const FLAG_DELTA_ON: u8 = 1;
const FLAG_DELTA_OFF: u8 = 2;
const FLAG_EXCEPT: u8 = 4;
const FLAG_TAGS: u8 = 8;
const FLAG_USER: u8 = 16;
const FLAG_KEY: u8 = 32;

/// Encodes events: each as flags, name (u16 length), data (u32 length), then, if flagged, the
/// socket id (8 bytes), the tags (u32 length), the user and the key (u16 length).
pub fn encode_events<'a>(events: impl IntoIterator<Item: Into<EventRef<'a>>> + Clone) -> Bytes {
    let bytes = events.clone().into_iter().map(encoded_len).sum();
    let mut out = BytesMut::with_capacity(bytes);
    for event in events {
        let event: EventRef<'_> = event.into();
        let mut flags = match event.delta {
            Some(true) => FLAG_DELTA_ON,
            Some(false) => FLAG_DELTA_OFF,
            None => 0,
        };
        flags |= if event.except.is_some() { FLAG_EXCEPT } else { 0 };
        flags |= if event.tags.is_some() { FLAG_TAGS } else { 0 };
        flags |= if event.user.is_some() { FLAG_USER } else { 0 };
        flags |= if event.key.is_some() { FLAG_KEY } else { 0 };
        out.put_u8(flags);
        out.put_u16(u16::try_from(event.name.len()).expect("names have 200 characters at most"));
        out.put_slice(event.name);
        out.put_u32(u32::try_from(event.data.len()).expect("config bounds payloads"));
        out.put_slice(event.data);
        if let Some(SocketId(id)) = event.except {
            out.put_u64(id);
        }
        if let Some(tags) = event.tags {
            out.put_u32(u32::try_from(tags.len()).expect("tags are bounded"));
            out.put_slice(tags);
        }
        if let Some(user) = event.user {
            out.put_u16(u16::try_from(user.len()).expect("user ids have 128 characters at most"));
            out.put_slice(user);
        }
        if let Some(key) = event.key {
            out.put_u16(u16::try_from(key.len()).expect("keys are bounded"));
            out.put_slice(key);
        }
    }
    out.freeze()
}

/// Bytes of the event in [`encode_events`].
pub fn encoded_len<'a>(event: impl Into<EventRef<'a>>) -> usize {
    let event = event.into();
    EVENT_BYTES_MIN
        + event.name.len()
        + event.data.len()
        + event.except.map_or(0, |_| 8)
        + event.tags.map_or(0, |tags| 4 + tags.len())
        + event.user.map_or(0, |user| 2 + user.len())
        + event.key.map_or(0, |key| 2 + key.len())
}

/// Decodes `count` events. The result consists of slices of `encoded`, without copies.
pub fn decode_events(mut encoded: Bytes, count: u32) -> Result<Vec<Event>, DecodeEventsError> {
    // The count is not trusted: the capacity is bounded by the bytes.
    let mut events = Vec::with_capacity((encoded.len() / EVENT_BYTES_MIN).min(count as usize));
    for _ in 0..count {
        events.push(decode_event(&mut encoded)?);
    }
    match encoded.len() {
        0 => Ok(events),
        bytes => Err(DecodeEventsError::Leftover { count, bytes }),
    }
}

fn decode_event(body: &mut Bytes) -> Result<Event, DecodeEventsError> {
    let flags = take(body, 1)?[0];
    let name_bytes = take(body, 2)?.get_u16().into();
    let name = take(body, name_bytes)?;
    let data_bytes = take(body, 4)?.get_u32() as usize;
    let data = take(body, data_bytes)?;
    let except = match flags & FLAG_EXCEPT {
        0 => None,
        _ => Some(SocketId(take(body, 8)?.get_u64())),
    };
    let tags = match flags & FLAG_TAGS {
        0 => None,
        _ => {
            let tags_bytes = take(body, 4)?.get_u32() as usize;
            Some(take(body, tags_bytes)?)
        }
    };
    let user = match flags & FLAG_USER {
        0 => None,
        _ => {
            let user_bytes = take(body, 2)?.get_u16().into();
            Some(take(body, user_bytes)?)
        }
    };
    let key = match flags & FLAG_KEY {
        0 => None,
        _ => {
            let key_bytes = take(body, 2)?.get_u16().into();
            Some(take(body, key_bytes)?)
        }
    };
    let delta = match flags & (FLAG_DELTA_ON | FLAG_DELTA_OFF) {
        FLAG_DELTA_ON => Some(true),
        FLAG_DELTA_OFF => Some(false),
        _ => None,
    };
    Ok(Event { name, data, except, tags, delta, user, key })
}

pub(crate) fn take(body: &mut Bytes, bytes: usize) -> Result<Bytes, DecodeEventsError> {
    if body.len() < bytes {
        return Err(DecodeEventsError::Truncated { bytes: body.len() });
    }
    Ok(body.split_to(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event() -> impl Strategy<Value = Event> {
        (
            "\\PC{1,20}",
            "\\PC{0,200}",
            any::<Option<u64>>(),
            proptest::option::of("\\PC{0,30}"),
            any::<Option<bool>>(),
            proptest::option::of("\\PC{0,30}"),
            proptest::option::of("\\PC{0,30}"),
        )
            .prop_map(|(name, data, except, tags, delta, user, key)| Event {
                name: name.into(),
                data: data.into(),
                except: except.map(SocketId),
                tags: tags.map(Bytes::from),
                delta,
                user: user.map(Bytes::from),
                key: key.map(Bytes::from),
            })
    }

    proptest! {
        #[test]
        fn events_roundtrip_through_encoding(events in proptest::collection::vec(event(), 0..12)) {
            let encoded = encode_events(&events);
            prop_assert_eq!(encoded.len(), events.iter().map(encoded_len).sum::<usize>());
            prop_assert_eq!(decode_events(encoded, events.len() as u32).expect("encoded events"), events);
        }

        #[test]
        fn socket_id_roundtrips_through_text(id in any::<u64>()) {
            prop_assert_eq!(SocketId::parse(&SocketId(id).to_string()), Some(SocketId(id)));
        }
    }

    #[test]
    fn socket_id_accepts_canonical_spelling_only() {
        for text in ["1.2", "0.0", "4294967295.4294967295"] {
            assert!(SocketId::is_shaped(text) && SocketId::parse(text).is_some(), "{text}");
        }
        for text in ["01.2", "4294967296.1", "99999999999999999999.1"] {
            assert!(SocketId::is_shaped(text) && SocketId::parse(text).is_none(), "{text}");
        }
        for text in ["", ".", "1", "1.", ".1", "1.2.3", "a.b", "+1.2", " 1.2", "1.2\n"] {
            assert!(!SocketId::is_shaped(text) && SocketId::parse(text).is_none(), "{text:?}");
        }
    }
}
