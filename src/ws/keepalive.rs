//! When a silent client is asked whether it is still there (protocol.md 2.2).

use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// When to ask whether the client is still there, and when to give up.
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
    /// The client asks first, after `activity_timeout`: a quarter more leaves it
    /// the time to.
    pub(super) fn new(activity_timeout: Duration) -> Keepalive {
        let ping_after = activity_timeout + activity_timeout / 4;
        let close_after = limits::PONG_TIMEOUT.min(activity_timeout);
        Keepalive { ping_after, close_after, last_activity: Instant::now(), pinged: None }
    }

    pub(super) fn on_activity(&mut self) {
        self.last_activity = Instant::now();
        self.pinged = None;
    }

    pub(super) fn deadline(&self) -> Instant {
        self.pinged.map_or(self.last_activity + self.ping_after, |pinged| pinged + self.close_after)
    }

    /// The deadline was set some time ago: it may have moved since.
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
