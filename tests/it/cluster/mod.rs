//! Nodes that share a Redis: one order, exact counts, and repair after failures of nodes, of
//! Redis and of the network.

mod clock;
mod failover;
mod gap_repair;
mod ghosts;
mod lease;
mod many_channels;
mod order;
mod readiness;
mod redis_outage;
mod requirements;
mod run_once;
mod stalled_links;
mod start;
mod tasks;
