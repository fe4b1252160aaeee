//! Groups: subscribers with equal delivery options, and the chains that they share.

use super::base_state::BaseState;
use super::encoded_batch::{EncodedBatch, EncodedEvent};
use super::shared_slab::SharedSlab;
use crate::delta::chain::Chains;
use crate::encode::{DeliveryOptions, EventFrames};
use crate::filter::AdmittedFilter;
use crate::metrics::metrics;

/// The groups of one channel, one for each distinct set of delivery options.
#[derive(Debug, Default)]
pub struct Groups {
    groups: SharedSlab<DeliveryOptions, Group>,
    /// Each is evaluated once per event, however many groups use it.
    filters: SharedSlab<AdmittedFilter, ()>,
}

/// The shared state of subscribers with equal delivery options.
#[derive(Debug, Default)]
struct Group {
    /// The index of the group's filter.
    filter: Option<u32>,
    /// Chains of the events that the whole group was sent, except excluded subscribers.
    chains: Chains,
    /// The channel has moved without an event for the group, or for some of it.
    is_behind: bool,
}

impl Groups {
    /// Adds a subscriber with these options. `held` are the bases of the client, `next`
    /// is the sequence number of the first event that it will be sent. Returns the
    /// index of its group and its base state.
    pub fn enter(&mut self, options: &DeliveryOptions, held: &Chains, next: u64) -> (u32, BaseState) {
        let filters = &mut self.filters;
        let mut is_first = false;
        let index = self.groups.acquire(options.clone(), |options| {
            is_first = true;
            let filter = options.filter.clone().map(|filter| filters.acquire(filter, |_| ()));
            Group { filter, chains: held.clone(), is_behind: false }
        });
        let mut compare_chains = || {
            let group = self.groups.get_mut(index);
            BaseState::all_but(group.chains.differing(held).map(|key| key.as_ref()))
        };
        let base_state = match held.is_empty() && !is_first {
            true => None,
            false => compare_chains(),
        };
        (index, base_state.unwrap_or(BaseState::from(next)))
    }

    pub fn leave(&mut self, index: u32) {
        if let Some((_, Group { filter: Some(filter), .. })) = self.groups.release(index) {
            self.filters.release(filter);
        }
    }

    pub fn options(&self, index: u32) -> &DeliveryOptions {
        self.groups.key(index)
    }

    pub(super) fn has_filters(&self) -> bool {
        self.filters.index_end() > 0
    }

    /// Calls `make` for each group. Returns the results by index.
    pub fn each<T>(&self, make: impl Fn(u32, &DeliveryOptions) -> Option<T>) -> Vec<Option<T>> {
        let mut made = Vec::new();
        made.resize_with(self.groups.index_end(), || None);
        for (index, options, _) in self.groups.iter() {
            made[index] = make(index as u32, options);
        }
        made
    }

    /// Clears all chains: the next event of each is full.
    pub fn restart(&mut self) {
        for (_, _, group, _) in self.groups.iter_mut() {
            group.chains.restart();
        }
    }

    /// The channel has moved without an event for any subscriber.
    pub fn mark_all_behind(&mut self) {
        for (_, _, group, _) in self.groups.iter_mut() {
            group.is_behind = true;
        }
    }

    /// The channel has moved without an event for a subscriber of this group.
    pub fn mark_behind(&mut self, index: u32) {
        self.groups.get_mut(index).is_behind = true;
    }

    /// Whether subscribers with positions have not received the current position.
    pub fn is_behind(&self) -> bool {
        self.groups.iter().any(|(_, options, group)| options.positions && group.is_behind)
    }

    /// Returns the indices of these groups, and marks them as up to date.
    pub fn take_behind(&mut self) -> Vec<u32> {
        let behind = self.groups.iter_mut().filter(|(_, options, it, _)| options.positions && it.is_behind);
        let taken = behind.map(|(index, _, group, _)| {
            group.is_behind = false;
            index as u32
        });
        taken.collect()
    }

    /// The chains of the only group.
    pub(super) fn into_chains(mut self) -> Chains {
        let only_group = self.groups.iter_mut().next();
        only_group.map(|(_, _, group, _)| std::mem::take(&mut group.chains)).unwrap_or_default()
    }

    pub(super) fn batches(&self) -> Vec<EncodedBatch> {
        let mut batches = Vec::new();
        batches.resize_with(self.groups.index_end(), EncodedBatch::default);
        batches
    }

    /// Encodes an event for each group whose filter it matches, and appends it to the
    /// batch.
    pub(super) fn encode_event(
        &mut self,
        event: usize,
        frames: &mut EventFrames<'_>,
        batches: &mut [EncodedBatch],
    ) {
        let passes = self.evaluate_filters(frames);
        for (index, options, group, _) in self.groups.iter_mut() {
            if group.filter.is_some_and(|filter| !passes[filter as usize]) {
                group.is_behind = true;
                continue;
            }
            batches[index].push(group.encode(options, event, frames));
            group.is_behind = false;
        }
    }

    /// Whether the event matches each filter, by index.
    fn evaluate_filters(&self, frames: &EventFrames<'_>) -> Vec<bool> {
        let mut passes = vec![false; self.filters.index_end()];
        if passes.is_empty() {
            return passes;
        }
        let tags = frames.tags();
        let mut evaluated = 0;
        for (index, filter, ()) in self.filters.iter() {
            passes[index] = filter.passes(&frames.event.name, &tags);
            evaluated += 1;
        }
        metrics().filter_evaluations.increment(evaluated);
        passes
    }

    /// Events times subscribers of these batches.
    pub(super) fn deliveries(&mut self, batches: &[EncodedBatch]) -> usize {
        self.groups.iter_mut().map(|(index, _, _, users)| batches[index].len() * users).sum()
    }
}

impl Group {
    fn encode(
        &mut self,
        options: &DeliveryOptions,
        event: usize,
        frames: &mut EventFrames<'_>,
    ) -> EncodedEvent {
        let seq = frames.seq;
        let in_chain = options.algorithm.and_then(|algorithm| Some((algorithm, frames.chain()?)));
        let Some((algorithm, chain)) = in_chain else {
            return EncodedEvent { event, seq, full: frames.unmarked(options), delta: None, chain: None };
        };
        let base = self.chains.base_at(&chain, frames.time_ms(), frames.config());
        let delta = base.and_then(|base| {
            frames.delta(algorithm, options.event_prefix, base).map(|delta| (delta, base.seq))
        });
        if delta.is_none() {
            metrics().deltas_skipped.increment(1);
        }
        self.chains.advance(&chain, frames.base(), frames.keys_max());
        EncodedEvent { event, seq, full: frames.full(), delta, chain: Some(chain) }
    }
}
