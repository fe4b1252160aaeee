//! The Pusher protocol as data (protocol.md 2 and 3): commands of clients, replies, envelopes
//! of events, close codes and WebSocket framing. No IO.

pub mod close;
pub mod command;
pub mod envelope;
pub mod event_prefix;
pub mod frame;
pub mod identity;
pub mod reply;
pub mod resume;
