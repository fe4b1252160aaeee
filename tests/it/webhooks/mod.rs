//! Webhooks (protocol.md 5): the delivered events, also while receivers, nodes and Redis fail.

mod delivery;
mod drops;
mod failures;
mod fairness;
mod faults;
