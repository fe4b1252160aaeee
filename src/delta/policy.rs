//! Whether deltas pay on a channel. Where its events do not compress, they are
//! switched off, and on again when they would: one decision for the cluster,
//! announced like an event, so that all nodes change at the same point.

/// Deltas in which the savings are looked at, while they are on and while they
/// are off.
const WINDOW: u32 = 64;
const TRIAL_WINDOW: u32 = 8;
/// While they are off, one event in this many is tried all the same.
const TRIAL_INTERVAL: u64 = 16;
/// The least part of the bytes that is to be saved for deltas to stay on, and for
/// them to be switched on again. Two, so that a channel between them does not
/// flutter.
const SAVED_MIN: f64 = 0.05;
const SAVED_AGAIN_MIN: f64 = 0.1;

/// What this node knows of how well a channel's events compress.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    off: bool,
    tried: u32,
    full_bytes: u64,
    sent_bytes: u64,
}

impl Policy {
    /// Whether a delta is to be tried for the event with this number.
    pub fn tries(&self, seq: u64) -> bool {
        !self.off || seq.is_multiple_of(TRIAL_INTERVAL)
    }

    pub fn is_off(&self) -> bool {
        self.off
    }

    /// A delta was tried: the full frame has `full_bytes`, and `sent_bytes` go out.
    pub fn record(&mut self, full_bytes: usize, sent_bytes: usize) {
        self.tried += 1;
        self.full_bytes += full_bytes as u64;
        self.sent_bytes += sent_bytes as u64;
    }

    /// Whether the cluster should switch deltas on (true) or off, once in each
    /// window.
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

    /// The cluster has decided.
    pub fn set(&mut self, on: bool) {
        *self = Policy { off: !on, ..Policy::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(policy: &mut Policy, events: usize, sent: usize) -> Vec<bool> {
        let mut verdicts = Vec::new();
        for _ in 0..events {
            policy.record(1_000, sent);
            verdicts.extend(policy.verdict());
        }
        verdicts
    }

    #[test]
    fn what_does_not_pay_is_switched_off_and_on_again_when_it_would() {
        let mut policy = Policy::default();
        assert_eq!(verdicts(&mut policy, 640, 200), [] as [bool; 0]);
        assert_eq!(verdicts(&mut policy, 64, 1_000), [false]);
        policy.set(false);
        assert_eq!((0..160).filter(|seq| policy.tries(*seq)).count(), 10);
        assert_eq!(verdicts(&mut policy, 64, 1_000), [] as [bool; 0]);
        assert_eq!(verdicts(&mut policy, 8, 930), [] as [bool; 0], "between the two");
        assert_eq!(verdicts(&mut policy, 8, 200), [true]);
        policy.set(true);
        assert!(!policy.is_off() && (0..160).all(|seq| policy.tries(seq)));
        assert_eq!(verdicts(&mut policy, 64, 930), [] as [bool; 0], "between the two");
    }
}
