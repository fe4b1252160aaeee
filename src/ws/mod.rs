//! WebSocket connections (protocol.md 2): `http` upgrades a request and passes the TCP stream
//! on; an `event_loop` reads commands from it until it ends, and dispatches them to the channels
//! actor. Outgoing frames go through the connection's write buffer, see [`crate::sockets`].

mod accept;
pub mod client;
mod client_event;
mod connection;
mod connection_event;
mod credentials;
mod deltas;
mod event_loop;
mod keepalive;
mod presence;
mod rate_windows;
mod rates;
mod refusal;
mod signin;
mod stream;
mod subscribe;
mod subscribe_budget;
mod waiting;
mod writer;

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::limits;
use crate::node::Node;
use crate::wire::close::Close;

use client::Client;
use stream::Stream;

/// The reading side of a connection. Frames to the client bypass the library and go through the
/// write buffer (docs/decisions/0003-frames-bypass-the-websocket-library.md).
type Socket = WebSocketStream<Stream>;

/// Serves an upgraded stream until it ends. `read` contains the bytes that arrived after the
/// request head.
///
/// The boxes, here and below, keep the task of an idle connection small. A future contains the
/// arguments of every call that it awaits and the state of the largest of these calls, so an
/// unboxed value would take memory in each idle task, some of it three times.
pub async fn serve(node: Node, stream: TcpStream, read: Bytes, client: Box<Client>) {
    let socket = Box::pin(socket(stream, read)).await;
    event_loop::run(node, socket, client).await;
}

/// Closes an upgraded stream with a reason. A browser shows the close code, but not an HTTP
/// status.
pub async fn refuse(stream: TcpStream, read: Bytes, client: &Client, close: Close, reason: &str) {
    let mut socket = socket(stream, read).await;
    event_loop::refuse(&mut socket, client.event_prefix(), close, reason).await;
}

async fn socket(stream: TcpStream, read: Bytes) -> Box<Socket> {
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::SOCKET_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(limits::MESSAGE_BYTES_MAX)
        .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::MESSAGE_BYTES_MAX));
    let socket =
        WebSocketStream::from_partially_read(Stream::new(stream), read.to_vec(), Role::Server, Some(config));
    // `read` is a slice of the 8 KiB read buffer of the HTTP parser. It is copied and dropped
    // here, so that the buffer does not live as long as the connection.
    Box::new(Box::pin(socket).await)
}
