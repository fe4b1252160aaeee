//! The frames of a delivery for one group, and the selection for each subscriber: one
//! buffer for the whole batch, shared by all subscribers with the same bases.

use bytes::{Bytes, BytesMut};

use super::base_state::BaseState;

/// The events of a delivery that match the group's filter.
#[derive(Debug, Default)]
pub(super) struct EncodedBatch {
    events: Vec<EncodedEvent>,
    /// Sequence numbers of all bases that deltas in this batch refer to, ascending.
    bases: Vec<u64>,
    /// Index `n`: the batch for subscribers that lack exactly the first `n` bases.
    buffers: Vec<Option<Bytes>>,
    /// A subscriber of the group was excluded from the last event.
    pub(super) omits_last: bool,
}

#[derive(Debug)]
pub(super) struct EncodedEvent {
    /// Index in the delivery.
    pub(super) event: usize,
    pub(super) seq: u64,
    pub(super) full: Bytes,
    /// The delta frame, and the sequence number of its base.
    pub(super) delta: Option<(Bytes, u64)>,
    /// The key of its chain; None for an event in no chain.
    pub(super) chain: Option<Bytes>,
}

impl EncodedEvent {
    fn frame(&self, has_base: impl FnOnce(u64) -> bool) -> &Bytes {
        match &self.delta {
            Some((delta, base)) if has_base(*base) => delta,
            _ => &self.full,
        }
    }
}

impl EncodedBatch {
    pub(super) fn push(&mut self, event: EncodedEvent) {
        if let Some((_, base)) = &event.delta {
            let at = self.bases.partition_point(|known| known <= base);
            self.bases.insert(at, *base);
        }
        self.events.push(event);
    }

    /// Called after the last push: allocates the buffer slots.
    pub(super) fn finish(&mut self) {
        self.buffers.resize(self.bases.len() + 1, None);
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    /// The buffer for a subscriber that receives all events.
    pub(super) fn whole(&mut self, base_state: &mut BaseState) -> Bytes {
        if base_state.misses_some() {
            return self.without(|_| false, base_state);
        }
        let from = base_state.complete_from();
        let missing = self.bases.iter().take_while(|base| **base < from).count();
        match &self.buffers[missing] {
            Some(buffer) => buffer.clone(),
            None => self.buffers[missing].insert(concat(&self.events, from)).clone(),
        }
    }

    /// The buffer for a subscriber that is excluded from some events, by index in the
    /// delivery.
    pub(super) fn without(
        &mut self,
        is_excluded: impl Fn(usize) -> bool,
        base_state: &mut BaseState,
    ) -> Bytes {
        let mut batch = BytesMut::new();
        self.omits_last |= self.events.last().is_some_and(|event| is_excluded(event.event));
        for event in &self.events {
            let Some(chain) = &event.chain else {
                if !is_excluded(event.event) {
                    batch.extend_from_slice(&event.full);
                }
                continue;
            };
            if is_excluded(event.event) {
                base_state.mark_skipped(chain, event.seq);
                continue;
            }
            batch.extend_from_slice(event.frame(|base| base_state.has_base(chain, base)));
            base_state.mark_sent(chain);
        }
        batch.freeze()
    }
}

/// Concatenates the frames for a subscriber with every base from number `from` on.
fn concat(events: &[EncodedEvent], from: u64) -> Bytes {
    let has_base = |base| base >= from;
    if let [only] = events {
        return only.frame(has_base).clone();
    }
    let bytes = events.iter().map(|event| event.full.len()).sum();
    let mut batch = BytesMut::with_capacity(bytes);
    for event in events {
        batch.extend_from_slice(event.frame(has_base));
    }
    batch.freeze()
}
