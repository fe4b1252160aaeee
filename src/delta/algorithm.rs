//! The delta formats that clients know, by name.

use super::{fossil, vcdiff};

/// A delta format that a client can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Fossil,
    Vcdiff,
}

impl Algorithm {
    /// In the order in which the server prefers them.
    pub const ALL: [Algorithm; 2] = [Algorithm::Fossil, Algorithm::Vcdiff];

    /// As frames say it (protocol.md 3.4).
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Fossil => "fossil",
            Algorithm::Vcdiff => "xdelta3",
        }
    }

    /// The one that a client or a configuration means, in any case.
    pub fn parse(name: &str) -> Option<Algorithm> {
        let is_any_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        match name {
            _ if is_any_of(&["fossil"]) => Some(Algorithm::Fossil),
            _ if is_any_of(&["xdelta3", "vcdiff"]) => Some(Algorithm::Vcdiff),
            _ => None,
        }
    }

    /// Of those that a client accepts: the one that is preferred, or else the first
    /// in the order of [`Algorithm::ALL`].
    pub fn choose(preferred: Algorithm, accepted: &[Algorithm]) -> Option<Algorithm> {
        std::iter::once(preferred).chain(Algorithm::ALL).find(|algorithm| accepted.contains(algorithm))
    }

    /// The difference from `base` to `target`; correct, but not always smaller.
    pub fn encode(self, base: &[u8], target: &[u8]) -> Vec<u8> {
        match self {
            Algorithm::Fossil => fossil::encode(base, target),
            Algorithm::Vcdiff => vcdiff::encode(base, target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_one_algorithm_in_any_case() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Algorithm::parse("VCDiff"), Some(Algorithm::Vcdiff));
        assert_eq!(Algorithm::parse("Fossil"), Some(Algorithm::Fossil));
        assert_eq!(Algorithm::parse("xdelta"), None);
        assert_eq!(Algorithm::parse(""), None);
    }

    #[test]
    fn the_server_chooses_what_it_prefers() {
        use Algorithm::{Fossil, Vcdiff};
        assert_eq!(Algorithm::choose(Vcdiff, &[Fossil, Vcdiff]), Some(Vcdiff));
        assert_eq!(Algorithm::choose(Vcdiff, &[Fossil]), Some(Fossil));
        assert_eq!(Algorithm::choose(Fossil, &[]), None);
    }
}
