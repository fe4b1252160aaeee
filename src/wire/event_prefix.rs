//! The names of a connection's own events: Pusher's, or Sockudo's where the
//! client has connected with `protocol=2` (protocol.md 2.1). All else is the same.

/// Which family of names a connection is spoken to in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EventPrefix {
    #[default]
    Pusher,
    Sockudo,
}

impl EventPrefix {
    /// What the names of events begin with, before the colon.
    pub fn prefix(self) -> &'static str {
        match self {
            EventPrefix::Pusher => "pusher",
            EventPrefix::Sockudo => "sockudo",
        }
    }

    /// The same, of events that are between server and library.
    pub fn internal(self) -> &'static str {
        match self {
            EventPrefix::Pusher => "pusher_internal",
            EventPrefix::Sockudo => "sockudo_internal",
        }
    }
}
