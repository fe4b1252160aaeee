//! A subscribe command that waits for its turn.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, sleep_until};

use crate::sockets::subscription_permit::{SubscriptionPermit, SubscriptionPermits};
use crate::wire::command::Subscribe;

/// Waits for the budget of its connection, then for a permit of its app, which the connections of
/// an app receive in the order of their requests. Meanwhile the connection reads nothing, so that
/// a client that sends more than it may only delays itself.
pub(super) struct WaitingSubscribe {
    command: Subscribe,
    permit: Pin<Box<dyn Future<Output = SubscriptionPermit> + Send + Sync>>,
}

impl WaitingSubscribe {
    pub(super) fn new(
        command: Subscribe,
        not_before: Instant,
        permits: &SubscriptionPermits,
    ) -> WaitingSubscribe {
        let permit = permits.acquire();
        let permit = async move {
            sleep_until(not_before).await;
            permit.await
        };
        WaitingSubscribe { command, permit: Box::pin(permit) }
    }

    pub(super) fn poll_permit(&mut self, context: &mut Context<'_>) -> Poll<SubscriptionPermit> {
        self.permit.as_mut().poll(context)
    }

    pub(super) fn into_command(self) -> Subscribe {
        self.command
    }
}

impl fmt::Debug for WaitingSubscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitingSubscribe").field("channel", &self.command.channel).finish_non_exhaustive()
    }
}
