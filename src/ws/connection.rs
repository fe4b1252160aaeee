//! The life of one socket: open, loop, close (protocol.md 2.1 to 2.3).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Message};

use super::client::Client;
use super::{Socket, writer};
use crate::app::App;
use crate::channel::ChannelName;
use crate::event::SocketId;
use crate::hub::connections::Registration;
use crate::hub::outbox::{Outbox, Taken};
use crate::limits;
use crate::metrics::{self, metrics};
use crate::node::Node;
use crate::wire::close::Close;
use crate::wire::command::Command;
use crate::wire::{frame, reply};

/// What a socket is, apart from its stream.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) node: Node,
    pub(super) app: Arc<App>,
    pub(super) socket: SocketId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) subscriptions: HashMap<ChannelName, Subscription>,
    /// The socket has opted in to deltas.
    pub(super) deltas: bool,
    /// It says it decodes deltas, and is known not to (protocol.md 3.6).
    pub(super) decodes_no_deltas: bool,
}

/// What a socket remembers of one subscription.
#[derive(Debug)]
pub(super) struct Subscription {
    /// Deltas on or off for this channel alone; None follows the socket.
    pub(super) deltas: Option<bool>,
    pub(super) synced: Option<std::time::Instant>,
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
    let (app, socket) = match Box::pin(admit(&node, &client)).await {
        Ok(app) => (app, SocketId::random()),
        Err(refusal) => return Box::pin(refuse(&mut stream, refusal)).await,
    };
    let outbox = Outbox::new();
    let registration = Registration::new(node.connections.clone(), socket, outbox.clone());
    let mut connection = Connection {
        decodes_no_deltas: client.is_among(&node.delta.refused_clients),
        node,
        app,
        socket,
        outbox,
        subscriptions: HashMap::new(),
        deltas: false,
    };
    drop(client);
    let established = reply::connection_established(socket, connection.node.activity_timeout.as_secs());
    connection.outbox.send(established);
    let end = connection.serve(&mut stream).await;
    Box::pin(connection.unsubscribe_all()).await;
    match end {
        End::Close(close) => Box::pin(say_goodbye(&mut stream, close)).await,
        End::Gone { reason } => metrics::connection_closed(reason),
    }
    // Only now: a drain waits for the last close frame.
    drop(registration);
}

async fn admit(node: &Node, client: &Client) -> Result<Arc<App>, Close> {
    client.check_protocol()?;
    // Where the apps are not known just now, the client comes back later.
    let app = node.apps.by_key(&client.key).await.map_err(|_| Close::OverCapacity)?;
    let app = app.ok_or(Close::UnknownApp)?;
    match app.enabled {
        true => Ok(app),
        false => Err(Close::AppDisabled),
    }
}

/// Said twice: in an event, for libraries that look there, and in the close frame.
async fn refuse(stream: &mut Socket, refusal: Close) {
    let mut error = vec![reply::error(Some(refusal.code()), refusal.reason())];
    let _ = writer::write(stream.get_mut(), &mut error, &Outbox::default(), limits::CLOSE_TIMEOUT).await;
    say_goodbye(stream, refusal).await;
}

/// Sends the close frame and waits for the client's, or for the end.
async fn say_goodbye(stream: &mut Socket, close: Close) {
    metrics::connection_closed(close.label());
    let goodbye = async {
        let mut chunks = vec![frame::close(close)];
        writer::write(stream.get_mut(), &mut chunks, &Outbox::default(), limits::CLOSE_TIMEOUT).await?;
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
    /// Reads and writes in turn, so that no frame of ours is ever inside another.
    async fn serve(&mut self, stream: &mut Socket) -> End {
        let mut chunks = Vec::new();
        let mut silence = Silence::new(self.node.activity_timeout);
        let mut deadline = Box::pin(tokio::time::sleep_until(silence.deadline()));
        loop {
            tokio::select! {
                message = stream.next() => {
                    silence.broken();
                    if let ControlFlow::Break(end) = Box::pin(self.hear(stream, message)).await {
                        return end;
                    }
                }
                taken = std::future::poll_fn(|context| {
                    self.outbox.poll_take(context, &mut chunks, limits::WRITE_CHUNKS_MAX)
                }) => match taken {
                    Taken::Close(close) => return End::Close(close),
                    Taken::Chunks => if let Err(end) = self.write(stream, &mut chunks).await {
                        return end;
                    },
                },
                () = deadline.as_mut() => {
                    match silence.elapsed() {
                        Some(Lapse::Ping) => self.outbox.send(reply::ping()),
                        Some(Lapse::Close) => return End::Close(Close::PongTimeout),
                        None => {}
                    }
                    deadline.as_mut().reset(silence.deadline());
                }
            }
        }
    }

    async fn write(&self, stream: &mut Socket, chunks: &mut Vec<Bytes>) -> Result<(), End> {
        let patience = self.node.activity_timeout + limits::PONG_TIMEOUT;
        let written = writer::write(stream.get_mut(), chunks, &self.outbox, patience).await;
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::TimedOut => End::Gone { reason: Close::SlowClient.label() },
            _ => GONE,
        })
    }

    async fn hear(
        &mut self,
        stream: &mut Socket,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> ControlFlow<End> {
        match message {
            Some(Ok(Message::Text(text))) => self.obey(&text).await,
            Some(Ok(Message::Binary(_))) => self.object(None, "Messages must be text, not binary"),
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

    async fn obey(&mut self, text: &str) {
        match Command::parse(text) {
            Ok(Command::Ping) => self.outbox.send(reply::pong()),
            Ok(Command::Pong) => {}
            Ok(Command::Subscribe(subscribe)) => self.subscribe(subscribe).await,
            Ok(Command::Unsubscribe { channel }) => self.unsubscribe(&channel).await,
            Ok(Command::EnableDelta { algorithms }) => self.enable_deltas(algorithms.as_deref()).await,
            Ok(Command::DeltaSyncError { channel }) => self.resync(&channel).await,
            Err(error) => self.object(error.code(), &error.to_string()),
        }
    }

    fn object(&self, code: Option<u16>, message: &str) {
        metrics().messages_refused.increment(1);
        self.outbox.send(reply::error(code, message));
    }
}

/// When to ask whether the client is still there, and when to give up.
struct Silence {
    ping_after: Duration,
    close_after: Duration,
    heard: Instant,
    pinged: Option<Instant>,
}

enum Lapse {
    Ping,
    Close,
}

impl Silence {
    /// The client asks first, after `activity_timeout`: a quarter more leaves it
    /// the time to.
    fn new(activity_timeout: Duration) -> Silence {
        let ping_after = activity_timeout + activity_timeout / 4;
        let close_after = limits::PONG_TIMEOUT.min(activity_timeout);
        Silence { ping_after, close_after, heard: Instant::now(), pinged: None }
    }

    fn broken(&mut self) {
        self.heard = Instant::now();
        self.pinged = None;
    }

    fn deadline(&self) -> Instant {
        self.pinged.map_or(self.heard + self.ping_after, |pinged| pinged + self.close_after)
    }

    /// The deadline was set some time ago: it may have moved since.
    fn elapsed(&mut self) -> Option<Lapse> {
        let now = Instant::now();
        if now < self.deadline() {
            return None;
        }
        match self.pinged.replace(now) {
            None => Some(Lapse::Ping),
            Some(_) => Some(Lapse::Close),
        }
    }
}
