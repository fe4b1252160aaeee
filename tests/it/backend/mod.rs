//! The interface of the backends: one contract for memory and Redis, its costs, and each
//! Lua script alone.

mod channel_state;
mod contract;
mod costs;
mod expiry;
mod lua;
