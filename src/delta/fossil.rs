//! The Fossil delta format of protocol.md 3.14.
//!
//! A frame usually differs from its base in a few short places, so the encoder strips what both ends share,
//! then covers the middle at rising cost: first with long runs that line up with the copies around them, and
//! only where that leaves a gap worth the work through an index over the base.

const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// The largest offset and length of a copy: readers in JavaScript use signed 32-bit arithmetic.
const INT_MAX: usize = i32::MAX as usize;

/// Bytes that must be equal before a match is looked at: one load, and about where a copy starts to pay.
const WINDOW: usize = 8;

/// A match this long is taken without looking for a better one, so that most edits need no index.
const LEN_GOOD: usize = 48;

/// How far a match may reach back from where it was found, so that overlapping matches stay linear.
const BACK_MAX: usize = 512;

/// A shorter gap does not get an index built for it, which would cost more than it saves.
const INDEXED_GAP_MIN: usize = 24;

/// How many places of the base are tried per window, so that a base of one repeated byte stays linear.
const PROBES_MAX: usize = 4;

/// Why a delta cannot be applied. All counts are bytes; `left` is what was left of the delta.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FossilError {
    #[error("no integer of at most 32 bits with {left} bytes left")]
    BadInteger { left: usize },
    #[error("declared target of {declared} bytes is above the bound of {bound}")]
    TargetTooLarge { declared: usize, bound: usize },
    #[error("unexpected byte {byte:#04x} with {left} bytes left")]
    BadCommand { byte: u8, left: usize },
    #[error("copy of {count} bytes at {offset} runs past the base of {base_len} bytes")]
    CopyPastBase { offset: usize, count: usize, base_len: usize },
    #[error("insert of {count} bytes with {left} bytes left")]
    InsertPastDelta { count: usize, left: usize },
    #[error("target reaches {found} bytes, declared are {declared}")]
    SizeMismatch { declared: usize, found: usize },
    #[error("checksum of the target is {found:#010x}, declared is {declared:#010x}")]
    BadChecksum { declared: u32, found: u32 },
    #[error("delta ends without its terminator")]
    MissingTerminator,
    #[error("{left} bytes follow the terminator")]
    TrailingBytes { left: usize },
}

/// Encodes `target` as a delta against `base`, in the text form of protocol.md 3.14.
///
/// Always succeeds, in time linear in both lengths. The delta may be longer than `target`: the caller
/// compares. A target must stay under 2 GiB, the most a client can read.
pub fn encode(base: &[u8], target: &[u8]) -> Vec<u8> {
    // A shared end too short to save anything is left to the search, which may find something longer.
    let worth_fixing = |len| if len < WINDOW { 0 } else { len };
    let base = &base[..base.len().min(INT_MAX)];
    let prefix = worth_fixing(common_prefix(base, target));
    let suffix = worth_fixing(common_suffix(&base[prefix..], &target[prefix..]));
    let last = Match { base: base.len() - suffix, target: target.len() - suffix, len: suffix };

    let out = Vec::with_capacity(last.target - prefix + 48);
    let copied = Match { base: 0, target: 0, len: 0 };
    let mut encoder = Encoder { base, target, out, copied, index: None, found: Vec::new() };
    put_int(&mut encoder.out, target.len());
    encoder.out.push(b'\n');
    encoder.copy(Match { len: prefix, ..copied });
    encoder.cover(last);
    put_int(&mut encoder.out, checksum(target) as usize);
    encoder.out.push(b';');
    encoder.out
}

/// Applies `delta` (protocol.md 3.14) to `base` and returns the target.
///
/// Never panics, and never allocates more than `target_bytes_max` bytes, whatever the delta declares.
///
/// # Errors
///
/// Any [`FossilError`]; a base other than the one encoded against shows up, at best, as a bad checksum.
pub fn decode(base: &[u8], delta: &[u8], target_bytes_max: usize) -> Result<Vec<u8>, FossilError> {
    let mut rest = delta;
    let declared = take_int(&mut rest, Some(b'\n'))? as usize;
    if declared > target_bytes_max {
        return Err(FossilError::TargetTooLarge { declared, bound: target_bytes_max });
    }
    let mut target = Vec::with_capacity(declared);
    loop {
        let number = take_int(&mut rest, None)?;
        let (count, left) = (number as usize, rest.len());
        let bytes = match take_byte(&mut rest)? {
            b'@' => {
                let offset = take_int(&mut rest, Some(b','))? as usize;
                let copied = base.get(offset..).and_then(|from| from.get(..count));
                copied.ok_or(FossilError::CopyPastBase { offset, count, base_len: base.len() })?
            }
            b':' => rest.split_off(..count).ok_or(FossilError::InsertPastDelta { count, left: left - 1 })?,
            b';' if target.len() != declared => {
                return Err(FossilError::SizeMismatch { declared, found: target.len() });
            }
            b';' if left > 1 => return Err(FossilError::TrailingBytes { left: left - 1 }),
            b';' => match checksum(&target) {
                found if found == number => return Ok(target),
                found => return Err(FossilError::BadChecksum { declared: number, found }),
            },
            byte => return Err(FossilError::BadCommand { byte, left }),
        };
        // Checked before the bytes are appended, so that the target never outgrows its allocation.
        if bytes.len() > declared - target.len() {
            return Err(FossilError::SizeMismatch { declared, found: target.len() + bytes.len() });
        }
        target.extend_from_slice(bytes);
    }
}

fn take_byte(rest: &mut &[u8]) -> Result<u8, FossilError> {
    rest.split_off_first().copied().ok_or(FossilError::MissingTerminator)
}

/// Takes an integer, and the byte that has to follow it if one is given.
fn take_int(rest: &mut &[u8], follower: Option<u8>) -> Result<u32, FossilError> {
    let left = rest.len();
    let mut value = None;
    while let Some(digit) = rest.first().and_then(|byte| DIGITS.iter().position(|digit| digit == byte)) {
        let shifted = value.unwrap_or(0u32).checked_mul(64).ok_or(FossilError::BadInteger { left })?;
        value = Some(shifted | digit as u32);
        rest.split_off_first();
    }
    let follows = *rest.first().ok_or(FossilError::MissingTerminator)?;
    match follower {
        Some(wanted) if follows != wanted => {
            return Err(FossilError::BadCommand { byte: follows, left: rest.len() });
        }
        Some(_) => take_byte(rest)?,
        None => follows,
    };
    value.ok_or(FossilError::BadInteger { left })
}

/// `len` bytes that are equal at `base` in the base and at `target` in the target.
#[derive(Clone, Copy)]
struct Match {
    base: usize,
    target: usize,
    len: usize,
}

impl Match {
    fn target_end(&self) -> usize {
        self.target + self.len
    }

    /// The place of the base that is in line with place `at` of the target; beyond the base if there is none.
    fn in_line(&self, at: usize) -> usize {
        at.wrapping_add(self.base).wrapping_sub(self.target)
    }

    /// Whether the copy is shorter than its bytes; one that `splits` an insert pays for another header.
    fn pays(&self, splits: bool) -> bool {
        self.len > digits(self.len) + digits(self.base) + if splits { 4 } else { 2 }
    }
}

struct Encoder<'a> {
    base: &'a [u8],
    target: &'a [u8],
    out: Vec<u8>,
    /// The copy written last; the target is written up to its end.
    copied: Match,
    index: Option<Index>,
    /// Matches in the gap being searched, in order and without overlap; empty between searches.
    found: Vec<Match>,
}

impl Encoder<'_> {
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
            if !last.pays(true) {
                self.found.pop();
            }
        }
        let free_from = self.found.last().unwrap_or(&self.copied).target_end();
        if new.pays(new.target > free_from && new.target_end() < end) {
            self.found.push(new);
        }
    }

    /// Writes the bytes before `next` as an insert, then `next` as a copy, leaving out what is empty.
    fn copy(&mut self, next: Match) {
        let insert = &self.target[self.copied.target_end()..next.target];
        if !insert.is_empty() {
            put_int(&mut self.out, insert.len());
            self.out.push(b':');
            self.out.extend_from_slice(insert);
        }
        if next.len > 0 {
            put_int(&mut self.out, next.len);
            self.out.push(b'@');
            put_int(&mut self.out, next.base);
            self.out.push(b',');
        }
        self.copied = next;
    }
}

/// The places of the base by a hash of the window there: every `step`-th place, chained by bucket.
struct Index {
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
    fn new(base: &[u8]) -> Self {
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

    fn may_hold(&self, window: u64) -> bool {
        let hash = self.hash(window);
        self.filter[hash >> 6] >> (hash & 63) & 1 != 0
    }

    /// Offsets into the base that may hold `window`, the later ones first.
    fn candidates(&self, window: u64) -> impl Iterator<Item = usize> {
        let place = |number: u32| (number as usize).checked_sub(1);
        let head = place(self.heads[self.hash(window) >> 3]);
        let chain = std::iter::successors(head, move |&at| place(self.links[at]));
        chain.take(PROBES_MAX).map(|at| at * self.step)
    }
}

/// The [`WINDOW`] bytes at `at` as one word, unless they run past the end.
fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The length of the longest common prefix: by blocks, which compare as vectors, then words, then bytes.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    fn by<const N: usize>(a: &[u8], b: &[u8], len: usize) -> usize {
        let (a, b) = (a[len..].as_chunks::<N>().0, b[len..].as_chunks::<N>().0);
        len + a.iter().zip(b).take_while(|(a, b)| a == b).count() * N
    }
    let len = by::<8>(a, b, by::<32>(a, b, 0));
    match (word_at(a, len), word_at(b, len)) {
        (Some(a), Some(b)) => len + (a ^ b).trailing_zeros() as usize / 8,
        _ => by::<1>(a, b, len),
    }
}

/// The length of the longest common suffix, in the same way.
fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    fn by<const N: usize>(a: &[u8], b: &[u8], len: usize) -> usize {
        let (a, b) = (a[..a.len() - len].as_rchunks::<N>().1, b[..b.len() - len].as_rchunks::<N>().1);
        len + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count() * N
    }
    by::<1>(a, b, by::<8>(a, b, by::<32>(a, b, 0)))
}

/// The sum of the big-endian 32-bit words modulo 2^32; the last word is filled with zeros on the right.
fn checksum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().fold(u32::from_be_bytes(last), |sum, word| sum.wrapping_add(u32::from_be_bytes(*word)))
}

/// How many base-64 digits `value` takes.
fn digits(value: usize) -> usize {
    (value | 1).ilog2() as usize / 6 + 1
}

fn put_int(out: &mut Vec<u8>, value: usize) {
    for digit in (0..digits(value)).rev() {
        out.push(DIGITS[value >> (6 * digit) & 63]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*, sample::Index as Place};

    use super::*;

    /// Encodes, checks that the delta decodes, and that it is no longer than one insert of everything.
    fn round_trip(base: &[u8], target: &[u8]) -> Vec<u8> {
        let delta = encode(base, target);
        assert_eq!(decode(base, &delta, target.len()).as_deref(), Ok(target));
        assert!(delta.len() <= target.len() + 2 * digits(target.len()) + 9, "{} bytes", delta.len());
        delta
    }

    /// Small alphabets and whole JSON members, so that bytes repeat within and between the inputs.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let members =
            prop::sample::select(vec!["{\"id\":", "\"name\":\"market\",", "1", "27", "},", "\u{e9}"]);
        prop_oneof![
            vec(any::<u8>(), 0..300),
            vec(0u8..3, 0..2000),
            vec(members, 0..300).prop_map(|members| members.concat().into_bytes()),
            (any::<u8>(), 0usize..40_000).prop_map(|(byte, len)| vec![byte; len]),
        ]
    }

    #[test]
    fn the_vector_of_the_protocol() {
        let frame = |p: u8| {
            let head =
                format!("{{\"event\":\"tick\",\"channel\":\"m\",\"data\":\"{{\\\"p\\\":{p},\\\"q\\\":\\\"");
            (head + &"a".repeat(67) + "\\\"}\"}").into_bytes()
        };
        assert_eq!(decode(&frame(1), b"1~\ni@0,1:21H@j,2SyqLx;", 127), Ok(frame(2)));
        assert_eq!(round_trip(&frame(1), &frame(2)), b"1~\ni@0,1:21H@j,2SyqLx;");
    }

    #[test]
    fn finds_what_lies_between_edits_and_what_moved() {
        let member = |n: usize, price: usize| format!("{{\"symbol\":\"S{n}\",\"price\":{price}}},");
        let base: Vec<String> = (0..40).map(|n| member(n, n * n * 7919)).collect();
        let mut target = base.clone();
        (target[9], target[20]) = (member(9, 5), member(20, 123));
        assert!(round_trip(base.concat().as_bytes(), target.concat().as_bytes()).len() < 45);
        target.swap(3, 33);
        assert!(round_trip(base.concat().as_bytes(), target.concat().as_bytes()).len() < 75);
    }

    #[test]
    fn a_broken_delta_is_refused_for_what_is_wrong() {
        use FossilError::*;
        let refused = |delta: &str| decode(b"0123456789", delta.as_bytes(), 100).expect_err(delta);
        assert_eq!(refused(""), MissingTerminator);
        assert_eq!(refused("4\n4:abcd"), MissingTerminator);
        assert_eq!(refused("\n0;"), BadInteger { left: 3 });
        assert_eq!(refused("4000000\n0;"), BadInteger { left: 10 });
        assert_eq!(refused("3~~~~~\n0;"), TargetTooLarge { declared: u32::MAX as usize, bound: 100 });
        assert_eq!(refused("4\n4?"), BadCommand { byte: b'?', left: 1 });
        assert_eq!(refused("4\n4@7,0;"), CopyPastBase { offset: 7, count: 4, base_len: 10 });
        assert_eq!(refused("4\n4:abc"), InsertPastDelta { count: 4, left: 3 });
        assert_eq!(refused("4\n5@0,0;"), SizeMismatch { declared: 4, found: 5 });
        assert_eq!(refused("4\n3@0,0;"), SizeMismatch { declared: 4, found: 3 });
        assert_eq!(refused("1\n1@0,0;"), BadChecksum { declared: 0, found: 0x3000_0000 });
        assert_eq!(refused("0\n0;0;"), TrailingBytes { left: 2 });
    }

    proptest! {
        #[test]
        fn any_pair_comes_back(base in text(), target in text()) {
            round_trip(&base, &target);
        }

        #[test]
        fn edited_text_comes_back(
            base in text(),
            edits in vec((any::<Place>(), 0usize..60, vec(any::<u8>(), 0..9)), 0..8),
        ) {
            let mut target = base.clone();
            for (place, removed, inserted) in edits {
                let from = place.index(target.len() + 1);
                target.splice(from..(from + removed).min(target.len()), inserted);
            }
            round_trip(&base, &target);
            round_trip(&target, &base);
        }

        #[test]
        fn no_delta_panics_or_passes_the_bound(
            base in text(),
            noise in vec(any::<u8>(), 0..60),
            spot in any::<Place>(),
        ) {
            let mut delta = encode(&base, &noise);
            let from = spot.index(delta.len());
            delta.truncate(from);
            delta.extend_from_slice(&noise);
            for delta in [&delta, &noise] {
                prop_assert!(decode(&base, delta, 50).map_or(true, |target| target.len() <= 50));
            }
        }
    }
}
