//! Presence channels (protocol.md 2.6): rosters and member changes, also when nodes die.

mod cluster;
mod node_deaths;
mod roster;
