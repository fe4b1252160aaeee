//! Channel names, their kinds, and the ids of channels in the cluster.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::limits;

/// Prefix of a user channel's name; the user id follows (protocol.md 1.7).
pub const USER_CHANNEL: &str = "#server-to-user-";

/// A valid channel name (protocol.md 1.9), validated by its constructors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ChannelNameError {
    #[error("a channel name must not be empty")]
    Empty,
    #[error("the channel name has {chars} characters (limit: {chars_max})")]
    TooLong { chars: usize, chars_max: usize },
    #[error("the channel name has the character {0:?}; allowed are A-Z a-z 0-9 and _-=@,.;:")]
    Character(char),
    #[error(transparent)]
    UserId(#[from] UserIdError),
}

/// Why a user id is invalid. Ids come from identity providers: any printable text is valid
/// (`auth0|5f7c`, `ann+x@example.com`).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UserIdError {
    #[error("the user id must not be empty")]
    Empty,
    #[error("the user id has {chars} characters (limit: {chars_max})")]
    TooLong { chars: usize, chars_max: usize },
    #[error("the user id has the control character {0:?}")]
    Control(char),
}

/// The requirements of a channel for its subscribers, decided by its prefix (protocol.md 2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    Public,
    Private,
    Encrypted,
    Presence,
    /// `#server-to-user-…`
    User,
}

impl ChannelKind {
    fn of(name: &str) -> ChannelKind {
        match name {
            name if name.starts_with("private-encrypted-") => ChannelKind::Encrypted,
            name if name.starts_with("private-") => ChannelKind::Private,
            name if name.starts_with("presence-") => ChannelKind::Presence,
            name if name.starts_with(USER_CHANNEL) => ChannelKind::User,
            _ => ChannelKind::Public,
        }
    }
}

impl ChannelName {
    /// Parses a name. A user channel has the limits of a user id, any other channel those of
    /// Pusher's channel names.
    pub fn parse(name: &str, chars_max: usize) -> Result<ChannelName, ChannelNameError> {
        if let Some(user_id) = name.strip_prefix(USER_CHANNEL) {
            return Ok(ChannelName::of_user(user_id)?);
        }
        if name.is_empty() {
            return Err(ChannelNameError::Empty);
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_-=@,.;:".contains(c);
        if let Some(c) = name.chars().find(|c| !allowed(*c)) {
            return Err(ChannelNameError::Character(c));
        }
        // All characters are ASCII here, so the length in bytes is the length in characters.
        if name.len() > chars_max {
            return Err(ChannelNameError::TooLong { chars: name.len(), chars_max });
        }
        Ok(ChannelName(name.into()))
    }

    /// The user channel, which reaches all connections of a user. It contains the user id verbatim:
    /// names in Redis are binary-safe, and JSON writers escape it.
    pub fn of_user(user_id: &str) -> Result<ChannelName, UserIdError> {
        let (chars, chars_max) = (user_id.chars().count(), limits::USER_ID_CHARS_MAX);
        if chars == 0 {
            return Err(UserIdError::Empty);
        }
        if chars > chars_max {
            return Err(UserIdError::TooLong { chars, chars_max });
        }
        match user_id.chars().find(|c| c.is_control()) {
            Some(control) => Err(UserIdError::Control(control)),
            None => Ok(ChannelName([USER_CHANNEL, user_id].concat().into())),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn kind(&self) -> ChannelKind {
        ChannelKind::of(self.as_str())
    }

    /// Whether new subscribers receive the last event (protocol.md 2.12). The prefix is anchored:
    /// `my-cache-x` is not a cache channel.
    pub fn is_cache(&self) -> bool {
        ChannelName::is_cache_name(&self.0)
    }

    /// [`ChannelName::is_cache`] for a name that is valid but not parsed.
    pub fn is_cache_name(name: &str) -> bool {
        ["cache-", "private-cache-", "private-encrypted-cache-", "presence-cache-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    }
}

impl Borrow<str> for ChannelName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A channel of an app, as all nodes and Redis identify it: `<app id>:<channel>`. App ids contain
/// no colon.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChannelId(Arc<str>);

impl ChannelId {
    pub fn new(app: &str, channel: &ChannelName) -> ChannelId {
        debug_assert!(!app.contains(':'), "the configuration validates app ids");
        ChannelId([app, ":", channel.as_str()].concat().into())
    }

    /// Parses an id that a node of the cluster has written, as in a topic's name.
    pub fn from_wire(text: &str) -> Option<ChannelId> {
        text.contains(':').then(|| ChannelId(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn app(&self) -> &str {
        self.0.split_once(':').expect("a channel id has a colon").0
    }

    pub fn channel(&self) -> &str {
        self.0.split_once(':').expect("a channel id has a colon").1
    }

    pub fn kind(&self) -> ChannelKind {
        ChannelKind::of(self.channel())
    }

    /// The partition of this channel: FNV-1a of the channel id, folded to a byte.
    ///
    /// Every key and topic of the channel contains the hash tag of its partition, so this function
    /// must not change while data exists.
    pub fn partition(&self) -> Partition {
        let mut hash: u32 = 0x811c_9dc5;
        for byte in self.0.bytes() {
            hash = (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        }
        Partition((hash ^ (hash >> 8) ^ (hash >> 16) ^ (hash >> 24)) as u8)
    }
}

impl Borrow<str> for ChannelId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One of [`limits::PARTITIONS`] groups of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(pub u8);

impl Partition {
    pub fn all() -> impl Iterator<Item = Partition> {
        (0..limits::PARTITIONS).map(|n| Partition(n as u8))
    }
}
