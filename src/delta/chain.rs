//! The bases of deltas: the newest event of each chain.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use bytes::Bytes;

use super::settings::DeltaConfig;
use crate::metrics::metrics;

/// The newest event of a chain.
#[derive(Debug, Clone)]
pub struct Base {
    /// The base as clients store it (protocol.md 3.5).
    pub text: Bytes,
    pub seq: u64,
    /// Time of the entry, in ms by the backend's clock.
    pub time_ms: u64,
}

/// The chains of one channel, for one group of subscribers.
#[derive(Debug, Clone, Default)]
pub struct Chains {
    bases: HashMap<Bytes, Base>,
}

impl Chains {
    /// The base for an event of the chain `key` with an entry of time `time_ms`. `None` if
    /// there is none or if it is too old.
    pub fn base_at(&self, key: &Bytes, time_ms: u64, config: &DeltaConfig) -> Option<&Base> {
        let age_ms_max = config.base_age_max.as_millis() as u64;
        self.bases.get(key).filter(|base| time_ms.saturating_sub(base.time_ms) <= age_ms_max)
    }

    /// Makes an event the base for the next one of its chain. Above `keys_max` chains, the
    /// least recently used one is evicted: its next event is sent in full.
    pub fn advance(&mut self, key: &Bytes, base: Base, keys_max: usize) {
        let is_full = self.bases.len() >= keys_max;
        match self.bases.entry(key.clone()) {
            Entry::Occupied(mut known) => drop(known.insert(base)),
            Entry::Vacant(new) => {
                new.insert(base);
                if is_full {
                    self.evict_oldest();
                }
            }
        }
    }

    fn evict_oldest(&mut self) {
        metrics().chains_evicted.increment(1);
        let oldest = self.bases.iter().min_by_key(|(_, base)| base.seq).map(|(key, _)| key.clone());
        if let Some(key) = oldest {
            self.bases.remove(&key);
        }
    }

    /// Removes the base of a chain: its next event is sent in full.
    pub fn forget(&mut self, key: &[u8]) {
        self.bases.remove(key);
    }

    /// Removes all bases: the next event of each chain is sent in full.
    pub fn restart(&mut self) {
        self.bases.clear();
    }

    pub fn is_empty(&self) -> bool {
        self.bases.is_empty()
    }

    /// The keys of chains that have another base, or none, in `other`.
    pub fn differing<'a>(&'a self, other: &'a Chains) -> impl Iterator<Item = &'a Bytes> {
        let is_equal = |key, base: &Base| other.bases.get(key).is_some_and(|it| it.seq == base.seq);
        self.bases.iter().filter(move |(key, base)| !is_equal(*key, base)).map(|(key, _)| key)
    }
}
