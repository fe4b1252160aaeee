//! The names of protocol events: Pusher's, or Sockudo's for a client that has connected with
//! `protocol=2` (protocol.md 2.1). Nothing else depends on the event prefix.

/// The family of protocol event names on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EventPrefix {
    #[default]
    Pusher,
    Sockudo,
}

impl EventPrefix {
    /// The prefix of protocol event names, without the colon.
    pub fn prefix(self) -> &'static str {
        match self {
            EventPrefix::Pusher => "pusher",
            EventPrefix::Sockudo => "sockudo",
        }
    }

    /// The prefix of internal event names, which client libraries do not pass on to the
    /// application, without the colon.
    pub fn internal(self) -> &'static str {
        match self {
            EventPrefix::Pusher => "pusher_internal",
            EventPrefix::Sockudo => "sockudo_internal",
        }
    }
}
