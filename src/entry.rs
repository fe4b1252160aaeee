//! Entries: the numbered elements of a channel's history, and their encoding (design.md 3,
//! *Entry*).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::event::{DecodeEventsError, Event, decode_events, take};
use crate::presence::MemberChange;

/// Identifies an entry and the operation that appended it. The publishing node draws it at random,
/// so that the backend recognises a resend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntryId([u8; 8]);

impl EntryId {
    pub const BYTES: usize = 8;
    /// The `prev` of the first entry of an epoch.
    pub const NONE: EntryId = EntryId([0; 8]);

    pub fn random() -> EntryId {
        EntryId(rand::random::<u64>().max(1).to_be_bytes())
    }

    pub fn from_bytes(bytes: &[u8]) -> Option<EntryId> {
        bytes.try_into().ok().map(EntryId)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// The last entry of a channel, or the last one that a node or a client has handled. A sequence
/// number is meaningful only within its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub epoch: u64,
    /// Sequence number of the last event.
    pub seq: u64,
    pub id: EntryId,
    /// Time of the append, in ms of the backend's clock.
    pub time_ms: u64,
}

/// A read of a channel's history.
#[derive(Debug, Default)]
pub struct Log {
    /// The channel's current position. `None` if the channel has no entries, or if Redis has lost
    /// them.
    pub head: Option<Position>,
    /// Oldest first: the entries after the requested one if the history still contains it,
    /// otherwise the whole history.
    pub entries: Vec<Entry>,
}

/// A numbered element of a channel's history.
///
/// On the wire, integers big-endian:
///
/// | bytes | field |
/// | --- | --- |
/// | 1 | version, 1 |
/// | 1 | kind |
/// | 8 | epoch |
/// | 8 | sequence number; of several events, that of the first |
/// | 4 | count of sequence numbers: one for each event |
/// | 8 | time of Redis, ms |
/// | 8 | offset: bytes of the previous entries |
/// | 8 | id |
/// | 8 | prev: id of the previous entry, or zeros |
/// | … | body |
///
/// The backend writes the header when it numbers the entry (`lua/include/append.lua`, the memory
/// backend). The publisher encodes a body of events; the script that decides a transition encodes
/// the other bodies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub epoch: u64,
    pub first_seq: u64,
    pub count: u32,
    pub time_ms: u64,
    /// Bytes of all previous entries, by which a backend bounds its history.
    pub offset: u64,
    pub id: EntryId,
    pub prev: EntryId,
    pub body: Bytes,
}

/// Content of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::event::encode_events`]: events that an app's server published. The only kind that
    /// can be the base of a delta.
    Events,
    /// The same encoding, with events of clients.
    ClientEvents,
    /// Member changes of a presence channel: each as 1 (added) or 2 (removed), the user id (u16
    /// length), and for 1 the `user_info` (u32 length).
    Members,
    /// The number of subscriptions of the channel in the cluster (u64).
    SubscriptionCount,
    /// Whether the user is online, 1 or 0. On a user channel.
    UserStatus,
    /// Closes all connections of the user. On a user channel, without a body.
    Termination,
    /// The delta toggle of the channel: enabled, 1, or disabled, 0.
    Deltas,
    /// A kind of a later version. It has sequence numbers, and no effect on this node.
    Unknown(u8),
}

impl Kind {
    pub fn code(self) -> u8 {
        match self {
            Kind::Events => 1,
            Kind::ClientEvents => 2,
            Kind::Members => 3,
            Kind::SubscriptionCount => 4,
            Kind::UserStatus => 5,
            Kind::Termination => 6,
            Kind::Deltas => 7,
            Kind::Unknown(code) => code,
        }
    }

    fn of(code: u8) -> Kind {
        match code {
            1 => Kind::Events,
            2 => Kind::ClientEvents,
            3 => Kind::Members,
            4 => Kind::SubscriptionCount,
            5 => Kind::UserStatus,
            6 => Kind::Termination,
            7 => Kind::Deltas,
            _ => Kind::Unknown(code),
        }
    }
}

/// A decoded body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Events(Vec<Event>),
    ClientEvents(Vec<Event>),
    Members(Vec<MemberChange>),
    SubscriptionCount(u64),
    UserStatus { online: bool },
    Termination,
    Deltas { on: bool },
    Unknown,
}

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 54;
/// Lua numbers are doubles: larger integers are not exact.
const SEQ_MAX: u64 = 1 << 53;

/// A message on a channel's topic that this version cannot read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EntryError {
    #[error("an entry of {bytes} bytes ends before its header does")]
    Truncated { bytes: usize },
    #[error("entry version {0} is not known")]
    Version(u8),
    #[error("an entry of members, a count or a status says something else")]
    Garbled,
    #[error("{count} events cannot be numbered from {first_seq} on")]
    Numbers { first_seq: u64, count: u32 },
    #[error(transparent)]
    Run(#[from] DecodeEventsError),
}

impl Entry {
    /// The position of a node that has handled this entry.
    pub fn position(&self) -> Position {
        let seq = self.first_seq + u64::from(self.count.max(1)) - 1;
        Position { epoch: self.epoch, seq, id: self.id, time_ms: self.time_ms }
    }

    /// The position of a node that handles this entry next.
    pub fn before(&self) -> Position {
        let seq = self.first_seq.saturating_sub(1);
        Position { epoch: self.epoch, seq, id: self.prev, time_ms: self.time_ms }
    }

    /// Whether the entry precedes `position`. Compares the time too, because a fork reuses sequence
    /// numbers at a later time.
    pub fn is_before(&self, position: Position) -> bool {
        self.first_seq <= position.seq && self.time_ms < position.time_ms
    }

    /// Whether the entry follows `position`: by a higher number, or by a later time, because a fork
    /// reuses sequence numbers.
    pub fn is_after(&self, position: Position) -> bool {
        self.first_seq > position.seq || self.time_ms > position.time_ms
    }

    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(HEADER_BYTES + self.body.len());
        out.put_u8(VERSION);
        out.put_u8(self.kind.code());
        out.put_u64(self.epoch);
        out.put_u64(self.first_seq);
        out.put_u32(self.count);
        out.put_u64(self.time_ms);
        out.put_u64(self.offset);
        out.put_slice(self.id.as_bytes());
        out.put_slice(self.prev.as_bytes());
        out.put_slice(&self.body);
        out.freeze()
    }

    pub fn decode(mut bytes: Bytes) -> Result<Entry, EntryError> {
        if bytes.len() < HEADER_BYTES {
            return Err(EntryError::Truncated { bytes: bytes.len() });
        }
        match bytes.get_u8() {
            VERSION => {}
            version => return Err(EntryError::Version(version)),
        }
        let entry = Entry {
            kind: Kind::of(bytes.get_u8()),
            epoch: bytes.get_u64(),
            first_seq: bytes.get_u64(),
            count: bytes.get_u32(),
            time_ms: bytes.get_u64(),
            offset: bytes.get_u64(),
            id: EntryId(bytes.get_u64().to_be_bytes()),
            prev: EntryId(bytes.get_u64().to_be_bytes()),
            body: bytes,
        };
        let Entry { first_seq, count, .. } = entry;
        match first_seq.checked_add(u64::from(count)) {
            Some(next) if next <= SEQ_MAX => Ok(entry),
            _ => Err(EntryError::Numbers { first_seq, count }),
        }
    }

    /// Decodes the body. The result consists of slices of the entry, without copies.
    pub fn read(&self) -> Result<Body, EntryError> {
        let mut body = self.body.clone();
        match self.kind {
            Kind::Events => Ok(Body::Events(decode_events(body, self.count)?)),
            Kind::ClientEvents => Ok(Body::ClientEvents(decode_events(body, self.count)?)),
            Kind::Members => decode_members(body).map(Body::Members),
            Kind::SubscriptionCount if body.len() == 8 => Ok(Body::SubscriptionCount(body.get_u64())),
            Kind::UserStatus if body.len() == 1 => Ok(Body::UserStatus { online: body[0] == 1 }),
            Kind::Termination => Ok(Body::Termination),
            Kind::Deltas if body.len() == 1 => Ok(Body::Deltas { on: body[0] == 1 }),
            Kind::Unknown(_) => Ok(Body::Unknown),
            Kind::SubscriptionCount | Kind::UserStatus | Kind::Deltas => Err(EntryError::Garbled),
        }
    }
}

const MEMBER_ADDED: u8 = 1;
const MEMBER_REMOVED: u8 = 2;

/// The body of [`Kind::Members`].
pub fn encode_members(changes: &[MemberChange]) -> Bytes {
    let mut out = BytesMut::new();
    for change in changes {
        let (code, user_id) = match change {
            MemberChange::Added { user_id, .. } => (MEMBER_ADDED, user_id),
            MemberChange::Removed { user_id } => (MEMBER_REMOVED, user_id),
        };
        out.put_u8(code);
        out.put_u16(u16::try_from(user_id.len()).expect("user ids have 128 characters at most"));
        out.put_slice(user_id.as_bytes());
        if let MemberChange::Added { info, .. } = change {
            out.put_u32(u32::try_from(info.len()).expect("limits bound a member"));
            out.put_slice(info);
        }
    }
    out.freeze()
}

fn decode_members(mut body: Bytes) -> Result<Vec<MemberChange>, EntryError> {
    let mut changes = Vec::new();
    while body.has_remaining() {
        let code = body.get_u8();
        let user_bytes = take(&mut body, 2)?.get_u16().into();
        let user_id = take(&mut body, user_bytes)?;
        let user_id = std::str::from_utf8(&user_id).map_err(|_| EntryError::Garbled)?.into();
        changes.push(match code {
            MEMBER_ADDED => {
                let info_bytes = take(&mut body, 4)?.get_u32() as usize;
                MemberChange::Added { user_id, info: take(&mut body, info_bytes)? }
            }
            MEMBER_REMOVED => MemberChange::Removed { user_id },
            _ => return Err(EntryError::Garbled),
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::encode_events;
    use proptest::prelude::*;

    fn entry(kind: Kind, count: u32, body: Bytes) -> Entry {
        let (id, prev) = (EntryId::random(), EntryId::NONE);
        Entry { kind, epoch: 7, first_seq: 8, count, time_ms: 9, offset: 10, id, prev, body }
    }

    fn change() -> impl Strategy<Value = MemberChange> {
        ("\\PC{0,40}", proptest::option::of("\\PC{0,90}")).prop_map(|(user, info)| match info {
            Some(info) => MemberChange::Added { user_id: user.into(), info: info.into() },
            None => MemberChange::Removed { user_id: user.into() },
        })
    }

    proptest! {
        #[test]
        fn members_roundtrip_through_encoding(changes in proptest::collection::vec(change(), 0..9)) {
            let original = entry(Kind::Members, 1, encode_members(&changes));
            let decoded = Entry::decode(original.encode()).expect("an encoded entry");
            prop_assert_eq!(&decoded, &original);
            prop_assert_eq!(decoded.read(), Ok(Body::Members(changes)));
        }
    }

    #[test]
    fn body_of_each_kind_is_decoded() {
        let event = Event { user: Some("u".into()), ..Event::new("e", "d") };
        let events = encode_events(std::slice::from_ref(&event));
        let eight = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 1, 0]);
        for (kind, body, expected) in [
            (Kind::Events, events.clone(), Ok(Body::Events(vec![event.clone()]))),
            (Kind::ClientEvents, events, Ok(Body::ClientEvents(vec![event]))),
            (Kind::SubscriptionCount, eight.clone(), Ok(Body::SubscriptionCount(256))),
            (Kind::SubscriptionCount, Bytes::new(), Err(EntryError::Garbled)),
            (Kind::UserStatus, Bytes::from_static(&[1]), Ok(Body::UserStatus { online: true })),
            (Kind::UserStatus, eight.clone(), Err(EntryError::Garbled)),
            (Kind::Termination, Bytes::new(), Ok(Body::Termination)),
            (Kind::Deltas, Bytes::from_static(&[0]), Ok(Body::Deltas { on: false })),
            (Kind::Deltas, Bytes::new(), Err(EntryError::Garbled)),
            (Kind::Unknown(200), eight, Ok(Body::Unknown)),
            (Kind::Members, Bytes::from_static(&[9, 0, 0]), Err(EntryError::Garbled)),
        ] {
            let decoded = Entry::decode(entry(kind, 1, body).encode()).expect("a complete header");
            assert_eq!((decoded.kind, decoded.read()), (kind, expected));
        }
    }
}
