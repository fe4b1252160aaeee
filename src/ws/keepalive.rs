//! Keepalive: pings on silent connections, and the close of those that do not answer
//! (protocol.md 2.2).

use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// The timers of a connection's keepalive. Every received frame counts as activity.
pub(super) struct Keepalive {
    ping_after: Duration,
    close_after: Duration,
    last_activity: Instant,
    pinged: Option<Instant>,
}

pub(super) enum KeepaliveAction {
    Ping,
    Close,
}

impl Keepalive {
    /// The client pings after `activity_timeout` of silence. The server waits for 1.25 times as
    /// long, so that the client's ping comes first. The client then has 30 s, or
    /// `activity_timeout` if that is less, to send any frame.
    pub(super) fn new(activity_timeout: Duration) -> Keepalive {
        let ping_after = activity_timeout + activity_timeout / 4;
        let close_after = limits::PONG_TIMEOUT.min(activity_timeout);
        Keepalive { ping_after, close_after, last_activity: Instant::now(), pinged: None }
    }

    /// Restarts the timers after a frame from the client.
    pub(super) fn on_activity(&mut self) {
        self.last_activity = Instant::now();
        self.pinged = None;
    }

    pub(super) fn deadline(&self) -> Instant {
        self.pinged.map_or(self.last_activity + self.ping_after, |pinged| pinged + self.close_after)
    }

    /// The action that is due now, if any. A timer that was set before the last activity finds
    /// that the deadline has moved.
    pub(super) fn elapsed(&mut self) -> Option<KeepaliveAction> {
        let now = Instant::now();
        if now < self.deadline() {
            return None;
        }
        match self.pinged.replace(now) {
            None => Some(KeepaliveAction::Ping),
            Some(_) => Some(KeepaliveAction::Close),
        }
    }
}
