//! Each script of `lua/` by itself, against a real Redis: what it returns, what
//! it refuses, and that a refusal has written nothing and announced nothing.

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
mod headers;
mod index;
mod leases;
mod log;
mod log_since;
mod member_notices;
mod members;
mod memory_full;
mod outbox;
mod publish;
mod rates;
mod resends;
mod settle;
mod subscriptions;
mod switches;
mod types;
mod user_channels;
