//! What two texts have in common, found once for every delta format.
//!
//! A frame usually differs from its base in a few short places, so the search strips what both ends share,
//! then covers the middle at rising cost: first with long runs that line up with the copies around them, and
//! only where that leaves a gap worth the work through an index over the base.

mod index;
mod words;

use index::Index;
use words::{WINDOW, common_prefix, common_suffix, word_at};

/// The largest offset and length of a copy: readers in JavaScript use signed 32-bit arithmetic.
const INT_MAX: usize = i32::MAX as usize;

/// A match this long is taken without looking for a better one, so that most edits need no index.
const LEN_GOOD: usize = 48;

/// How far a match may reach back from where it was found, so that overlapping matches stay linear.
const BACK_MAX: usize = 512;

/// A shorter gap does not get an index built for it, which would cost more than it saves.
const INDEXED_GAP_MIN: usize = 24;

/// A delta format, as far as the search has to know it.
pub(super) trait Format {
    /// Whether the copy is shorter than its bytes; one that `splits` an insert costs that insert twice.
    fn pays(copy: Match, splits: bool) -> bool;

    /// Writes bytes that are new. Never empty, and never followed by another insert.
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

    /// The place of the base that is in line with place `at` of the target; beyond the base if there is none.
    fn in_line(&self, at: usize) -> usize {
        at.wrapping_add(self.base).wrapping_sub(self.target)
    }
}

/// Has `out` write all of `target`, as copies from `base` and inserts, in order.
///
/// Takes time linear in both lengths. A target must stay under 2 GiB, the most a client can read.
pub(super) fn write<F: Format>(base: &[u8], target: &[u8], out: &mut F) {
    // A shared end too short to save anything is left to the search, which may find something longer.
    let worth_fixing = |len| if len < WINDOW { 0 } else { len };
    let base = &base[..base.len().min(INT_MAX)];
    let prefix = worth_fixing(common_prefix(base, target));
    let suffix = worth_fixing(common_suffix(&base[prefix..], &target[prefix..]));
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
    /// Writes the target up to the end of `next`, a match known already, looking first for long runs in line
    /// with the copy before or with `next`: an edit leaves the text around it like that.
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
                // Something longer has a window that reaches beyond this match.
                at = at.max((best.target_end() + 1).saturating_sub(WINDOW));
            }
        }
        for number in 0..self.found.len() {
            self.copy(self.found[number]);
        }
        self.found.clear();
        self.copy(next);
    }

    /// The longest match around the window at `at` between the last copy and `next`. The places in line with
    /// `previous` and `next` are tried before those of the index.
    fn best(&self, at: usize, previous: Match, next: Match) -> Option<Match> {
        let rest = &self.target[at..next.target];
        let window = word_at(rest, 0)?;
        let (mut best, mut best_len) = (None, WINDOW - 1);
        let mut consider = |place: usize| {
            // The last bytes of a longer match are equal too; most shorter ones fail there at one load.
            let probe = best_len + 1 - WINDOW;
            if best_len < rest.len()
                && word_at(self.base, place.wrapping_add(probe)) == word_at(rest, probe)
                && word_at(self.base, place) == Some(window)
            {
                let len = common_prefix(&self.base[place..], rest);
                if len > best_len {
                    (best, best_len) = (Some(place), len);
                }
            }
            best_len >= LEN_GOOD
        };
        if !consider(previous.in_line(at))
            && !consider(next.in_line(at))
            && let Some(index) = &self.index
        {
            index.candidates(window).any(consider);
        }
        best.map(|place| {
            let floor = self.copied.target_end().max(at.saturating_sub(BACK_MAX));
            let back = common_suffix(&self.base[..place], &self.target[floor..at]);
            Match { base: place - back, target: at - back, len: back + best_len }
        })
    }

    /// Adds a match to those found in a gap up to `end`: where two overlap the longer one keeps its bytes.
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

    /// Writes the bytes before `next` as an insert, then `next` as a copy, leaving out what is empty.
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
