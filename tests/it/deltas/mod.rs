//! Deltas (protocol.md 3): subscribers, chains, and the decoders of client libraries.

mod client_families;
mod conflation;
mod decoders;
mod fuzz;
mod optin;
mod policy;
mod real_clients;
