//! What carries a run of events, or another change of a channel, to every node,
//! and what it says. The encoding is ours (docs: ARCHITECTURE.md).

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

use crate::event::{DecodeEventsError, Event, decode_events, take};
use crate::presence::MemberChange;

/// Names one entry, and the operation that made it: drawn at random by
/// the publishing node, so that a resend can be told from a second publish.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EntryId([u8; 8]);

impl EntryId {
    pub const BYTES: usize = 8;
    /// Stands before the first entry of an epoch.
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

/// Where a channel stands: the last entry that was made on it, or that a
/// node has handled. A sequence number means nothing without the epoch, the
/// life of the sequence, that it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    pub epoch: u64,
    /// Number of the last event.
    pub seq: u64,
    pub id: EntryId,
    /// When it was announced, in ms of the backend's clock.
    pub time_ms: u64,
}

/// What the log said.
#[derive(Debug, Default)]
pub struct Log {
    /// Where the channel stands; None if nothing was ever announced, or Redis
    /// has lost it.
    pub head: Option<Position>,
    /// Oldest first: after the entry that was asked for if the log still
    /// had it, else everything the log has.
    pub entries: Vec<Entry>,
}

/// What is announced on a channel as one step, numbered.
///
/// On the wire, integers big-endian:
///
/// | bytes | field |
/// | --- | --- |
/// | 1 | version, 1 |
/// | 1 | kind |
/// | 8 | epoch |
/// | 8 | its number; of a run of events, that of the first |
/// | 4 | how many numbers it takes: one for each event |
/// | 8 | time of Redis, ms |
/// | 8 | offset: bytes of the entries before |
/// | 8 | id |
/// | 8 | prev: id of the entry before, or zeros |
/// | … | body |
///
/// The header is written by whoever numbers (`lua/include/announce.lua`, the
/// memory backend), a body of events by the publisher, other bodies by whoever
/// decides that there is something to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub kind: Kind,
    pub epoch: u64,
    pub first_seq: u64,
    pub count: u32,
    pub time_ms: u64,
    /// How much was announced before: bytes, by which a backend bounds its log.
    pub offset: u64,
    pub id: EntryId,
    pub prev: EntryId,
    pub body: Bytes,
}

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`crate::event::encode_events`]: published by a backend, the only kind
    /// that a delta may be made against.
    Events,
    /// The same, of clients.
    ClientEvents,
    /// Who came to a presence channel and who left it: each as 1 or 2, the user
    /// (u16 length), and for 1 the `user_info` (u32 length).
    Members,
    /// How many subscriptions the channel has (u64).
    SubscriptionCount,
    /// Whether the user is online, 1 or 0: on a user's own channel.
    UserStatus,
    /// Ends all connections of the user: on a user's own channel. No body.
    Termination,
    /// Deltas are switched on, 1, or off, 0, because of what they save.
    Deltas,
    /// Of a later version: it takes its numbers, and says nothing to us.
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

/// A body, read.
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
/// Lua counts in doubles.
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

    /// Whether it was announced earlier than what `position` names. Its number
    /// alone would not tell: a fork uses numbers again, later.
    pub fn is_before(&self, position: Position) -> bool {
        self.first_seq <= position.seq && self.time_ms < position.time_ms
    }

    /// Whether it was announced after the channel stood at `position`: with a higher
    /// number, or later, for a fork uses numbers again.
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

    /// What it says. Slices of the entry: nothing is copied.
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
        fn members_are_heard_as_announced(changes in proptest::collection::vec(change(), 0..9)) {
            let announced = entry(Kind::Members, 1, encode_members(&changes));
            let heard = Entry::decode(announced.encode()).expect("it was encoded");
            prop_assert_eq!(&heard, &announced);
            prop_assert_eq!(heard.read(), Ok(Body::Members(changes)));
        }
    }

    #[test]
    fn every_kind_is_read() {
        let event = Event { user: Some("u".into()), ..Event::new("e", "d") };
        let run = encode_events(std::slice::from_ref(&event));
        let eight = Bytes::from_static(&[0, 0, 0, 0, 0, 0, 1, 0]);
        for (kind, body, said) in [
            (Kind::Events, run.clone(), Ok(Body::Events(vec![event.clone()]))),
            (Kind::ClientEvents, run, Ok(Body::ClientEvents(vec![event]))),
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
            let heard = Entry::decode(entry(kind, 1, body).encode()).expect("a whole header");
            assert_eq!((heard.kind, heard.read()), (kind, said));
        }
    }
}
