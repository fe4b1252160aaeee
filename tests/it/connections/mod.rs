//! WebSocket connections (protocol.md 2.1 to 2.3): handshake, keepalive, invalid input,
//! backpressure, and their end when a node drains.

mod bad_input;
mod connect;
mod drain;
mod handshake;
mod http_limits;
mod keepalive;
mod origins;
mod slow_client;
mod writers;
