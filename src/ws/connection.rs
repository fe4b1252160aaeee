//! The state of one connection, and the frames and commands that every part of it sends.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use super::rate_windows::RateWindows;
use super::refusal::Refusal;
use super::subscribe_budget::SubscribeBudget;
use super::waiting::WaitingSubscribe;
use crate::app::App;
use crate::channel::{ChannelId, ChannelName};
use crate::channels::{ChannelCommand, Command};
use crate::delta::Algorithm;
use crate::event::SocketId;
use crate::metrics::metrics;
use crate::node::Node;
use crate::presence::Member;
use crate::sockets::subscription_permit::SubscriptionPermits;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

/// The state of one connection, without its stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: Node,
    pub(super) app: Arc<App>,
    pub(super) socket: SocketId,
    /// The prefix of all protocol events on this connection. Published events do not depend
    /// on it.
    pub(super) event_prefix: EventPrefix,
    pub(super) write_buffer: Arc<WriteBuffer>,
    pub(super) subscriptions: HashMap<ChannelName, Subscription>,
    /// The subscribe command before which no further message is read.
    pub(super) waiting: Option<Box<WaitingSubscribe>>,
    pub(super) permits: SubscriptionPermits,
    pub(super) budget: SubscribeBudget,
    /// Counts the commands that subscribe.
    pub(super) attempts: u32,
    /// The delta algorithms that the client has enabled for the connection. Empty: none.
    pub(super) accepted_algorithms: Box<[Algorithm]>,
    /// The client enables deltas, but its version has no working decoder (protocol.md 3.6).
    pub(super) is_refused_deltas: bool,
    /// The user that the connection has signed in as.
    pub(super) user: Option<Box<User>>,
    /// The open rate limit windows. None until a message counts against a rate limit.
    pub(super) windows: Option<Box<RateWindows>>,
    /// The deadline for a sign-in or an authorised subscription. None after either, and for
    /// apps without a deadline (protocol.md 2.9).
    pub(super) authorize_by: Option<Instant>,
}

/// A subscription, as far as the connection has to keep it.
#[derive(Debug)]
pub(super) struct Subscription {
    /// The subscription has a `delta` of its own. Otherwise the connection's setting applies.
    pub(super) requests_deltas: bool,
    /// When the last resync was admitted.
    pub(super) synced: Option<std::time::Instant>,
    /// The member on a presence channel.
    pub(super) member: Option<Arc<Member>>,
    /// The number of the last command for this subscription.
    pub(super) attempt: u32,
}

/// The user that a connection has signed in as.
#[derive(Debug)]
pub(super) struct User {
    pub(super) id: Arc<str>,
    /// `user_info`, as JSON text.
    pub(super) info: Bytes,
    /// The user channel. The subscription to it makes the user online, and carries events to
    /// the user as well as the termination of the user's connections.
    pub(super) channel: ChannelName,
    /// The user channels of the watchlist.
    pub(super) watched: Vec<ChannelId>,
}

impl Connection {
    /// Sends a command to the channels actor.
    pub(super) async fn send(&self, channel: &ChannelName, command: ChannelCommand) {
        let channel_id = ChannelId::new(&self.app.id, channel);
        self.node.channels.send(Command::Channel(channel_id, command)).await;
    }

    /// Reports a refused subscription in two frames (protocol.md 2.4).
    pub(super) fn refuse(&self, channel: &str, refusal: Refusal) {
        metrics().subscriptions_refused.increment(1);
        self.app.metrics.subscriptions_refused.increment(1);
        let Refusal { kind, error, status } = refusal;
        self.write_buffer.send(reply::subscription_refused(self.event_prefix, channel, kind, &error, status));
    }

    /// Sends `pusher:error` (protocol.md 2.3). The connection stays open.
    pub(super) fn send_error(&self, code: Option<u16>, message: &str) {
        metrics().messages_refused.increment(1);
        self.app.metrics.messages_refused.increment(1);
        self.write_buffer.send(reply::error(self.event_prefix, code, message));
    }
}
