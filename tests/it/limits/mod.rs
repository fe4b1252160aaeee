//! Limits: sizes, rates, connections.

mod connection_quota;
mod message_limits;
mod publishes;
mod rate_limits;
mod sizes;
mod subscriptions;
