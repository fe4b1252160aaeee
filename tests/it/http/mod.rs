//! The HTTP API (protocol.md 1): signing, publishing, queries, and the lifetime of its
//! connections.

mod auth;
mod batch_events;
mod channels;
mod events;
mod keep_alive;
mod metrics;
mod queries;
