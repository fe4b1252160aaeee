//! An event going in, the announcement that carries a run of events to every
//! node, and what comes out of it. The encoding is ours (docs: ARCHITECTURE.md).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// One event as a backend published it, valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// UTF-8, 1 to 200 characters.
    pub name: Bytes,
    /// UTF-8: the string that was published, or the text of the JSON value.
    pub data: Bytes,
    /// This connection does not get the event.
    pub except: Option<SocketId>,
    /// A JSON object of strings, as text. Carried for subscribers' filters.
    pub tags: Option<Bytes>,
    /// `false` sends this event in full to everyone, `true` skips the minimum
    /// size (protocol.md 3.11).
    pub delta: Option<bool>,
}

/// A connection, named as clients see it: `digits.digits`. Both halves are 32
/// bits, drawn at random by the node that accepted the connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SocketId(u64);

impl SocketId {
    pub fn random() -> SocketId {
        SocketId(rand::random())
    }

    /// The connection that `text` names. `None` where no connection of ours can
    /// have that name, though it may have the right shape.
    pub fn parse(text: &str) -> Option<SocketId> {
        let (high, low) = text.split_once('.')?;
        let id = SocketId(u64::from(high.parse::<u32>().ok()?) << 32 | u64::from(low.parse::<u32>().ok()?));
        // `01.2` or `+1.2` would name the same numbers in another way.
        (id.to_string() == text).then_some(id)
    }

    /// Whether `text` has the shape `^\d+\.\d+$`, which is all a caller can
    /// know (protocol.md 2.1).
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

/// Names one announcement, and the operation that made it: drawn at random by
/// the publishing node, so that a resend can be told from a second publish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct AnnouncementId([u8; 8]);

impl AnnouncementId {
    pub const BYTES: usize = 8;
    /// Stands before the first announcement of an epoch.
    pub const NONE: AnnouncementId = AnnouncementId([0; 8]);

    pub fn random() -> AnnouncementId {
        AnnouncementId(rand::random::<u64>().max(1).to_be_bytes())
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<AnnouncementId> {
        bytes.try_into().ok().map(AnnouncementId)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for AnnouncementId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Where a channel stands: the last announcement that was made on it, or that a
/// node has handled. A sequence number means nothing without the epoch, the
/// life of the sequence, that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub epoch: u64,
    /// Number of the last event.
    pub seq: u64,
    pub id: AnnouncementId,
    /// When it was announced, in ms of the backend's clock.
    pub time_ms: u64,
}

/// What the log said.
#[derive(Debug, Default)]
pub struct Log {
    /// Where the channel stands; None if nothing was ever announced, or Redis
    /// has lost it.
    pub head: Option<Position>,
    /// Oldest first: after the announcement that was asked for if the log still
    /// had it, else everything the log has.
    pub announcements: Vec<Announcement>,
}

/// A run of events on one channel, numbered and announced as one step.
///
/// On the wire, integers big-endian:
///
/// | bytes | field |
/// | --- | --- |
/// | 1 | version, 1 |
/// | 1 | kind: 1 events |
/// | 8 | epoch |
/// | 8 | seq of the first event |
/// | 4 | number of events |
/// | 8 | time of Redis, ms |
/// | 8 | id |
/// | 8 | prev: id of the announcement before, or zeros |
/// | … | body: the events |
///
/// The header is written by whoever numbers (`lua/publish_batch.lua`, the
/// memory backend), the body by the publisher.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    pub epoch: u64,
    pub first_seq: u64,
    pub count: u32,
    pub time_ms: u64,
    pub id: AnnouncementId,
    pub prev: AnnouncementId,
    pub body: Bytes,
}

const VERSION: u8 = 1;
const KIND_EVENTS: u8 = 1;
const HEADER_BYTES: usize = 46;
/// Lua counts in doubles.
const SEQ_MAX: u64 = 1 << 53;

/// A message on a channel's topic that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AnnouncementError {
    #[error("an announcement of {bytes} bytes ends before its header or event does")]
    Truncated { bytes: usize },
    #[error("announcement version {0} is not known")]
    Version(u8),
    #[error("announcement kind {0} is not known")]
    Kind(u8),
    #[error("{count} events cannot be numbered from {first_seq} on")]
    Numbers { first_seq: u64, count: u32 },
    #[error("an announcement of {count} events has {bytes} bytes left over")]
    Leftover { count: u32, bytes: usize },
}

impl Announcement {
    /// The position of a node that has handled this announcement.
    pub fn position(&self) -> Position {
        let seq = self.first_seq + u64::from(self.count.max(1)) - 1;
        Position { epoch: self.epoch, seq, id: self.id, time_ms: self.time_ms }
    }

    /// Whether it was announced earlier than what `position` names. Its number
    /// alone would not tell: a fork uses numbers again, later.
    pub fn is_before(&self, position: Position) -> bool {
        self.first_seq <= position.seq && self.time_ms < position.time_ms
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.body.len());
        out.put_u8(VERSION);
        out.put_u8(KIND_EVENTS);
        out.put_u64(self.epoch);
        out.put_u64(self.first_seq);
        out.put_u32(self.count);
        out.put_u64(self.time_ms);
        out.put_slice(self.id.as_bytes());
        out.put_slice(self.prev.as_bytes());
        out.put_slice(&self.body);
        out.freeze()
    }

    pub fn decode(mut bytes: Bytes) -> Result<Announcement, AnnouncementError> {
        if bytes.len() < HEADER_BYTES {
            return Err(AnnouncementError::Truncated { bytes: bytes.len() });
        }
        match bytes.get_u8() {
            VERSION => {}
            version => return Err(AnnouncementError::Version(version)),
        }
        match bytes.get_u8() {
            KIND_EVENTS => {}
            kind => return Err(AnnouncementError::Kind(kind)),
        }
        let announcement = Announcement {
            epoch: bytes.get_u64(),
            first_seq: bytes.get_u64(),
            count: bytes.get_u32(),
            time_ms: bytes.get_u64(),
            id: AnnouncementId(bytes.get_u64().to_be_bytes()),
            prev: AnnouncementId(bytes.get_u64().to_be_bytes()),
            body: bytes,
        };
        let Announcement { first_seq, count, .. } = announcement;
        match first_seq.checked_add(u64::from(count)) {
            Some(next) if next <= SEQ_MAX => Ok(announcement),
            _ => Err(AnnouncementError::Numbers { first_seq, count }),
        }
    }

    /// The events, slices of the announcement: nothing is copied.
    pub fn events(&self) -> Result<Vec<Event>, AnnouncementError> {
        let mut body = self.body.clone();
        // The count is only a claim until that many events were read.
        let mut events = Vec::with_capacity((self.body.len() / EVENT_BYTES_MIN).min(self.count as usize));
        for _ in 0..self.count {
            events.push(decode_event(&mut body)?);
        }
        match body.len() {
            0 => Ok(events),
            bytes => Err(AnnouncementError::Leftover { count: self.count, bytes }),
        }
    }
}

/// Flags, and the lengths of an empty name and empty data.
const EVENT_BYTES_MIN: usize = 7;

const FLAG_DELTA_ON: u8 = 1;
const FLAG_DELTA_OFF: u8 = 2;
const FLAG_EXCEPT: u8 = 4;
const FLAG_TAGS: u8 = 8;

/// The body of an announcement: each event as flags, name (u16 length), data
/// (u32 length), then the socket and the tags (u32 length) if flagged.
pub fn encode_events<'a>(events: impl IntoIterator<Item = &'a Event> + Clone) -> Bytes {
    let bytes = events.clone().into_iter().map(encoded_len).sum();
    let mut out = BytesMut::with_capacity(bytes);
    for event in events {
        let mut flags = match event.delta {
            Some(true) => FLAG_DELTA_ON,
            Some(false) => FLAG_DELTA_OFF,
            None => 0,
        };
        flags |= if event.except.is_some() { FLAG_EXCEPT } else { 0 };
        flags |= if event.tags.is_some() { FLAG_TAGS } else { 0 };
        out.put_u8(flags);
        out.put_u16(u16::try_from(event.name.len()).expect("names have 200 characters at most"));
        out.put_slice(&event.name);
        out.put_u32(u32::try_from(event.data.len()).expect("config bounds payloads"));
        out.put_slice(&event.data);
        if let Some(SocketId(id)) = event.except {
            out.put_u64(id);
        }
        if let Some(tags) = &event.tags {
            out.put_u32(u32::try_from(tags.len()).expect("tags are bounded"));
            out.put_slice(tags);
        }
    }
    out.freeze()
}

fn encoded_len(event: &Event) -> usize {
    15 + event.name.len() + event.data.len() + event.tags.as_ref().map_or(0, |tags| 4 + tags.len())
}

fn decode_event(body: &mut Bytes) -> Result<Event, AnnouncementError> {
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
    let delta = match flags & (FLAG_DELTA_ON | FLAG_DELTA_OFF) {
        FLAG_DELTA_ON => Some(true),
        FLAG_DELTA_OFF => Some(false),
        _ => None,
    };
    Ok(Event { name, data, except, tags, delta })
}

fn take(body: &mut Bytes, bytes: usize) -> Result<Bytes, AnnouncementError> {
    if body.len() < bytes {
        return Err(AnnouncementError::Truncated { bytes: body.len() });
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
        )
            .prop_map(|(name, data, except, tags, delta)| Event {
                name: name.into(),
                data: data.into(),
                except: except.map(SocketId),
                tags: tags.map(Bytes::from),
                delta,
            })
    }

    proptest! {
        #[test]
        fn what_is_announced_is_what_is_delivered(events in proptest::collection::vec(event(), 0..12)) {
            let announcement = Announcement {
                epoch: 7,
                first_seq: 8,
                count: events.len() as u32,
                time_ms: 9,
                id: AnnouncementId::random(),
                prev: AnnouncementId::NONE,
                body: encode_events(&events),
            };
            let heard = Announcement::decode(announcement.encode()).expect("it was encoded");
            prop_assert_eq!(&heard, &announcement);
            prop_assert_eq!(heard.events().expect("they were encoded"), events);
        }

        #[test]
        fn a_socket_id_is_read_back(id in any::<u64>()) {
            prop_assert_eq!(SocketId::parse(&SocketId(id).to_string()), Some(SocketId(id)));
        }
    }

    #[test]
    fn only_the_usual_spelling_names_a_socket() {
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
