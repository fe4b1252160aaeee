//! The edge where browsers speak to us: a TCP stream that has become a WebSocket
//! is handed to a [`connection`] for its life (protocol.md 2).

mod accept;
pub mod client;
mod client_event;
mod connection;
mod connection_event;
mod credentials;
mod deltas;
mod keepalive;
mod presence;
mod rates;
mod signin;
mod stream;
mod subscribe;
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

/// The socket as the connection reads it; what it writes goes past the library,
/// through the write_buffer.
type Socket = WebSocketStream<Stream>;

/// Serves an upgraded stream until it ends. `read` is what the client has sent
/// behind its request.
///
/// What is boxed, here and below, would lie in the task of every idle socket,
/// some of it three times over: a future has room for the arguments of each call
/// that it is in, and for the largest of the calls it ever makes.
pub async fn serve(node: Node, stream: TcpStream, read: Bytes, client: Box<Client>) {
    let socket = Box::pin(socket(stream, read)).await;
    connection::run(node, socket, client).await;
}

/// Closes an upgraded stream with a reason that a browser can see.
pub async fn refuse(stream: TcpStream, read: Bytes, client: &Client, close: Close, reason: &str) {
    let mut socket = socket(stream, read).await;
    connection::refuse(&mut socket, client.event_prefix(), close, reason).await;
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
    // `read` is a slice of the 8 KiB that the HTTP parser has read the request into:
    // it ends here, and does not live as long as the socket.
    Box::new(Box::pin(socket).await)
}
