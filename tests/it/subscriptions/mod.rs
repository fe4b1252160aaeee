//! Subscriptions to channels of every kind except presence channels, and the events that
//! their subscribers receive.

mod cache;
mod client_events;
mod counts;
mod encrypted;
mod filters;
mod mass_disconnection;
mod mass_subscription;
mod private;
mod public;
mod races;
