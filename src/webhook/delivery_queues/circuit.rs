//! The circuit breaker of an endpoint. While it is open, single probe calls with a backoff
//! find out whether the receiver works again.

use std::time::Instant;

use super::backoff;
use crate::limits;

#[derive(Debug, Default)]
pub(super) struct Circuit {
    /// Failed calls since the last success, see [`limits::WEBHOOK_CIRCUIT_FAILURES`].
    failures: u32,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Closed,
    /// No call before `probe_at`.
    Open { probes: u32, probe_at: Instant },
    /// A probe is in progress.
    Probing { probes: u32 },
}

impl Circuit {
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed)
    }

    /// The time of the next probe; `None` if the circuit is closed or a probe is in progress.
    pub(super) fn probe_at(&self) -> Option<Instant> {
        match self.state {
            State::Open { probe_at, .. } => Some(probe_at),
            State::Closed | State::Probing { .. } => None,
        }
    }

    /// Whether the next probe is for a channel that has failed: every second one, so that
    /// neither failed nor new channels keep the circuit open for the others.
    pub(super) fn prefers_failed(&self) -> bool {
        matches!(self.state, State::Open { probes, .. } if probes % 2 == 1)
    }

    pub(super) fn begin_probe(&mut self) {
        if let State::Open { probes, .. } = self.state {
            self.state = State::Probing { probes };
        }
    }

    /// Returns whether the circuit has closed.
    pub(super) fn succeeded(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Circuit::default();
        was_open
    }

    /// Returns whether the circuit has opened. `counts` is false for a channel that fails
    /// again and again.
    pub(super) fn failed(&mut self, is_probe: bool, counts: bool, now: Instant, jitter: f64) -> bool {
        match self.state {
            State::Probing { probes } if is_probe => {
                let probes = probes.saturating_add(1);
                self.state = State::Open { probes, probe_at: now + backoff(probes + 1).mul_f64(jitter) };
                false
            }
            State::Closed if counts => {
                self.failures += 1;
                let opens = self.failures >= limits::WEBHOOK_CIRCUIT_FAILURES;
                if opens {
                    self.state = State::Open { probes: 0, probe_at: now + backoff(1).mul_f64(jitter) };
                }
                opens
            }
            _ => false,
        }
    }

    /// Ends a probe that was not sent, so that nothing is known about the receiver.
    pub(super) fn not_sent(&mut self, is_probe: bool, now: Instant) {
        if let State::Probing { probes } = self.state
            && is_probe
        {
            self.state = State::Open { probes, probe_at: now + backoff(1) };
        }
    }
}
