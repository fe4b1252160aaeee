//! The messages of a WebSocket, as lines of a transcript.

use std::net::SocketAddr;
use std::time::Duration;

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use super::request;
use crate::support::STEP_TIMEOUT;
use crate::support::websocket::{Received, WebSocket};

pub struct Socket(WebSocket);

impl Socket {
    /// `Err` contains the lines of the HTTP response that refused the upgrade.
    pub async fn connect(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Socket, Vec<String>> {
        let connected = WebSocket::connect(addr, path, headers).await.map(Socket);
        connected.map_err(|answer| request::lines(answer.status, &answer.headers, &answer.body))
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
                return self.0.send_bytes(&bytes).await;
            }
            _ if text.starts_with(['{', '[', '"']) => Message::text(text),
            _ => return Err(format!("a socket cannot {verb:?}")),
        };
        self.0.send(message).await
    }

    /// The next message, as a line of a transcript. `None` after `within`.
    pub async fn receive(&mut self, within: Duration) -> Option<String> {
        let received = tokio::time::timeout(within, self.0.next()).await.ok()?;
        Some(match received {
            Received::Text(text) => text.to_string(),
            Received::Pong(data) => format!("pong {}", String::from_utf8_lossy(&data)),
            Received::Closed { code, reason } => format!("close {code} {reason}").trim_end().to_owned(),
            Received::Lost(error) => format!("end {error}"),
        })
    }

    /// Completes the closing handshake: reads until the stream ends, so that the library responds
    /// to the server's close frame.
    pub async fn finish_close(mut self) {
        let rest = async { while !matches!(self.0.next().await, Received::Lost(_)) {} };
        let _ = tokio::time::timeout(STEP_TIMEOUT, rest).await;
    }
}
