//! The delta formats that clients support, by name.

use super::{fossil, vcdiff};

/// A delta format that a client can select.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    Fossil,
    Vcdiff,
}

impl Algorithm {
    /// In the server's order of preference.
    pub const ALL: [Algorithm; 2] = [Algorithm::Fossil, Algorithm::Vcdiff];

    /// The name in frames (protocol.md 3.4).
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Fossil => "fossil",
            Algorithm::Vcdiff => "xdelta3",
        }
    }

    /// Parses a name from a client or the configuration, ignoring case.
    pub fn parse(name: &str) -> Option<Algorithm> {
        let is_any_of = |names: &[&str]| names.iter().any(|known| known.eq_ignore_ascii_case(name));
        match name {
            _ if is_any_of(&["fossil"]) => Some(Algorithm::Fossil),
            _ if is_any_of(&["xdelta3", "vcdiff"]) => Some(Algorithm::Vcdiff),
            _ => None,
        }
    }

    /// Selects one of the algorithms that a client accepts: `preferred`, or else the first
    /// in the order of [`Algorithm::ALL`].
    pub fn choose(preferred: Algorithm, accepted: &[Algorithm]) -> Option<Algorithm> {
        std::iter::once(preferred).chain(Algorithm::ALL).find(|algorithm| accepted.contains(algorithm))
    }

    /// Encodes the difference from `base` to `target`. The result may be longer than
    /// `target`.
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
    fn parse_ignores_case_and_rejects_unknown_names() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        }
        assert_eq!(Algorithm::parse("VCDiff"), Some(Algorithm::Vcdiff));
        assert_eq!(Algorithm::parse("Fossil"), Some(Algorithm::Fossil));
        assert_eq!(Algorithm::parse("xdelta"), None);
        assert_eq!(Algorithm::parse(""), None);
    }

    #[test]
    fn choose_prefers_the_server_algorithm() {
        use Algorithm::{Fossil, Vcdiff};
        assert_eq!(Algorithm::choose(Vcdiff, &[Fossil, Vcdiff]), Some(Vcdiff));
        assert_eq!(Algorithm::choose(Vcdiff, &[Fossil]), Some(Fossil));
        assert_eq!(Algorithm::choose(Fossil, &[]), None);
    }
}
