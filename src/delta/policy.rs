//! The policy of the delta toggle (protocol.md 3.11). It switches the deltas of a channel
//! off when its events do not compress, and on again when they do. The decision is an
//! entry of the channel, so that all nodes switch at the same position.

/// Number of deltas over which the savings are measured while deltas are on.
const WINDOW: u32 = 64;
/// The same while deltas are off.
const TRIAL_WINDOW: u32 = 8;
/// While deltas are off, one event in this many is encoded to measure the savings.
const TRIAL_INTERVAL: u64 = 16;
/// Fraction of the bytes that deltas must save to stay on.
const SAVED_MIN: f64 = 0.05;
/// Fraction that they must save to be switched on again. Above [`SAVED_MIN`], so that a
/// channel between the two does not switch repeatedly.
const SAVED_AGAIN_MIN: f64 = 0.1;

/// The state of a channel's toggle and this node's measurement of the current window.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    off: bool,
    tried: u32,
    full_bytes: u64,
    sent_bytes: u64,
}

impl Policy {
    /// Whether a delta is encoded for the event with this sequence number.
    pub fn tries(&self, seq: u64) -> bool {
        !self.off || seq.is_multiple_of(TRIAL_INTERVAL)
    }

    pub fn is_off(&self) -> bool {
        self.off
    }

    /// Records one encoded delta: bytes of the full frame, and of the frame sent.
    pub fn record(&mut self, full_bytes: usize, sent_bytes: usize) {
        self.tried += 1;
        self.full_bytes += full_bytes as u64;
        self.sent_bytes += sent_bytes as u64;
    }

    /// At the end of a window: whether deltas should be switched on (true) or off (false).
    /// `None` within a window, or if the state should stay.
    pub fn verdict(&mut self) -> Option<bool> {
        if self.tried < if self.off { TRIAL_WINDOW } else { WINDOW } {
            return None;
        }
        let saved = 1.0 - self.sent_bytes as f64 / self.full_bytes.max(1) as f64;
        *self = Policy { off: self.off, ..Policy::default() };
        match self.off {
            true => (saved >= SAVED_AGAIN_MIN).then_some(true),
            false => (saved < SAVED_MIN).then_some(false),
        }
    }

    /// Applies the toggle entry of the channel and starts a new window.
    pub fn set(&mut self, on: bool) {
        *self = Policy { off: !on, ..Policy::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decisions(policy: &mut Policy, events: usize, sent: usize) -> Vec<bool> {
        let mut decisions = Vec::new();
        for _ in 0..events {
            policy.record(1_000, sent);
            decisions.extend(policy.verdict());
        }
        decisions
    }

    #[test]
    fn deltas_are_switched_off_without_savings_and_on_again_with_them() {
        let mut policy = Policy::default();
        assert_eq!(decisions(&mut policy, 640, 200), [] as [bool; 0]);
        assert_eq!(decisions(&mut policy, 64, 1_000), [false]);
        policy.set(false);
        assert_eq!((0..160).filter(|seq| policy.tries(*seq)).count(), 10);
        assert_eq!(decisions(&mut policy, 64, 1_000), [] as [bool; 0]);
        assert_eq!(decisions(&mut policy, 8, 930), [] as [bool; 0], "between the two thresholds");
        assert_eq!(decisions(&mut policy, 8, 200), [true]);
        policy.set(true);
        assert!(!policy.is_off() && (0..160).all(|seq| policy.tries(seq)));
        assert_eq!(decisions(&mut policy, 64, 930), [] as [bool; 0], "between the two thresholds");
    }
}
