//! What one subscriber holds of its audience's bases: a number, and the few chains
//! for which the number would be wrong (design.md 6).

use crate::limits;

/// A base is held if its number is not below `from`, and its chain not among
/// `lacks`.
#[derive(Debug, Clone, Default)]
pub struct Holds {
    from: u64,
    /// Boxed, for nearly nobody has it.
    #[expect(clippy::box_collection)]
    lacks: Option<Box<Vec<Box<[u8]>>>>,
}

impl Holds {
    /// Everything that comes from this number on, and nothing before.
    pub fn from(seq: u64) -> Holds {
        Holds { from: seq, lacks: None }
    }

    /// All bases that its audience has, but those of these chains. None if they
    /// are too many to be remembered.
    pub fn all_but<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Option<Holds> {
        let lacks: Vec<Box<[u8]>> = keys.take(limits::LACKED_BASES_MAX + 1).map(Box::from).collect();
        let holds = |lacks: Vec<_>| Holds { from: 0, lacks: (!lacks.is_empty()).then(|| Box::new(lacks)) };
        (lacks.len() <= limits::LACKED_BASES_MAX).then(|| holds(lacks))
    }

    pub(super) fn starts_at(&self) -> u64 {
        self.from
    }

    pub(super) fn lacks_some(&self) -> bool {
        self.lacks.is_some()
    }

    pub(super) fn holds(&self, key: &[u8], base_seq: u64) -> bool {
        base_seq >= self.from && !self.lacks.iter().flat_map(|lacks| lacks.iter()).any(|it| **it == *key)
    }

    /// The event `seq` of this chain was not sent to it.
    pub(super) fn miss(&mut self, key: &[u8], seq: u64) {
        let lacks = self.lacks.get_or_insert_default();
        if lacks.iter().any(|it| **it == *key) {
            return;
        }
        if lacks.len() >= limits::LACKED_BASES_MAX {
            *self = Holds::from(seq + 1);
        } else {
            lacks.push(key.into());
        }
    }

    /// An event of this chain was sent to it in full.
    pub(super) fn mend(&mut self, key: &[u8]) {
        let Some(lacks) = &mut self.lacks else { return };
        lacks.retain(|it| **it != *key);
        if lacks.is_empty() {
            self.lacks = None;
        }
    }

    /// The chains whose base it does not hold, though its number says so.
    pub fn lacked(&self) -> impl Iterator<Item = &[u8]> {
        self.lacks.iter().flat_map(|lacks| lacks.iter()).map(|key| &**key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_chains_are_remembered_and_then_all_begin_anew() {
        let mut holds = Holds::from(10);
        assert!(holds.holds(b"a", 10) && !holds.holds(b"a", 9));
        holds.miss(b"a", 11);
        assert!(!holds.holds(b"a", 11) && holds.holds(b"b", 11));
        holds.mend(b"a");
        assert!(holds.holds(b"a", 12) && !holds.lacks_some());
        for key in 0..limits::LACKED_BASES_MAX as u8 {
            holds.miss(&[key], 20);
            holds.miss(&[key], 20);
        }
        assert!(holds.holds(b"b", 15));
        holds.miss(b"one more", 21);
        assert!(!holds.holds(b"b", 21) && holds.holds(b"b", 22) && !holds.lacks_some());
    }

    #[test]
    fn of_too_many_chains_nothing_is_known() {
        let keys: Vec<[u8; 1]> = (0..=limits::LACKED_BASES_MAX as u8).map(|key| [key]).collect();
        let but = |count: usize| Holds::all_but(keys[..count].iter().map(|key| key.as_slice()));
        assert!(but(0).is_some_and(|holds| holds.holds(b"x", 0) && !holds.lacks_some()));
        assert!(
            but(limits::LACKED_BASES_MAX).is_some_and(|holds| holds.holds(b"x", 0) && !holds.holds(&[0], 9))
        );
        assert!(but(limits::LACKED_BASES_MAX + 1).is_none());
    }
}
