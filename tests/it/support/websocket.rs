//! A WebSocket connection: messages, and bytes that are no valid frame. Independent of
//! the Pusher protocol.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, Stream, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::STEP_TIMEOUT;
use super::http::Answer;

/// The path and query with which `pusher-js` connects.
pub fn pusher_path(key: &str) -> String {
    format!("/app/{key}?protocol=7&client=js&version=8.6.0&flash=false")
}

pub struct WebSocket(WebSocketStream<TcpStream>);

pub type Sink = SplitSink<WebSocketStream<TcpStream>, Message>;
pub type Source = SplitStream<WebSocketStream<TcpStream>>;

/// Why a connection was not opened.
#[derive(Debug)]
pub enum ConnectError {
    /// The HTTP response that refused the upgrade.
    Refused(Box<Answer>),
    Failed(String),
}

impl ConnectError {
    /// Panics if there was no response.
    pub fn refusal(self, path: &str) -> Box<Answer> {
        match self {
            ConnectError::Refused(answer) => answer,
            ConnectError::Failed(error) => panic!("{path}: {error}"),
        }
    }
}

/// A message, or the end of the connection.
#[derive(Debug)]
pub enum Received {
    Text(Utf8Bytes),
    Pong(Bytes),
    Closed {
        code: u16,
        reason: String,
    },
    /// The end without a close frame.
    Lost(String),
}

impl WebSocket {
    /// `Err` is the HTTP response that refused the upgrade.
    pub async fn connect(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket, Box<Answer>> {
        WebSocket::try_connect(addr, path, headers).await.map_err(|error| error.refusal(path))
    }

    /// For tests in which the server may be gone.
    pub async fn try_connect(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket, ConnectError> {
        let stream = TcpStream::connect(addr).await;
        let stream = stream.map_err(|error| ConnectError::Failed(error.to_string()))?;
        WebSocket::upgrade(stream, path, headers).await
    }

    /// The handshake on an open connection.
    pub async fn upgrade(
        stream: TcpStream,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<WebSocket, ConnectError> {
        let failed = |error: &dyn std::fmt::Display| ConnectError::Failed(error.to_string());
        let addr = stream.peer_addr().map_err(|error| failed(&error))?;
        stream.set_nodelay(true).map_err(|error| failed(&error))?;
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        // Some tests open thousands of sockets: the default is 128 KiB for each.
        let config = WebSocketConfig::default().read_buffer_size(8 * 1024);
        let handshake = tokio_tungstenite::client_async_with_config(request, stream, Some(config));
        match tokio::time::timeout(STEP_TIMEOUT, handshake).await {
            Ok(Ok((socket, _))) => Ok(WebSocket(socket)),
            Ok(Err(Error::Http(response))) => {
                let (head, body) = response.into_parts();
                let body = Bytes::from(body.unwrap_or_default());
                let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
                Err(ConnectError::Refused(Box::new(answer)))
            }
            Ok(Err(error)) => Err(failed(&error)),
            Err(_) => Err(failed(&format!("no handshake within {STEP_TIMEOUT:?}"))),
        }
    }

    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    pub async fn send(&mut self, message: Message) -> Result<(), String> {
        send(&mut self.0, message).await
    }

    /// Sends bytes that need not be valid frames.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.0.get_mut().write_all(bytes).await.map_err(|error| error.to_string())
    }

    pub async fn next(&mut self) -> Received {
        next(&mut self.0).await
    }

    /// The two directions, for different tasks.
    pub fn split(self) -> (Sink, Source) {
        self.0.split()
    }
}

pub async fn send(
    sink: &mut (impl futures_util::Sink<Message, Error = Error> + Unpin),
    message: Message,
) -> Result<(), String> {
    match tokio::time::timeout(STEP_TIMEOUT, sink.send(message)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the message was not sent within {STEP_TIMEOUT:?}")),
    }
}

/// Skips pings, which the library answers.
pub async fn next(source: &mut (impl Stream<Item = Result<Message, Error>> + Unpin)) -> Received {
    loop {
        return match source.next().await {
            Some(Ok(Message::Ping(_))) => continue,
            Some(Ok(Message::Text(text))) => Received::Text(text),
            Some(Ok(Message::Pong(payload))) => Received::Pong(payload),
            Some(Ok(Message::Close(Some(close)))) => {
                Received::Closed { code: close.code.into(), reason: close.reason.to_string() }
            }
            Some(Ok(other)) => Received::Lost(format!("{other:?}")),
            Some(Err(error)) => Received::Lost(error.to_string()),
            None => Received::Lost("end of stream".into()),
        };
    }
}
