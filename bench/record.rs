//! The JSON lines of a results file, from which all tables and charts are made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The first line of a results file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// Cores, processor, kernel, load before the run, and the pinning of servers and generator.
    pub machine: String,
    /// The command line.
    pub command: String,
    /// Version of each measured program.
    pub versions: BTreeMap<String, String>,
    /// Unix time in seconds.
    pub started: u64,
    /// Whether servers and clients ran on separate cores. Otherwise figures are not comparable.
    pub is_pinned: bool,
}

/// One run of one load on one server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The table of the run: `compare`, `subscribers`, `payload`, …
    pub table: String,
    /// The load: the row in `compare`, the same in all runs of a growth table.
    pub case: String,
    pub server: String,
    /// From 0. The servers of one repeat ran within the same minutes.
    pub repeat: u32,
    /// The parameter of a growth table: sockets, channels, events, bytes or nodes.
    pub at: Option<f64>,
    /// Values by name. The name includes the unit.
    pub figures: BTreeMap<String, f64>,
    pub faults: Faults,
}

/// Delivery errors, summed over all sockets of a run. All are 0 in a valid run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faults {
    /// Events that a socket never received.
    pub lost: u64,
    pub duplicated: u64,
    /// Events that arrived after an event published later.
    pub reordered: u64,
    /// Deltas that did not decode to their event, on the sockets that decode.
    pub undecodable: u64,
    /// Connections that the server closed.
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
