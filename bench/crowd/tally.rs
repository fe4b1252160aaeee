//! What the subscribers of one process have been sent, together.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::{Gather, Said, Total};
use crate::machine;
use crate::record::Faults;

#[derive(Debug)]
pub struct Tally {
    gather: Gather,
    /// Subscribers that have yet to get the batch.
    lacking: Vec<AtomicU32>,
    events: AtomicU64,
    bytes: AtomicU64,
    decoded: AtomicU64,
    faults: Mutex<Faults>,
    say: mpsc::Sender<Said>,
}

impl Tally {
    pub fn new(gather: Gather, say: mpsc::Sender<Said>) -> Tally {
        let lacking = (0..gather.batches)
            .map(|batch| AtomicU32::new(gather.load.audience(batch, gather.sockets.clone())))
            .collect();
        let (events, bytes, decoded, faults) = Default::default();
        Tally { gather, lacking, events, bytes, decoded, faults, say }
    }

    pub fn gather(&self) -> &Gather {
        &self.gather
    }

    /// A subscriber of `channel` that had `before` events has `after` now.
    pub fn advance(&self, channel: u32, before: u64, after: u64) {
        let load = &self.gather.load;
        for round in before / u64::from(load.events)..after / u64::from(load.events) {
            let batch = load.batch_of(channel, round * u64::from(load.events));
            let lacking = self.lacking.get(batch as usize);
            if lacking.is_some_and(|lacking| lacking.fetch_sub(1, Relaxed) == 1) {
                // Fails when the process is ending, or nobody has read for long.
                let _ = self.say.try_send(Said::Batch { batch, last_ns: machine::monotonic_ns() });
            }
        }
    }

    /// Events that came for the first time, and everything that was read.
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

    /// Everything so far, where `batches` have been published.
    pub fn total(&self, batches: u32) -> Total {
        let Gather { load, sockets, .. } = &self.gather;
        let due: u64 = sockets.clone().map(|socket| load.count(socket % load.channels, batches)).sum();
        let events = self.events.load(Relaxed);
        let faults = Faults { lost: due.saturating_sub(events), ..*self.faults.lock() };
        Total { events, bytes: self.bytes.load(Relaxed), decoded: self.decoded.load(Relaxed), faults }
    }
}
