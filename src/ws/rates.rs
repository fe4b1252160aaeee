//! Rate limits of one connection: messages and client events (protocol.md 2.7, 6). Pings and
//! pongs do not count.

use std::time::Instant;

use super::connection::Connection;
use super::rate_windows::{RateLimitExceeded, RateWindows};
use super::refusal::Refusal;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::command::Command;

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
        self.app.metrics.messages_rate_limited.increment(1);
        if terminate {
            self.write_buffer.close(Close::RateLimited);
        }
    }

    fn windows(&mut self) -> &mut RateWindows {
        self.windows.get_or_insert_with(|| Box::new(RateWindows::new(Instant::now())))
    }
}
