//! Match search between two texts, shared by all delta formats.
//!
//! A frame usually differs from its base in a few short ranges. So the search strips the common
//! prefix and suffix, then covers the middle at rising cost: first with long matches aligned with
//! the copies around them, then, for the larger gaps that remain, through an index of the base.

mod index;
mod words;

use index::Index;
use words::{WINDOW, common_prefix, common_suffix, word_at};

/// The largest offset and length of a copy: readers in JavaScript use signed 32-bit arithmetic.
const INT_MAX: usize = i32::MAX as usize;

/// A match this long is accepted without a search for a better one, so that most edits need no
/// index.
const LEN_GOOD: usize = 48;

/// Bytes by which a match may extend backwards from where it was found, so that overlapping matches
/// take linear time.
const BACK_MAX: usize = 512;

/// Gaps below this length do not cause an index to be built: it would cost more than it saves.
const INDEXED_GAP_MIN: usize = 24;

/// A delta format, as the search uses it.
pub(super) trait Format {
    /// Whether the copy is shorter than its bytes. A copy that `splits` an insert costs a second
    /// insert instruction.
    fn pays(copy: Match, splits: bool) -> bool;

    /// Writes bytes that are not copied from the base. Never empty, and never followed by another
    /// insert.
    fn insert(&mut self, bytes: &[u8]);

    /// Writes bytes of the base, at least one.
    fn copy(&mut self, copy: Match);
}

/// `len` bytes that are equal at `base` in the base and at `target` in the target.
#[derive(Clone, Copy)]
pub(super) struct Match {
    pub(super) base: usize,
    pub(super) target: usize,
    pub(super) len: usize,
}

impl Match {
    fn target_end(&self) -> usize {
        self.target + self.len
    }

    /// The offset in the base that is aligned with offset `at` in the target; past the end of the
    /// base if there is none.
    fn aligned(&self, at: usize) -> usize {
        at.wrapping_add(self.base).wrapping_sub(self.target)
    }
}

/// Writes all of `target` to `out`, as copies from `base` and inserts, in order.
///
/// Takes time linear in both lengths. A target must stay under 2 GiB, the most a client can read.
pub(super) fn write<F: Format>(base: &[u8], target: &[u8], out: &mut F) {
    // A prefix or suffix too short to save bytes is left to the search, which may find a longer
    // match.
    let if_worthwhile = |len| if len < WINDOW { 0 } else { len };
    let base = &base[..base.len().min(INT_MAX)];
    let prefix = if_worthwhile(common_prefix(base, target));
    let suffix = if_worthwhile(common_suffix(&base[prefix..], &target[prefix..]));
    let last = Match { base: base.len() - suffix, target: target.len() - suffix, len: suffix };

    let copied = Match { base: 0, target: 0, len: 0 };
    let mut search = Search { base, target, out, copied, index: None, found: Vec::new() };
    search.copy(Match { len: prefix, ..copied });
    search.cover(last);
}

struct Search<'a, F> {
    base: &'a [u8],
    target: &'a [u8],
    out: &'a mut F,
    /// The copy written last; the target is written up to its end.
    copied: Match,
    index: Option<Index>,
    /// Matches in the gap being searched, in order and without overlap; empty between searches.
    found: Vec<Match>,
}

impl<F: Format> Search<'_, F> {
    /// Writes the target up to the end of `next`, a given match. Searches first for long matches
    /// aligned with the copy before or with `next`: the text around an edit is aligned.
    fn cover(&mut self, next: Match) {
        let mut at = self.copied.target_end();
        while at + WINDOW <= next.target {
            match self.best(at, self.copied, next).filter(|run| run.len >= LEN_GOOD) {
                Some(run) => {
                    self.search(run);
                    at = run.target_end();
                }
                None => at += WINDOW,
            }
        }
        self.search(next);
    }

    /// Writes the target up to the end of `next`, with every copy before it that pays.
    fn search(&mut self, next: Match) {
        let mut at = self.copied.target_end();
        if self.index.is_none() && next.target - at >= INDEXED_GAP_MIN {
            self.index = Some(Index::new(self.base));
        }
        while let Some(skipped) = self.target[at..next.target].array_windows().position(|window| {
            self.index.as_ref().is_none_or(|index| index.may_hold(u64::from_le_bytes(*window)))
        }) {
            at += skipped;
            let previous = self.found.last().copied().unwrap_or(self.copied);
            let best = self.best(at, previous, next);
            at += 1;
            if let Some(best) = best {
                self.settle(best, next.target);
                // A longer match has a window that extends past the end of this one.
                at = at.max((best.target_end() + 1).saturating_sub(WINDOW));
            }
        }
        for number in 0..self.found.len() {
            self.copy(self.found[number]);
        }
        self.found.clear();
        self.copy(next);
    }

    /// The longest match around the window at `at` between the last copy and `next`. The offsets
    /// aligned with `previous` and `next` are tried before those of the index.
    fn best(&self, at: usize, previous: Match, next: Match) -> Option<Match> {
        let rest = &self.target[at..next.target];
        let window = word_at(rest, 0)?;
        let (mut best, mut best_len) = (None, WINDOW - 1);
        let mut consider = |offset: usize| {
            // The last bytes of a longer match are equal too; one load rejects most shorter ones.
            let probe = best_len + 1 - WINDOW;
            if best_len < rest.len()
                && word_at(self.base, offset.wrapping_add(probe)) == word_at(rest, probe)
                && word_at(self.base, offset) == Some(window)
            {
                let len = common_prefix(&self.base[offset..], rest);
                if len > best_len {
                    (best, best_len) = (Some(offset), len);
                }
            }
            best_len >= LEN_GOOD
        };
        if !consider(previous.aligned(at))
            && !consider(next.aligned(at))
            && let Some(index) = &self.index
        {
            index.candidates(window).any(consider);
        }
        best.map(|offset| {
            let floor = self.copied.target_end().max(at.saturating_sub(BACK_MAX));
            let back = common_suffix(&self.base[..offset], &self.target[floor..at]);
            Match { base: offset - back, target: at - back, len: back + best_len }
        })
    }

    /// Adds a match to those found in a gap up to `end`. Of two overlapping matches the longer one
    /// keeps its bytes.
    fn settle(&mut self, mut new: Match, end: usize) {
        while let Some(last) = self.found.last_mut()
            && last.target_end() > new.target
        {
            let overlap = last.target_end() - new.target;
            if last.len >= new.len {
                let len = new.len.saturating_sub(overlap);
                new = Match { base: new.base + overlap, target: new.target + overlap, len };
                break;
            }
            last.len = last.len.saturating_sub(overlap);
            if !F::pays(*last, true) {
                self.found.pop();
            }
        }
        let free_from = self.found.last().unwrap_or(&self.copied).target_end();
        if F::pays(new, new.target > free_from && new.target_end() < end) {
            self.found.push(new);
        }
    }

    /// Writes the bytes before `next` as an insert, then `next` as a copy. Empty ones are omitted.
    fn copy(&mut self, next: Match) {
        let insert = &self.target[self.copied.target_end()..next.target];
        if !insert.is_empty() {
            self.out.insert(insert);
        }
        if next.len > 0 {
            self.out.copy(next);
        }
        self.copied = next;
    }
}
