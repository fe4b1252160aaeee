//! The Pusher protocol as data (protocol.md 2 and 3): what clients say, what is
//! said to them, and WebSocket framing. No IO.

pub mod close;
pub mod command;
pub mod envelope;
pub mod event_prefix;
pub mod frame;
pub mod identity;
pub mod reply;
pub mod resume;
