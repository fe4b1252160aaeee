//! Counters shared by all subscribers of a crowd process.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{CrowdConfig, Report, Total};
use crate::machine;
use crate::record::Faults;

#[derive(Debug)]
pub struct Tally {
    config: CrowdConfig,
    /// By batch: the number of subscribers that do not have all of it yet.
    pending: Vec<AtomicU32>,
    events: AtomicU64,
    bytes: AtomicU64,
    decoded: AtomicU64,
    faults: Mutex<Faults>,
    reports: mpsc::Sender<Report>,
}

impl Tally {
    pub fn new(config: CrowdConfig, reports: mpsc::Sender<Report>) -> Tally {
        let pending = (0..config.batches)
            .map(|batch| AtomicU32::new(config.load.subscriber_count(batch, config.sockets.clone())))
            .collect();
        let (events, bytes, decoded, faults) = Default::default();
        Tally { config, pending, events, bytes, decoded, faults, reports }
    }

    pub fn config(&self) -> &CrowdConfig {
        &self.config
    }

    /// Records that a subscriber of `channel` has `after` events instead of `before`. Reports
    /// every batch that this completes.
    pub fn advance(&self, channel: u32, before: u64, after: u64) {
        let load = &self.config.load;
        for round in before / u64::from(load.events)..after / u64::from(load.events) {
            let batch = load.batch_of(channel, round * u64::from(load.events));
            let pending = self.pending.get(batch as usize);
            if pending.is_some_and(|pending| pending.fetch_sub(1, Relaxed) == 1) {
                // Fails at the end of the process, or when the report queue is full.
                let _ = self.reports.try_send(Report::Batch { batch, last_ns: machine::monotonic_ns() });
            }
        }
    }

    /// Adds new events, without duplicates, and all bytes read.
    pub fn count(&self, events: u64, bytes: usize) {
        self.events.fetch_add(events, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub fn decoded(&self) {
        self.decoded.fetch_add(1, Relaxed);
    }

    pub fn fault(&self, fault: Faults) {
        *self.faults.lock() += fault;
    }

    /// The totals so far, after `batches` published batches.
    pub fn total(&self, batches: u32) -> Total {
        let CrowdConfig { load, sockets, .. } = &self.config;
        let expected: u64 = sockets.clone().map(|socket| load.count(socket % load.channels, batches)).sum();
        let events = self.events.load(Relaxed);
        let faults = Faults { lost: expected.saturating_sub(events), ..*self.faults.lock() };
        Total { events, bytes: self.bytes.load(Relaxed), decoded: self.decoded.load(Relaxed), faults }
    }
}
