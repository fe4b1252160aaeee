//! An index of the base: the offsets at which a window of the target may occur.

use super::words::{WINDOW, word_at};

/// Offsets of the base that are tried per window, so that a base of one repeated byte takes linear
/// time.
const PROBES_MAX: usize = 4;

/// Offsets in the base by a hash of the window there: every `step`-th offset, chained by bucket.
pub(super) struct Index {
    /// One bit for each of eight times as many buckets: one load rejects most windows that are not
    /// in the base.
    filter: Vec<u64>,
    /// By bucket: the number of its last offset plus one, 0 for none. An offset is its number times
    /// `step`.
    heads: Vec<u32>,
    /// By number of an offset: the previous offset of its bucket, in the same form.
    links: Vec<u32>,
    step: usize,
    /// The shift that leaves a hash of the bits that index `filter`; without the lowest three they
    /// index `heads`.
    hash_shift: u32,
}

impl Index {
    pub(super) fn new(base: &[u8]) -> Self {
        let step = (base.len() / 1024).clamp(3, 15);
        let count = base.len().saturating_sub(WINDOW) / step + 1;
        let bits = count.next_power_of_two().trailing_zeros() + 1;
        let (filter, heads) = (vec![0; (8usize << bits).div_ceil(64)], vec![0; 1 << bits]);
        let mut index = Self { filter, heads, links: Vec::with_capacity(count), step, hash_shift: 61 - bits };
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

    /// Offsets in the base that may start with `window`, the later ones first.
    pub(super) fn candidates(&self, window: u64) -> impl Iterator<Item = usize> {
        let decode = |link: u32| (link as usize).checked_sub(1);
        let head = decode(self.heads[self.hash(window) >> 3]);
        let chain = std::iter::successors(head, move |&at| decode(self.links[at]));
        chain.take(PROBES_MAX).map(|at| at * self.step)
    }
}
