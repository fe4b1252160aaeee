//! The events that deltas are made against: the newest one of each chain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::settings::DeltaConfig;
use crate::metrics::metrics;

/// The newest event of a chain.
#[derive(Debug, Clone)]
pub struct Base {
    /// As a client that has it holds it (protocol.md 3.5).
    pub text: Bytes,
    pub seq: u64,
    /// When it was announced, in ms of the backend's clock.
    pub time_ms: u64,
}

/// The chains of one channel, as those know them who are sent the same of it.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    bases: HashMap<Bytes, Base>,
}

impl Chains {
    /// The base for an event of the chain `key` announced at `time_ms`, unless it
    /// is too old.
    pub fn base_at(&self, key: &Bytes, time_ms: u64, config: &DeltaConfig) -> Option<&Base> {
        let age_ms_max = config.base_age_max.as_millis() as u64;
        self.bases.get(key).filter(|base| time_ms.saturating_sub(base.time_ms) <= age_ms_max)
    }

    /// Makes an event the base of the next in its chain. Of more than `keys_max`
    /// chains the one that was silent longest is forgotten: its next event is full.
    pub fn advance(&mut self, key: &Bytes, base: Base, keys_max: usize) {
        let full = self.bases.len() >= keys_max;
        match self.bases.entry(key.clone()) {
            Entry::Occupied(mut known) => drop(known.insert(base)),
            Entry::Vacant(new) => {
                new.insert(base);
                if full {
                    self.forget_oldest();
                }
            }
        }
    }

    fn forget_oldest(&mut self) {
        metrics().chains_evicted.increment(1);
        let oldest = self.bases.iter().min_by_key(|(_, base)| base.seq).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.bases.remove(&key);
        }
    }

    /// The next event of the chain goes out in full.
    pub fn forget(&mut self, key: &[u8]) {
        self.bases.remove(key);
    }

    /// So do the next events of all of them: nothing is known of what came before.
    pub fn restart(&mut self) {
        self.bases.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// The keys of chains whose base is another one, or none, in `held`.
    pub fn differing<'a>(&'a self, held: &'a Chains) -> impl Iterator<Item = &'a Bytes> {
        let is_held = |key, base: &Base| held.bases.get(key).is_some_and(|other| other.seq == base.seq);
        self.bases.iter().filter(move |(key, base)| !is_held(*key, base)).map(|(key, _)| key)
    }
}
