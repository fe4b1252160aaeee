//! A slab of values that several subscribers share, with reference counts.

use std::collections::HashMap;
use std::hash::Hash;

/// One value for each key, in a slot that stays the same while the value has users.
#[derive(Debug)]
pub(super) struct SharedSlab<K, V> {
    /// Slots by key; None while a linear search is cheaper.
    index: Option<HashMap<K, u32>>,
    slots: Vec<Option<Slot<K, V>>>,
    vacant: Vec<u32>,
}

/// Up to this many slots are searched one by one. Most channels have one group and no
/// filter, and there are many channels: an index would take more memory than the slots.
const UNINDEXED_MAX: usize = 8;

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    users: usize,
}

impl<K, V> Default for SharedSlab<K, V> {
    fn default() -> SharedSlab<K, V> {
        SharedSlab { index: None, slots: Vec::new(), vacant: Vec::new() }
    }
}

impl<K: Clone + Eq + Hash, V> SharedSlab<K, V> {
    /// Adds a user of the value for `key`, and creates the value for the first one.
    pub(super) fn enter(&mut self, key: K, make: impl FnOnce(&K) -> V) -> u32 {
        if let Some(place) = self.find(&key) {
            let slot = self.slots[place as usize].as_mut().expect("a place that is found is taken");
            slot.users += 1;
            return place;
        }
        let slot = Some(Slot { value: make(&key), key: key.clone(), users: 1 });
        let place = self.vacant.pop().unwrap_or_else(|| {
            // A Vec that grows by itself reserves four slots at first.
            self.slots.reserve_exact(usize::from(self.slots.is_empty()));
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("a node has fewer sockets")
        });
        self.slots[place as usize] = slot;
        match &mut self.index {
            Some(index) => drop(index.insert(key, place)),
            None if self.slots.len() > UNINDEXED_MAX => self.index = Some(self.keys().collect()),
            None => {}
        }
        place
    }

    fn find(&self, key: &K) -> Option<u32> {
        match &self.index {
            Some(index) => index.get(key).copied(),
            None => self.iter().find(|(_, taken, _)| *taken == key).map(|(place, ..)| place as u32),
        }
    }

    fn keys(&self) -> impl Iterator<Item = (K, u32)> {
        self.iter().map(|(place, key, _)| (key.clone(), place as u32))
    }

    /// Removes a user. The last one removes the value and returns it.
    pub(super) fn leave(&mut self, place: u32) -> Option<(K, V)> {
        let slot = self.slots[place as usize].as_mut().expect("who leaves has entered");
        slot.users -= 1;
        if slot.users > 0 {
            return None;
        }
        let slot = self.slots[place as usize].take()?;
        if let Some(index) = &mut self.index {
            index.remove(&slot.key);
        }
        self.vacant.push(place);
        Some((slot.key, slot.value))
    }

    pub(super) fn key(&self, place: u32) -> &K {
        &self.slots[place as usize].as_ref().expect("who asks has entered").key
    }

    pub(super) fn get_mut(&mut self, place: u32) -> &mut V {
        &mut self.slots[place as usize].as_mut().expect("who asks has entered").value
    }

    /// One more than the highest slot.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &K, &mut V, usize)> {
        let taken = self.slots.iter_mut().enumerate();
        taken.filter_map(|(place, slot)| slot.as_mut().map(|it| (place, &it.key, &mut it.value, it.users)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &K, &V)> {
        let taken = self.slots.iter().enumerate();
        taken.filter_map(|(place, slot)| slot.as_ref().map(|it| (place, &it.key, &it.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_lives_as_long_as_somebody_uses_it() {
        let mut shared = SharedSlab::default();
        let (a, b) = (shared.enter("a", |_| 1), shared.enter("b", |_| 2));
        assert_eq!((shared.enter("a", |_| 3), *shared.get_mut(a), *shared.key(b)), (a, 1, "b"));
        assert_eq!(shared.leave(a), None);
        assert_eq!(shared.leave(a), Some(("a", 1)));
        assert_eq!(shared.enter("c", |_| 4), a, "the place is used again");
        assert_eq!(
            shared.iter().map(|(_, key, value)| (*key, *value)).collect::<Vec<_>>(),
            [("c", 4), ("b", 2)]
        );
    }

    #[test]
    fn many_are_found_as_few_are() {
        let mut shared = SharedSlab::default();
        for key in 0..3 * UNINDEXED_MAX {
            assert_eq!(shared.enter(key, |key| *key) as usize, key);
        }
        for key in 0..3 * UNINDEXED_MAX {
            let again = shared.enter(key, |_| unreachable!("it is there"));
            assert_eq!((again as usize, *shared.get_mut(again)), (key, key));
        }
        let left = [shared.leave(2), shared.leave(2)];
        assert_eq!(left, [None, Some((2, 2))]);
        assert_eq!(shared.enter(2, |_| 7), 2, "it is made anew");
        assert_eq!(*shared.get_mut(2), 7);
    }
}
