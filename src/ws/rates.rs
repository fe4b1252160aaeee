//! How often one connection may speak (protocol.md 2.7, 6). Pings are not
//! counted.

use std::time::Instant;

use thiserror::Error;

use super::connection::Connection;
use super::subscribe::Refusal;
use crate::app::Rate;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::command::Command;

/// What a connection has said in the windows that are open.
#[derive(Debug)]
pub(super) struct RateWindows {
    messages: RateWindow,
    client_events: RateWindow,
}

/// It begins with the first message, and the next one with the first after it.
#[derive(Debug)]
struct RateWindow {
    began: Instant,
    count: u64,
}

/// Told in a `pusher:error` with code 4301; what was said has no effect.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("Rate limit exceeded: {} {what} per {:?} are allowed", .rate.count, .rate.window)]
pub(super) struct RateLimitExceeded {
    what: &'static str,
    rate: Rate,
}

impl Connection {
    /// Counts one message of any kind; false if it is one too many, which the
    /// client has been told. A subscription is refused as one, for its channel
    /// would stay pending for ever (protocol.md 2.4).
    pub(super) fn admits_message(&mut self, command: Option<&Command>) -> bool {
        let Some(rate) = self.app.rates.messages else { return true };
        if self.windows().messages.admits(rate, Instant::now()) {
            return true;
        }
        let exceeded = RateLimitExceeded { what: "messages", rate };
        if let Some(Command::Subscribe(subscribe)) = command {
            let refusal = Refusal::new("LimitReached", exceeded.to_string(), 4301);
            self.refuse(&subscribe.channel, refusal);
        } else {
            self.send_error(Some(4301), &exceeded.to_string());
        }
        self.over_rate(self.app.rates.messages_terminate);
        false
    }

    /// Counts one client event.
    pub(super) fn admits_client_event(&mut self) -> Result<(), RateLimitExceeded> {
        let Some(rate) = self.app.rates.client_events else { return Ok(()) };
        match self.windows().client_events.admits(rate, Instant::now()) {
            true => Ok(()),
            false => Err(RateLimitExceeded { what: "client events", rate }),
        }
    }

    /// Counts a refused message, and closes the connection where the app wants that.
    pub(super) fn over_rate(&self, terminate: bool) {
        metrics().messages_rate_limited.increment(1);
        if terminate {
            self.write_buffer.close(Close::RateLimited);
        }
    }

    fn windows(&mut self) -> &mut RateWindows {
        self.windows.get_or_insert_with(|| {
            let began = Instant::now();
            let window = || RateWindow { began, count: 0 };
            Box::new(RateWindows { messages: window(), client_events: window() })
        })
    }
}

impl RateWindow {
    fn admits(&mut self, rate: Rate, now: Instant) -> bool {
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
    fn a_window_admits_what_its_rate_says() {
        let rate = Rate { count: 2, window: Duration::from_secs(1) };
        let began = Instant::now();
        let mut window = RateWindow { began, count: 0 };
        for (after_ms, admitted) in
            [(0, true), (10, true), (20, false), (999, false), (1_000, true), (1_900, true), (1_999, false)]
        {
            let now = began + Duration::from_millis(after_ms);
            assert_eq!(window.admits(rate, now), admitted, "after {after_ms} ms");
        }
        let message = RateLimitExceeded { what: "messages", rate }.to_string();
        assert_eq!(message, "Rate limit exceeded: 2 messages per 1s are allowed");
    }
}
