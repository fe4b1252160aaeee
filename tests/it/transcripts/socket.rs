//! A raw WebSocket connection, independent of the Pusher protocol.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::request;
use crate::support::PATIENCE;

pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// `Err` contains the lines of the HTTP response that refused the upgrade.
    pub async fn connect(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Vec<String>> {
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let handshake = tokio_tungstenite::client_async(request, stream);
        match tokio::time::timeout(PATIENCE, handshake).await.expect("a handshake in time") {
            Ok((socket, _)) => Ok(Socket(socket)),
            Err(Error::Http(response)) => {
                let (head, body) = response.into_parts();
                Err(request::lines(head.status.as_u16(), &head.headers, &body.unwrap_or_default()))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Sends one message. Text that begins with `{`, `[` or `"` is sent as it is; otherwise the
    /// first word is the kind of the frame.
    pub async fn send(&mut self, text: &str) -> Result<(), String> {
        let (verb, rest) = text.split_once(' ').unwrap_or((text, ""));
        let message = match verb {
            "text" => Message::text(rest),
            "binary" => Message::binary(rest.as_bytes().to_vec()),
            "ping" => Message::Ping(rest.as_bytes().to_vec().into()),
            "pong" => Message::Pong(rest.as_bytes().to_vec().into()),
            "close" => Message::Close(Some(CloseFrame {
                code: rest.parse::<u16>().map_err(|_| format!("{rest:?} is not a close code"))?.into(),
                reason: "".into(),
            })),
            // Bypasses the library, which sends valid frames only.
            "bytes" => {
                let bytes = hex::decode(rest.replace(' ', "")).map_err(|error| format!("{rest}: {error}"))?;
                let stream = self.0.get_mut();
                return stream.write_all(&bytes).await.map_err(|error| error.to_string());
            }
            _ if text.starts_with(['{', '[', '"']) => Message::text(text),
            _ => return Err(format!("a socket cannot {verb:?}")),
        };
        match tokio::time::timeout(PATIENCE, self.0.send(message)).await {
            Ok(sent) => sent.map_err(|error| format!("the socket cannot send this: {error}")),
            Err(_) => Err(format!("the message was not sent within {PATIENCE:?}")),
        }
    }

    /// The next message, as a line of a transcript. `None` after `within`.
    pub async fn receive(&mut self, within: Duration) -> Option<String> {
        let next = async {
            loop {
                match self.0.next().await {
                    Some(Ok(Message::Text(text))) => return text.to_string(),
                    Some(Ok(Message::Pong(data))) => {
                        return format!("pong {}", String::from_utf8_lossy(&data));
                    }
                    Some(Ok(Message::Ping(_))) => {}
                    Some(Ok(Message::Close(Some(close)))) => {
                        let text = format!("close {} {}", u16::from(close.code), close.reason);
                        return text.trim_end().to_owned();
                    }
                    Some(Ok(other)) => return format!("{other:?}"),
                    Some(Err(error)) => return format!("end {error}"),
                    None => return "end".into(),
                }
            }
        };
        tokio::time::timeout(within, next).await.ok()
    }

    /// Completes the closing handshake: reads until the stream ends, so that the library responds
    /// to the server's close frame.
    pub async fn finish_close(mut self) {
        let rest = async { while let Some(Ok(_)) = self.0.next().await {} };
        let _ = tokio::time::timeout(PATIENCE, rest).await;
    }
}
