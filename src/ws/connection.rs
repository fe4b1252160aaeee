//! The life of one socket: open, loop, close (protocol.md 2.1 to 2.3, 2.9).

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Message};

use super::accept::{admit, enter};
use super::client::Client;
use super::connection_event::{self, ConnectionEvent};
use super::keepalive::{Keepalive, KeepaliveAction};
use super::rates::RateWindows;
use super::signin::User;
use super::subscribe::Refusal;
use super::{Socket, writer};
use crate::app::App;
use crate::channel::ChannelName;
use crate::delta::Algorithm;
use crate::event::SocketId;
use crate::limits;
use crate::metrics::{self, metrics};
use crate::node::Node;
use crate::presence::Member;
use crate::sockets::connections::Registration;
use crate::sockets::write_buffer::{WriteBuffer, WriteEvent};
use crate::wire::close::Close;
use crate::wire::command::{Command, CommandError};
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

/// What a socket is, apart from its stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: Node,
    pub(super) app: Arc<App>,
    pub(super) socket: SocketId,
    /// Of everything that is the connection's own; events are the same in both.
    pub(super) event_prefix: EventPrefix,
    pub(super) write_buffer: Arc<WriteBuffer>,
    pub(super) subscriptions: HashMap<ChannelName, Subscription>,
    /// The formats in which the socket has opted in to deltas.
    pub(super) accepted: Box<[Algorithm]>,
    /// It says it decodes deltas, and is known not to (protocol.md 3.6).
    pub(super) is_refused_deltas: bool,
    /// Whom it has signed in as.
    pub(super) user: Option<Box<User>>,
    /// What it has said lately, where the app wants that counted.
    pub(super) windows: Option<Box<RateWindows>>,
    /// It has to have shown a signature of the app by then; None when it has, or
    /// need not (protocol.md 2.9).
    pub(super) authorize_by: Option<Instant>,
}

/// What a socket remembers of one subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    /// It has said whether it wants deltas; else the socket's opt-in decides.
    pub(super) requests_deltas: bool,
    pub(super) synced: Option<std::time::Instant>,
    /// On a presence channel: as whom. The inbox may have refused it meanwhile.
    pub(super) member: Option<Arc<Member>>,
}

impl Subscription {
    pub(super) fn member(&self) -> Option<Arc<Member>> {
        self.member.clone()
    }

    /// False where the inbox let nobody in, because the channel was full.
    pub(super) fn is_live(&self) -> bool {
        !self.member.as_ref().is_some_and(|member| member.is_refused())
    }
}

/// Why the loop ended.
enum End {
    /// We close, with a code.
    Close(Close),
    /// The client has closed, or the connection cannot be used any more.
    Gone { reason: &'static str },
}

const GONE: End = End::Gone { reason: Close::Normal.label() };

/// Serves a socket until it ends.
pub(super) async fn run(node: Node, mut stream: Box<Socket>, client: Box<Client>) {
    let (app, permit) = match Box::pin(enter(&node, &client)).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let address = client.address.map(tracing::field::display);
            tracing::debug!(client = address, reason = refusal.label(), "socket refused");
            return Box::pin(refuse(&mut stream, client.event_prefix(), refusal, refusal.reason())).await;
        }
    };
    let socket = SocketId::random();
    let write_buffer = stream.get_ref().write_buffer.clone();
    let registration =
        Registration::new(node.connections.clone(), app.id.clone(), socket, write_buffer.clone());
    // The app may have ended before it was known to have a socket here.
    if let Err(refusal) = Box::pin(admit(&node, &client)).await {
        write_buffer.close(refusal);
    }
    let mut connection = Connection {
        is_refused_deltas: client.is_among(&node.delta.refused_clients),
        authorize_by: app.features.authorization_timeout.map(|timeout| Instant::now() + timeout),
        node,
        app,
        socket,
        event_prefix: client.event_prefix(),
        write_buffer,
        subscriptions: HashMap::new(),
        accepted: Box::default(),
        user: None,
        windows: None,
    };
    drop(client);
    let timeout_secs = connection.node.activity_timeout.as_secs();
    let established = reply::connection_established(connection.event_prefix, socket, timeout_secs);
    connection.write_buffer.send(established);
    let end = connection.serve(&mut stream).await;
    Box::pin(connection.unsubscribe_all()).await;
    // Whom we send away comes back before the goodbye is over.
    drop(permit);
    match end {
        End::Close(close) => Box::pin(send_close(&mut stream, close, close.reason())).await,
        End::Gone { reason } => metrics::connection_closed(reason),
    }
    // Only now: a drain waits for the last close frame.
    drop(registration);
}

/// Reports the refusal twice: as `pusher:error`, which some libraries need, and in
/// the close frame.
pub(super) async fn refuse(stream: &mut Socket, event_prefix: EventPrefix, refusal: Close, reason: &str) {
    stream.get_ref().write_buffer.send(reply::error(event_prefix, Some(refusal.code()), reason));
    send_close(stream, refusal, reason).await;
}

/// Sends the close frame and waits for the client's, or for the end.
async fn send_close(stream: &mut Socket, close: Close, reason: &str) {
    metrics::connection_closed(close.label());
    stream.get_ref().write_buffer.send_close(close, reason);
    let goodbye = async {
        writer::write_all(stream.get_ref(), limits::CLOSE_TIMEOUT).await?;
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Nobody is left to tell if it fails.
    let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, goodbye).await;
}

impl Connection {
    async fn serve(&mut self, stream: &mut Socket) -> End {
        let mut keepalive = Keepalive::new(self.node.activity_timeout);
        let mut deadline = Box::pin(tokio::time::sleep_until(self.deadline(&keepalive)));
        loop {
            match poll_fn(|context| connection_event::poll(context, stream, deadline.as_mut())).await {
                ConnectionEvent::Received(message) => {
                    keepalive.on_activity();
                    if let ControlFlow::Break(end) = Box::pin(self.on_message(stream, message)).await {
                        return end;
                    }
                }
                ConnectionEvent::Write(WriteEvent::Stalled) => {
                    if let Err(end) = Box::pin(self.write(stream)).await {
                        return end;
                    }
                }
                ConnectionEvent::Write(WriteEvent::Close(close)) => return End::Close(close),
                ConnectionEvent::Write(WriteEvent::Lost) => return GONE,
                ConnectionEvent::Due => {
                    match keepalive.elapsed() {
                        Some(KeepaliveAction::Ping) => self.write_buffer.send(reply::ping(self.event_prefix)),
                        Some(KeepaliveAction::Close) => return End::Close(Close::PongTimeout),
                        None => {}
                    }
                    deadline.as_mut().reset(self.deadline(&keepalive));
                }
            }
            // After any turn: who never stops talking is never due.
            if self.authorize_by.is_some_and(|by| Instant::now() >= by) {
                return End::Close(Close::AuthorizationTimeout);
            }
        }
    }

    /// When something is due that no frame brings about.
    fn deadline(&self, keepalive: &Keepalive) -> Instant {
        let deadline = keepalive.deadline();
        self.authorize_by.map_or(deadline, |by| by.min(deadline))
    }

    async fn write(&self, stream: &Socket) -> Result<(), End> {
        let patience = self.node.activity_timeout + limits::PONG_TIMEOUT;
        let written = writer::write_some(stream.get_ref(), patience).await;
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => End::Gone { reason: Close::SlowClient.label() },
            _ => GONE,
        })
    }

    async fn on_message(
        &mut self,
        stream: &mut Socket,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> ControlFlow<End> {
        match message {
            Some(Ok(Message::Text(text))) => self.dispatch(Command::parse(&text)).await,
            Some(Ok(Message::Binary(_))) => self.dispatch(Err(CommandError::Binary)).await,
            // The library's answer must be out before we write past it.
            Some(Ok(Message::Ping(_))) => {
                if stream.flush().await.is_err() {
                    return ControlFlow::Break(GONE);
                }
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => {
                let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, stream.flush()).await;
                return ControlFlow::Break(GONE);
            }
            Some(Err(tungstenite::Error::Capacity(_))) => {
                return ControlFlow::Break(End::Close(Close::TooBig));
            }
            Some(Err(tungstenite::Error::Utf8(_))) => return ControlFlow::Break(End::Close(Close::NotUtf8)),
            Some(Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )))
            | Some(Err(tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed))
            | None => return ControlFlow::Break(GONE),
            Some(Err(_)) => return ControlFlow::Break(End::Close(Close::Garbage)),
        }
        ControlFlow::Continue(())
    }

    async fn dispatch(&mut self, command: Result<Command, CommandError>) {
        // Its last frame is on the way: nothing that it still says is done.
        if self.write_buffer.is_closing() {
            return;
        }
        // Pings are never counted: who has said too much must not look dead.
        let is_counted = !matches!(command, Ok(Command::Ping | Command::Pong));
        if is_counted && !self.admits_message(command.as_ref().ok()) {
            return;
        }
        if matches!(command, Ok(Command::Subscribe(_) | Command::Signin(_))) {
            // The app's secrets may have been rotated since the socket came.
            self.app = self.node.apps.current(&self.app).await;
        }
        match command {
            Ok(Command::Ping) => self.write_buffer.send(reply::pong(self.event_prefix)),
            Ok(Command::Pong) => {}
            Ok(Command::Subscribe(subscribe)) => self.subscribe(subscribe).await,
            Ok(Command::Unsubscribe { channel }) => self.unsubscribe(&channel).await,
            Ok(Command::Signin(signin)) => self.sign_in(signin).await,
            Ok(Command::ClientEvent(event)) => self.trigger(event).await,
            Ok(Command::EnableDelta { algorithms }) => self.enable_deltas(algorithms).await,
            Ok(Command::DeltaSyncError { channel }) => self.resync(&channel).await,
            Err(CommandError::Subscription { channel, error }) => {
                self.refuse(&channel, Refusal::new("InvalidField", error.to_string(), 400));
            }
            Err(error) => self.send_error(error.code(), &error.to_string()),
        }
    }

    pub(super) fn send_error(&self, code: Option<u16>, message: &str) {
        metrics().messages_refused.increment(1);
        self.write_buffer.send(reply::error(self.event_prefix, code, message));
    }
}
