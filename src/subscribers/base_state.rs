//! The bases that one subscriber has of its group's bases: a lower bound of sequence
//! numbers, and a few chains as exceptions (design.md 6).

use crate::limits;

/// The subscriber has a base if its number is at least `from` and its chain is not in
/// `missing`.
#[derive(Debug, Clone, Default)]
pub struct BaseState {
    from: u64,
    /// Boxed, because most subscribers have no exceptions.
    #[expect(clippy::box_collection)]
    missing: Option<Box<Vec<Box<[u8]>>>>,
}

impl BaseState {
    /// The bases with this sequence number or a later one, and none before.
    pub fn from(seq: u64) -> BaseState {
        BaseState { from: seq, missing: None }
    }

    /// All bases of the group except those of the chains `keys`. None if there are more
    /// than [`limits::MISSING_BASES_MAX`].
    pub fn all_but<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Option<BaseState> {
        let missing: Vec<Box<[u8]>> = keys.take(limits::MISSING_BASES_MAX + 1).map(Box::from).collect();
        let state = |missing: Vec<_>| BaseState {
            from: 0,
            missing: (!missing.is_empty()).then(|| Box::new(missing)),
        };
        (missing.len() <= limits::MISSING_BASES_MAX).then(|| state(missing))
    }

    pub(super) fn complete_from(&self) -> u64 {
        self.from
    }

    pub(super) fn misses_some(&self) -> bool {
        self.missing.is_some()
    }

    pub(super) fn has_base(&self, key: &[u8], base_seq: u64) -> bool {
        base_seq >= self.from
            && !self.missing.iter().flat_map(|missing| missing.iter()).any(|it| **it == *key)
    }

    /// The subscriber was not sent event `seq` of this chain.
    pub(super) fn mark_skipped(&mut self, key: &[u8], seq: u64) {
        let missing = self.missing.get_or_insert_default();
        if missing.iter().any(|it| **it == *key) {
            return;
        }
        if missing.len() >= limits::MISSING_BASES_MAX {
            *self = BaseState::from(seq + 1);
        } else {
            missing.push(key.into());
        }
    }

    /// The subscriber was sent an event of this chain.
    pub(super) fn mark_sent(&mut self, key: &[u8]) {
        let Some(missing) = &mut self.missing else { return };
        missing.retain(|it| **it != *key);
        if missing.is_empty() {
            self.missing = None;
        }
    }

    /// The chains whose base is missing, although its number is at least `from`.
    pub fn missing(&self) -> impl Iterator<Item = &[u8]> {
        self.missing.iter().flat_map(|missing| missing.iter()).map(|key| &**key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_chains_above_the_limit_reset_all_bases() {
        let mut state = BaseState::from(10);
        assert!(state.has_base(b"a", 10) && !state.has_base(b"a", 9));
        state.mark_skipped(b"a", 11);
        assert!(!state.has_base(b"a", 11) && state.has_base(b"b", 11));
        state.mark_sent(b"a");
        assert!(state.has_base(b"a", 12) && !state.misses_some());
        for key in 0..limits::MISSING_BASES_MAX as u8 {
            state.mark_skipped(&[key], 20);
            state.mark_skipped(&[key], 20);
        }
        assert!(state.has_base(b"b", 15));
        state.mark_skipped(b"one more", 21);
        assert!(!state.has_base(b"b", 21) && state.has_base(b"b", 22) && !state.misses_some());
    }

    #[test]
    fn base_state_with_too_many_missing_chains_is_none() {
        let keys: Vec<[u8; 1]> = (0..=limits::MISSING_BASES_MAX as u8).map(|key| [key]).collect();
        let all_but = |count: usize| BaseState::all_but(keys[..count].iter().map(|key| key.as_slice()));
        assert!(all_but(0).is_some_and(|state| state.has_base(b"x", 0) && !state.misses_some()));
        assert!(
            all_but(limits::MISSING_BASES_MAX)
                .is_some_and(|state| state.has_base(b"x", 0) && !state.has_base(&[0], 9))
        );
        assert!(all_but(limits::MISSING_BASES_MAX + 1).is_none());
    }
}
