//! Collections that give back the memory of a burst.

use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;

/// Elements for which a collection always keeps its memory.
const CAPACITY_KEPT: usize = 64;

/// A collection whose memory does not shrink by itself.
pub trait Shrink {
    /// Reduces the capacity to twice the length if less than a quarter of it is used. Called after
    /// removals, it costs a constant time for each of them.
    fn shrink_if_sparse(&mut self);
}

/// The capacity to shrink to, if a collection is sparse.
pub fn reduced(len: usize, capacity: usize) -> Option<usize> {
    (capacity > 4 * len.max(CAPACITY_KEPT)).then(|| 2 * len.max(CAPACITY_KEPT / 2))
}

impl<T> Shrink for Vec<T> {
    fn shrink_if_sparse(&mut self) {
        if let Some(capacity) = reduced(self.len(), self.capacity()) {
            self.shrink_to(capacity);
        }
    }
}

impl<T> Shrink for VecDeque<T> {
    fn shrink_if_sparse(&mut self) {
        if let Some(capacity) = reduced(self.len(), self.capacity()) {
            self.shrink_to(capacity);
        }
    }
}

impl<T: Ord> Shrink for BinaryHeap<T> {
    fn shrink_if_sparse(&mut self) {
        if let Some(capacity) = reduced(self.len(), self.capacity()) {
            self.shrink_to(capacity);
        }
    }
}

impl<K: Eq + Hash, V> Shrink for HashMap<K, V> {
    fn shrink_if_sparse(&mut self) {
        if let Some(capacity) = reduced(self.len(), self.capacity()) {
            self.shrink_to(capacity);
        }
    }
}

impl<T: Eq + Hash> Shrink for HashSet<T> {
    fn shrink_if_sparse(&mut self) {
        if let Some(capacity) = reduced(self.len(), self.capacity()) {
            self.shrink_to(capacity);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sparse_collections_shrink() {
        let mut numbers: HashMap<usize, usize> = (0..10_000).map(|number| (number, number)).collect();
        let full = numbers.capacity();
        numbers.retain(|number, _| *number < 5_000);
        numbers.shrink_if_sparse();
        assert!(numbers.capacity() > full / 2, "half of it is used");
        numbers.retain(|number, _| *number < 1_000);
        numbers.shrink_if_sparse();
        assert!(numbers.capacity() >= 2_000 && numbers.capacity() < full / 2);
        numbers.clear();
        numbers.shrink_if_sparse();
        assert!(numbers.capacity() <= 4 * CAPACITY_KEPT);
        let mut queue: VecDeque<usize> = (0..10_000).collect();
        queue.clear();
        queue.shrink_if_sparse();
        assert!(queue.capacity() <= CAPACITY_KEPT);
    }
}
