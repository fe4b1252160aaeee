//! The lifecycle of one connection: admission, commands, close
//! (protocol.md 2.1 to 2.3, 2.9).

use std::collections::HashMap;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::task::Context;

use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Message};

use super::accept;
use super::client::Client;
use super::connection::Connection;
use super::connection_event::{self, ConnectionEvent};
use super::keepalive::{Keepalive, KeepaliveAction};
use super::refusal::Refusal;
use super::subscribe_budget::SubscribeBudget;
use super::{Socket, writer};
use crate::event::SocketId;
use crate::limits;
use crate::metrics;
use crate::node::Node;
use crate::sockets::connections::Registration;
use crate::sockets::subscription_permit::SubscriptionPermits;
use crate::sockets::write_buffer::WriteEvent;
use crate::wire::close::Close;
use crate::wire::command::{Command, CommandError};
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

/// Why the event loop ended.
enum End {
    /// The server closes the connection with this code.
    Close(Close),
    /// The client has closed the connection, or the stream has failed. `reason` is the label
    /// of the counter.
    Disconnected { reason: &'static str },
}

const DISCONNECTED: End = End::Disconnected { reason: Close::Normal.label() };

/// Serves a connection until it ends.
pub(super) async fn run(node: Node, mut stream: Box<Socket>, client: Box<Client>) {
    let (app, permit) = match Box::pin(accept::admit(&node, &client)).await {
        Ok(admitted) => admitted,
        Err(refusal) => {
            let address = client.address.map(tracing::field::display);
            tracing::debug!(client = address, reason = refusal.label(), "socket refused");
            return Box::pin(refuse(&mut stream, client.event_prefix(), refusal, refusal.reason())).await;
        }
    };
    let socket = SocketId::random();
    let write_buffer = stream.get_ref().write_buffer.clone();
    let registration = Registration::new(node.connections.clone(), &app, socket, write_buffer.clone());
    // A change of the app closes registered connections only. The app may have been disabled or
    // removed between the admission and the registration, so check again.
    if let Err(refusal) = Box::pin(accept::check(&node, &client)).await {
        write_buffer.close(refusal);
    }
    let mut connection = Connection {
        is_refused_deltas: client.matches_any(&node.delta.refused_clients),
        authorize_by: app.features.authorization_timeout.map(|timeout| Instant::now() + timeout),
        node,
        app,
        socket,
        event_prefix: client.event_prefix(),
        write_buffer,
        subscriptions: HashMap::new(),
        waiting: None,
        permits: SubscriptionPermits::new(permit.pending_subscriptions()),
        budget: SubscribeBudget::new(Instant::now()),
        attempts: 0,
        accepted_algorithms: Box::default(),
        user: None,
        windows: None,
    };
    // An app has admitted the connection, which no longer counts as an HTTP connection.
    drop(client);
    let timeout_secs = connection.node.activity_timeout.as_secs();
    let established = reply::connection_established(connection.event_prefix, socket, timeout_secs);
    connection.write_buffer.send(established);
    let end = connection.serve(&mut stream).await;
    Box::pin(connection.unsubscribe_all()).await;
    // Before the closing handshake: the client may reconnect before that is complete.
    drop(permit);
    match end {
        End::Close(close) => Box::pin(send_close(&mut stream, close, close.reason())).await,
        End::Disconnected { reason } => metrics::connection_closed(reason),
    }
    // After the close frame: a drain waits until no connection is registered.
    drop(registration);
}

/// Closes a refused connection. Reports the reason twice: in `pusher:error`, which some
/// libraries need, and in the close frame (protocol.md 2.1).
pub(super) async fn refuse(stream: &mut Socket, event_prefix: EventPrefix, refusal: Close, reason: &str) {
    stream.get_ref().write_buffer.send(reply::error(event_prefix, Some(refusal.code()), reason));
    send_close(stream, refusal, reason).await;
}

/// Sends the close frame, then waits for the client's close frame or the end of the stream,
/// for at most [`limits::CLOSE_TIMEOUT`].
async fn send_close(stream: &mut Socket, close: Close, reason: &str) {
    metrics::connection_closed(close.label());
    stream.get_ref().write_buffer.send_close(close, reason);
    let closing_handshake = async {
        writer::write_all(stream.get_ref(), limits::CLOSE_TIMEOUT).await?;
        while let Some(Ok(message)) = stream.next().await {
            if message.is_close() {
                break;
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // The connection ends either way, so an error has no consequence.
    let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, closing_handshake).await;
}

impl Connection {
    async fn serve(&mut self, stream: &mut Socket) -> End {
        let mut keepalive = Keepalive::new(self.node.activity_timeout);
        let mut deadline = Box::pin(tokio::time::sleep_until(self.deadline(&keepalive)));
        loop {
            let poll = |context: &mut Context<'_>| {
                connection_event::poll(context, stream, self.waiting.as_deref_mut(), deadline.as_mut())
            };
            match poll_fn(poll).await {
                ConnectionEvent::Received(message) => {
                    keepalive.on_activity();
                    if let ControlFlow::Break(end) = Box::pin(self.on_message(stream, message)).await {
                        return end;
                    }
                }
                ConnectionEvent::MaySubscribe(permit) => {
                    // Nothing was read while the command waited.
                    keepalive.on_activity();
                    // Boxed, like every rare step: each connection keeps the memory of this future.
                    Box::pin(self.subscribe_waiting(permit)).await;
                }
                ConnectionEvent::Write(WriteEvent::Stalled) => {
                    if let Err(end) = Box::pin(self.write(stream)).await {
                        return end;
                    }
                }
                ConnectionEvent::Write(WriteEvent::Close(close)) => return End::Close(close),
                ConnectionEvent::Write(WriteEvent::Lost) => return DISCONNECTED,
                ConnectionEvent::Deadline => {
                    if self.waiting.is_some() {
                        keepalive.on_activity();
                    }
                    match keepalive.elapsed() {
                        Some(KeepaliveAction::Ping) => self.write_buffer.send(reply::ping(self.event_prefix)),
                        Some(KeepaliveAction::Close) => return End::Close(Close::PongTimeout),
                        None => {}
                    }
                    deadline.as_mut().reset(self.deadline(&keepalive));
                }
            }
            // Checked after every event: a client that keeps sending never reaches the deadline
            // of the timer.
            if self.authorize_by.is_some_and(|by| Instant::now() >= by) {
                return End::Close(Close::AuthorizationTimeout);
            }
        }
    }

    /// The next time at which the task has to act without a frame: keepalive or authorisation.
    fn deadline(&self, keepalive: &Keepalive) -> Instant {
        let deadline = keepalive.deadline();
        self.authorize_by.map_or(deadline, |by| by.min(deadline))
    }

    /// Flushes some of the write buffer. The connection ends as one of a slow client if the kernel
    /// accepts nothing for `activity_timeout` and the pong timeout together.
    async fn write(&self, stream: &Socket) -> Result<(), End> {
        let timeout = self.node.activity_timeout + limits::PONG_TIMEOUT;
        let written = writer::write_some(stream.get_ref(), timeout).await;
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => End::Disconnected { reason: Close::SlowClient.label() },
            _ => DISCONNECTED,
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
            // The library queues the pong. The flush moves it to the write buffer, in front of
            // later frames, which bypass the library.
            Some(Ok(Message::Ping(_))) => {
                if stream.flush().await.is_err() {
                    return ControlFlow::Break(DISCONNECTED);
                }
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) => {
                let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, stream.flush()).await;
                return ControlFlow::Break(DISCONNECTED);
            }
            Some(Err(tungstenite::Error::Capacity(_))) => {
                return ControlFlow::Break(End::Close(Close::TooBig));
            }
            Some(Err(tungstenite::Error::Utf8(_))) => return ControlFlow::Break(End::Close(Close::NotUtf8)),
            Some(Err(tungstenite::Error::Protocol(
                tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
            )))
            | Some(Err(tungstenite::Error::Io(_) | tungstenite::Error::ConnectionClosed))
            | None => return ControlFlow::Break(DISCONNECTED),
            Some(Err(_)) => return ControlFlow::Break(End::Close(Close::Garbage)),
        }
        ControlFlow::Continue(())
    }

    async fn dispatch(&mut self, command: Result<Command, CommandError>) {
        // The close frame is in the write buffer: later messages have no effect.
        if self.write_buffer.is_closing() {
            return;
        }
        self.drop_rejected();
        // Pings and pongs never count: a client above its rate limit must not miss its keepalive.
        let is_counted = !matches!(command, Ok(Command::Ping | Command::Pong));
        if is_counted && !self.admits_message(command.as_ref().ok()) {
            return;
        }
        if matches!(command, Ok(Command::Subscribe(_) | Command::Signin(_))) {
            // The app's secrets may have been rotated since the connection was opened.
            self.app = self.node.apps.current(&self.app).await;
        }
        match command {
            Ok(Command::Ping) => self.write_buffer.send(reply::pong(self.event_prefix)),
            Ok(Command::Pong) => {}
            Ok(Command::Subscribe(subscribe)) => self.subscribe_in_turn(subscribe).await,
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
}
