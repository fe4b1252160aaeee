//! Each script of `lua/` by itself, against a real Redis: its replies, its errors, and that an
//! error has neither written nor published anything.

mod answers;
mod calls;
mod client;
mod source;
mod stage;

mod bases;
mod cache;
mod connections;
mod control_entries;
mod counts;
mod delta_toggle;
mod headers;
mod index;
mod leases;
mod log;
mod log_since;
mod member_webhooks;
mod members;
mod memory_full;
mod outbox;
mod publish;
mod rates;
mod resends;
mod settle;
mod subscriptions;
mod types;
mod user_channels;
