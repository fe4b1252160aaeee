//! Rate limits of one connection: messages and client events (protocol.md 2.7, 6). Pings and
//! pongs do not count.

use std::time::Instant;

use thiserror::Error;

use super::connection::Connection;
use super::subscribe::Refusal;
use crate::app::Rate;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::command::Command;

/// The open windows of a connection, one per rate limit.
#[derive(Debug)]
pub(super) struct RateWindows {
    messages: RateWindow,
    client_events: RateWindow,
}

/// A fixed window. It begins with its first message; the next window begins with the first
/// message after its end.
#[derive(Debug)]
struct RateWindow {
    began: Instant,
    count: u64,
}

/// The message is above a rate limit and has no effect; the text of a `pusher:error` with code
/// 4301.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("Rate limit exceeded (limit: {} {unit}{} per {:?})", .rate.count, plural(.rate.count), .rate.window)]
pub(super) struct RateLimitExceeded {
    /// What is counted, in the singular.
    unit: &'static str,
    rate: Rate,
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

impl Connection {
    /// Counts one message of any kind. Returns false, after an error to the client, if it is
    /// above the rate limit. The error of a subscription is a refusal, because without one the
    /// client library would keep the channel pending for ever (protocol.md 2.4).
    pub(super) fn admits_message(&mut self, command: Option<&Command>) -> bool {
        let Some(rate) = self.app.rates.messages else { return true };
        if self.windows().messages.admits(rate, Instant::now()) {
            return true;
        }
        let exceeded = RateLimitExceeded { unit: "message", rate };
        if let Some(Command::Subscribe(subscribe)) = command {
            let refusal = Refusal::new("LimitReached", exceeded.to_string(), 4301);
            self.refuse(&subscribe.channel, refusal);
        } else {
            self.send_error(Some(4301), &exceeded.to_string());
        }
        self.on_rate_exceeded(self.app.rates.messages_terminate);
        false
    }

    /// Counts one client event. Fails if it is above the rate limit.
    pub(super) fn admits_client_event(&mut self) -> Result<(), RateLimitExceeded> {
        let Some(rate) = self.app.rates.client_events else { return Ok(()) };
        match self.windows().client_events.admits(rate, Instant::now()) {
            true => Ok(()),
            false => Err(RateLimitExceeded { unit: "client event", rate }),
        }
    }

    /// Counts a message above a rate limit, and closes the connection if the app is configured to
    /// (`terminate_on_limit`).
    pub(super) fn on_rate_exceeded(&self, terminate: bool) {
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
