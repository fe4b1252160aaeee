//! Where in the base a window of the target may be found.

use super::words::{WINDOW, word_at};

/// How many places of the base are tried per window, so that a base of one repeated byte stays linear.
const PROBES_MAX: usize = 4;

/// The places of the base by a hash of the window there: every `step`-th place, chained by bucket.
pub(super) struct Index {
    /// One bit for each of many more buckets, to tell most windows that are not in the base at one load.
    filter: Vec<u64>,
    /// The number of the newest place of each bucket plus one, 0 for none.
    heads: Vec<u32>,
    /// The same for the place before it in the bucket, by the number of the place.
    links: Vec<u32>,
    step: usize,
    /// Leaves the bits of a place in `filter`; without the lowest three they are the bucket.
    hash_shift: u32,
}

impl Index {
    pub(super) fn new(base: &[u8]) -> Self {
        let step = (base.len() / 1024).clamp(3, 15);
        let places = base.len().saturating_sub(WINDOW) / step + 1;
        let bits = places.next_power_of_two().trailing_zeros() + 1;
        let (filter, heads) = (vec![0; (8usize << bits).div_ceil(64)], vec![0; 1 << bits]);
        let mut index =
            Self { filter, heads, links: Vec::with_capacity(places), step, hash_shift: 61 - bits };
        for window in base.windows(WINDOW).step_by(step).filter_map(|bytes| word_at(bytes, 0)) {
            let hash = index.hash(window);
            index.filter[hash >> 6] |= 1 << (hash & 63);
            index.links.push(index.heads[hash >> 3]);
            index.heads[hash >> 3] = index.links.len() as u32;
        }
        index
    }

    fn hash(&self, window: u64) -> usize {
        (window.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.hash_shift) as usize
    }

    pub(super) fn may_hold(&self, window: u64) -> bool {
        let hash = self.hash(window);
        self.filter[hash >> 6] >> (hash & 63) & 1 != 0
    }

    /// Offsets into the base that may hold `window`, the later ones first.
    pub(super) fn candidates(&self, window: u64) -> impl Iterator<Item = usize> {
        let place = |number: u32| (number as usize).checked_sub(1);
        let head = place(self.heads[self.hash(window) >> 3]);
        let chain = std::iter::successors(head, move |&at| place(self.links[at]));
        chain.take(PROBES_MAX).map(|at| at * self.step)
    }
}
