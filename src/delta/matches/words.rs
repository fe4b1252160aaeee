//! Comparison of several bytes at a time.

/// Bytes that must be equal before a match is considered: one load, and about the length at which a
/// copy starts to save bytes.
pub(super) const WINDOW: usize = 8;

/// The [`WINDOW`] bytes at offset `at` as one word, or `None` past the end.
pub(super) fn word_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}

/// The length of the longest common prefix: by blocks, which compare as vectors, then words, then
/// bytes.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
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
pub(super) fn common_suffix(a: &[u8], b: &[u8]) -> usize {
    fn by<const N: usize>(a: &[u8], b: &[u8], len: usize) -> usize {
        let (a, b) = (a[..a.len() - len].as_rchunks::<N>().1, b[..b.len() - len].as_rchunks::<N>().1);
        len + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count() * N
    }
    by::<1>(a, b, by::<8>(a, b, by::<32>(a, b, 0)))
}
