//! Fanfare: a self-hosted, Pusher-protocol realtime server whose unit of work
//! is the batch. ARCHITECTURE.md has the walk of a batch through eight rooms;
//! the modules below stand in reading order: the edges, the way in, the shared
//! state, the way out, and what all of them speak of.

pub mod node;
pub mod server;

pub mod apps;
pub mod backend;
pub mod backend_events;
pub mod batch;
pub mod channels;
pub mod connection_limit;
pub mod delta;
pub mod fan_out;
pub mod http;
pub mod publish;
pub mod sockets;
pub mod subscribers;
pub mod webhook;
pub mod wire;
pub mod ws;

pub mod app;
pub mod auth;
pub mod channel;
pub mod entry;
pub mod event;
pub mod filter;
pub mod json;
pub mod limits;
pub mod log_limit;
pub mod metrics;
pub mod presence;
pub mod webhook_event;

pub mod cli;
pub mod config;
pub mod logging;
