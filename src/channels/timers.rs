//! The timer wheel of the channels actor.

use std::future::poll_fn;
use std::time::Duration;

use tokio_util::time::DelayQueue;

use super::context::Timer;
use crate::capacity;
use crate::channel::ChannelId;

/// Work that falls due.
#[derive(Debug)]
pub(super) enum Due {
    Channel(ChannelId, Timer),
    /// The filters of this app may take time again.
    Backlog(Box<str>),
    /// A round of head checks may be due.
    HeadChecks,
    /// The next report of all memberships.
    Reconciliation,
    /// The next update of the gauges that are computed by counting.
    Gauges,
}

/// All timers of a node. A channel has at most one of each kind
/// ([`super::context::TimerSet`]), so their number is bounded by the number of channels.
#[derive(Debug, Default)]
pub(super) struct Timers(DelayQueue<Due>);

impl Timers {
    pub(super) fn set(&mut self, due: Due, after: Duration) {
        self.0.insert(due, after);
    }

    pub(super) fn shrink(&mut self) {
        if capacity::reduced(self.0.len(), self.0.capacity()).is_some() {
            self.0.compact();
        }
    }

    /// Completes with the next timer that is due; never, if there is none.
    pub(super) async fn next(&mut self) -> Due {
        loop {
            match poll_fn(|context| self.0.poll_expired(context)).await {
                Some(expired) => return expired.into_inner(),
                None => std::future::pending::<()>().await,
            }
        }
    }
}
