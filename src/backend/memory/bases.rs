//! The newest event of each of a channel's chains.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::backend::{KeptBase, KeptBases, StoredBase};
use crate::entry::Position;
use crate::event::decode_events;

#[derive(Debug, Default)]
pub(super) struct Bases {
    of_key: HashMap<Bytes, StoredBase>,
    /// Keys by the sequence numbers of their events.
    order: BTreeMap<u64, Bytes>,
}

impl Bases {
    /// Stores the bases of a publication of `count` events, whose entry is the newest one, at
    /// `head`.
    pub(super) fn keep(&mut self, kept: &KeptBases, count: u32, body: &Bytes, head: Position) {
        let first_seq = head.seq + 1 - u64::from(count);
        for KeptBase { key, index, start, bytes } in &kept.newest {
            // A copy: a slice would keep the whole body in memory.
            let event = Bytes::copy_from_slice(&body[*start..start + bytes]);
            let Ok(Some(event)) = decode_events(event, 1).map(|mut events| events.pop()) else { continue };
            let (key, seq) = (Bytes::copy_from_slice(key), first_seq + u64::from(*index));
            let base = StoredBase { key: key.clone(), seq, time_ms: head.time_ms, event };
            if let Some(before) = self.of_key.insert(key.clone(), base) {
                self.order.remove(&before.seq);
            }
            self.order.insert(seq, key);
        }
        while self.order.len() > kept.keys_max
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.of_key.remove(&oldest);
        }
    }

    /// Oldest first.
    pub(super) fn read(&self) -> Vec<StoredBase> {
        self.order.values().filter_map(|key| self.of_key.get(key).cloned()).collect()
    }
}
