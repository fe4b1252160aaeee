//! A slab of values that several subscribers share, with reference counts.

use std::collections::HashMap;
use std::hash::Hash;

use slab::Slab;

use crate::capacity::{self, Shrink};

/// One value for each key, at an index that stays the same while the value has users.
#[derive(Debug)]
pub(super) struct SharedSlab<K, V> {
    /// Indices by key; None while a linear search is cheaper.
    by_key: Option<HashMap<K, u32>>,
    slots: Slab<Slot<K, V>>,
}

/// Up to this many slots are searched one by one. Most channels have one group and no
/// filter, and there are many channels: a hash map would take more memory than the slots.
const LINEAR_SEARCH_MAX: usize = 8;

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    users: usize,
}

impl<K, V> Default for SharedSlab<K, V> {
    fn default() -> SharedSlab<K, V> {
        SharedSlab { by_key: None, slots: Slab::new() }
    }
}

impl<K: Clone + Eq + Hash, V> SharedSlab<K, V> {
    /// Adds a user of the value for `key`, and creates the value for the first one.
    pub(super) fn acquire(&mut self, key: K, make: impl FnOnce(&K) -> V) -> u32 {
        if let Some(index) = self.find(&key) {
            self.slots[index as usize].users += 1;
            return index;
        }
        // A slab that grows by itself reserves four slots at first.
        self.slots.reserve_exact(usize::from(self.slots.is_empty()));
        let slot = Slot { value: make(&key), key: key.clone(), users: 1 };
        let index = u32::try_from(self.slots.insert(slot)).expect("fewer subscribers than u32::MAX");
        match &mut self.by_key {
            Some(by_key) => drop(by_key.insert(key, index)),
            None if self.slots.len() > LINEAR_SEARCH_MAX => self.by_key = Some(self.keys().collect()),
            None => {}
        }
        index
    }

    fn find(&self, key: &K) -> Option<u32> {
        match &self.by_key {
            Some(by_key) => by_key.get(key).copied(),
            None => self.iter().find(|(_, taken, _)| *taken == key).map(|(index, ..)| index as u32),
        }
    }

    fn keys(&self) -> impl Iterator<Item = (K, u32)> {
        self.iter().map(|(index, key, _)| (key.clone(), index as u32))
    }

    /// Removes a user. The last one removes the value and returns it.
    pub(super) fn release(&mut self, index: u32) -> Option<(K, V)> {
        let slot = &mut self.slots[index as usize];
        slot.users -= 1;
        if slot.users > 0 {
            return None;
        }
        let slot = self.slots.remove(index as usize);
        if let Some(by_key) = &mut self.by_key {
            by_key.remove(&slot.key);
            by_key.shrink_if_sparse();
        }
        // Indices are in use until then.
        if self.slots.is_empty() && capacity::reduced(0, self.slots.capacity()).is_some() {
            self.slots = Slab::new();
        }
        Some((slot.key, slot.value))
    }

    pub(super) fn key(&self, index: u32) -> &K {
        &self.slots[index as usize].key
    }

    pub(super) fn get_mut(&mut self, index: u32) -> &mut V {
        &mut self.slots[index as usize].value
    }

    /// One more than the highest index in use.
    pub(super) fn index_end(&self) -> usize {
        self.slots.iter().next_back().map_or(0, |(index, _)| index + 1)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &K, &mut V, usize)> {
        self.slots.iter_mut().map(|(index, slot)| (index, &slot.key, &mut slot.value, slot.users))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &K, &V)> {
        self.slots.iter().map(|(index, slot)| (index, &slot.key, &slot.value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_removed_with_its_last_user() {
        let mut shared = SharedSlab::default();
        let (a, b) = (shared.acquire("a", |_| 1), shared.acquire("b", |_| 2));
        assert_eq!((shared.acquire("a", |_| 3), *shared.get_mut(a), *shared.key(b)), (a, 1, "b"));
        assert_eq!(shared.release(a), None);
        assert_eq!(shared.release(a), Some(("a", 1)));
        assert_eq!(shared.acquire("c", |_| 4), a, "a vacant index is reused");
        assert_eq!(
            shared.iter().map(|(_, key, value)| (*key, *value)).collect::<Vec<_>>(),
            [("c", 4), ("b", 2)]
        );
    }

    #[test]
    fn hash_lookup_finds_keys_like_linear_search() {
        let mut shared = SharedSlab::default();
        for key in 0..3 * LINEAR_SEARCH_MAX {
            assert_eq!(shared.acquire(key, |key| *key) as usize, key);
        }
        for key in 0..3 * LINEAR_SEARCH_MAX {
            let again = shared.acquire(key, |_| unreachable!("the key is known"));
            assert_eq!((again as usize, *shared.get_mut(again)), (key, key));
        }
        let left = [shared.release(2), shared.release(2)];
        assert_eq!(left, [None, Some((2, 2))]);
        assert_eq!(shared.acquire(2, |_| 7), 2, "the value is created again");
        assert_eq!(*shared.get_mut(2), 7);
    }
}
