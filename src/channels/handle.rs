//! The commands of connections, and the handle that sends them to the channels actor.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::app::App;
use crate::channel::ChannelId;
use crate::delta::Algorithm;
use crate::encode::DeliveryOptions;
use crate::event::SocketId;
use crate::filter::Filter;
use crate::presence::Member;
use crate::sockets::subscription_permit::SubscriptionPermit;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::resume::Resume;

/// Requests of connections. The channels process those of one connection in order.
#[derive(Debug)]
pub enum Command {
    /// A request that concerns one channel.
    Channel(ChannelId, ChannelCommand),
    /// Sends the connection the online status of these users, once for all of them and
    /// then at every change (protocol.md 2.10). Users are named by their user channels.
    /// Sent before the subscription to the connection's own user channel: the first
    /// status follows the confirmation of that.
    Watch {
        app: Arc<App>,
        users: Vec<ChannelId>,
        socket: SocketId,
        write_buffer: Arc<WriteBuffer>,
        event_prefix: EventPrefix,
    },
    Unwatch {
        users: Vec<ChannelId>,
        socket: SocketId,
    },
}

#[derive(Debug)]
pub enum ChannelCommand {
    Subscribe(Box<Subscribe>),
    Unsubscribe {
        socket: SocketId,
    },
    /// Enables deltas for a connection that is already subscribed (protocol.md 3.2).
    EnableDeltas {
        socket: SocketId,
        algorithm: Algorithm,
    },
    /// The client lacks a base: its next event of every chain is full (protocol.md
    /// 3.10).
    Resync {
        socket: SocketId,
    },
}

#[derive(Debug)]
pub struct Subscribe {
    pub app: Arc<App>,
    pub socket: SocketId,
    pub write_buffer: Arc<WriteBuffer>,
    /// Without the filter, which the channel admits.
    pub options: DeliveryOptions,
    pub filter: Option<Box<Filter>>,
    /// The client's position, if it resumes (protocol.md 2.13, docs/resume.md). Its token is
    /// verified.
    pub resume: Option<Box<Resume>>,
    /// The member, on a presence channel.
    pub member: Option<Arc<Member>>,
    pub confirmation: Confirmation,
    /// The number of this command among the connection's. A rejection repeats it.
    pub attempt: u32,
    /// Held until the subscription is confirmed or has ended.
    pub permit: Option<SubscriptionPermit>,
}

/// The reply to a subscription. The channels encode it, with the roster or the position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirmation {
    /// `subscription_succeeded`, and `delta_compression_enabled` if the subscription has
    /// `delta`.
    Subscription { deltas: Option<DeltasReply> },
    /// The subscription to the user channel is part of a sign-in: frames that confirm it.
    Signin(Bytes),
}

/// The content of `delta_compression_enabled`: the chosen format, or `None` if deltas
/// stay off (protocol.md 3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltasReply(pub Option<Algorithm>);

/// Sends commands to the channels actor.
#[derive(Debug, Clone)]
pub struct ChannelsHandle(pub(super) mpsc::Sender<Command>);

impl ChannelsHandle {
    /// Waits while [`limits::COMMANDS_MAX`] commands are queued.
    ///
    /// [`limits::COMMANDS_MAX`]: crate::limits::COMMANDS_MAX
    pub async fn send(&self, command: Command) {
        // The actor lives as long as the node: an error means that the process is
        // ending.
        let _ = self.0.send(command).await;
    }
}
