//! One run as one line of JSON: what all tables and charts are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first line of a file of results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Cores, processor, kernel, load before, and who ran on which cores.
    pub machine: String,
    /// What was typed.
    pub command: String,
    /// Of every program that took part.
    pub versions: BTreeMap<String, String>,
    /// Seconds since 1970.
    pub started: u64,
    /// Servers and clients had cores of their own; without, nothing compares.
    pub is_pinned: bool,
}

/// One server, loaded once in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which table it belongs to: `compare`, `subscribers`, `payload`, …
    pub table: String,
    /// Which load it was: the row in `compare`; the same for all of a growth table.
    pub case: String,
    pub server: String,
    /// From 0. Servers of one repeat ran in the same minutes.
    pub repeat: u32,
    /// What grows, in a growth table: sockets, channels, events, bytes or nodes.
    pub at: Option<f64>,
    /// Values by name; the unit is part of the name.
    pub figures: BTreeMap<String, f64>,
    pub faults: Faults,
}

/// What went wrong, over all sockets of a run. Nothing must.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Events that a socket never got.
    pub lost: u64,
    pub duplicated: u64,
    /// Events that came after one that was published later.
    pub reordered: u64,
    /// Deltas, of the sockets that decode, that did not give the event.
    pub undecodable: u64,
    /// Sockets that the server closed.
    pub closed: u64,
}

impl std::ops::AddAssign for Faults {
    fn add_assign(&mut self, other: Faults) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.undecodable += other.undecodable;
        self.closed += other.closed;
    }
}
