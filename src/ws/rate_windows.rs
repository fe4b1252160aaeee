//! Windows of the rate limits of one connection (protocol.md 2.7).

use std::time::Instant;

use thiserror::Error;

use crate::app::Rate;

/// The open windows of a connection, one per rate limit.
#[derive(Debug)]
pub(super) struct RateWindows {
    pub(super) messages: RateWindow,
    pub(super) client_events: RateWindow,
}

/// A fixed window. It begins with its first message; the next window begins with the first
/// message after its end.
#[derive(Debug)]
pub(super) struct RateWindow {
    began: Instant,
    count: u64,
}

/// The message is above a rate limit and has no effect; the text of a `pusher:error` with code
/// 4301.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("Rate limit exceeded (limit: {} {unit}{} per {:?})", .rate.count, plural(.rate.count), .rate.window)]
pub(super) struct RateLimitExceeded {
    /// What is counted, in the singular.
    pub(super) unit: &'static str,
    pub(super) rate: Rate,
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl RateWindows {
    pub(super) fn new(now: Instant) -> RateWindows {
        let window = || RateWindow { began: now, count: 0 };
        RateWindows { messages: window(), client_events: window() }
    }
}

impl RateWindow {
    pub(super) fn admits(&mut self, rate: Rate, now: Instant) -> bool {
        if now.saturating_duration_since(self.began) >= rate.window {
            *self = RateWindow { began: now, count: 0 };
        }
        let admitted = self.count < rate.count;
        self.count += u64::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rate_window_admits_count_messages_per_window() {
        let rate = Rate { count: 2, window: Duration::from_secs(1) };
        let began = Instant::now();
        let mut window = RateWindow { began, count: 0 };
        for (after_ms, admitted) in
            [(0, true), (10, true), (20, false), (999, false), (1_000, true), (1_900, true), (1_999, false)]
        {
            let now = began + Duration::from_millis(after_ms);
            assert_eq!(window.admits(rate, now), admitted, "after {after_ms} ms");
        }
        let message = RateLimitExceeded { unit: "message", rate }.to_string();
        assert_eq!(message, "Rate limit exceeded (limit: 2 messages per 1s)");
    }
}
