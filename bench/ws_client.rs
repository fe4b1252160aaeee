//! WebSocket client with many subscriptions, made in windows of [`WINDOW`] channels.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::app::Secret;
use fanfare::auth;
use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::frames::masked_text;
use crate::http_client::{APP, App};

/// Time for the connect, and for each window of subscriptions.
const TIMEOUT: Duration = Duration::from_secs(60);
const CONFIRMATION: &[u8] = b"pusher_internal:subscription_succeeded";
/// Unconfirmed subscriptions at a time. Their confirmations fit into the write buffer of a
/// connection on the server.
const WINDOW: usize = 64;

#[derive(Debug)]
pub struct WsClient {
    stream: TcpStream,
    read: Vec<u8>,
    socket_id: String,
}

impl WsClient {
    /// Connects, up to `pusher:connection_established`.
    pub async fn connect(address: SocketAddr) -> Outcome<WsClient> {
        WsClient::connect_to(address, &APP).await
    }

    /// As [`WsClient::connect`], to another app.
    pub async fn connect_to(address: SocketAddr, app: &App) -> Outcome<WsClient> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut ws_client = WsClient { stream, read: Vec::new(), socket_id: String::new() };
        let request = format!(
            "GET /app/{}?protocol=7&client=js&version=8.4.0&flash=false HTTP/1.1\r\nHost: {address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            app.key
        );
        ws_client.stream.write_all(request.as_bytes()).await?;
        // `{\"socket_id\":\"1.2\",…`: JSON within a JSON string.
        let greeting = ws_client.read_until(b"activity_timeout", 1).await?;
        let greeting = String::from_utf8_lossy(&greeting).replace('\\', "");
        let id = greeting.split(r#""socket_id":""#).nth(1).and_then(|rest| rest.split('"').next());
        ws_client.socket_id = id.ok_or("the greeting has no socket id")?.to_owned();
        Ok(ws_client)
    }

    /// Subscribes to public channels.
    pub async fn subscribe(&mut self, channels: &[String]) -> Outcome<()> {
        self.subscribe_all(channels, |channel| json!({ "channel": channel })).await
    }

    /// Subscribes to presence channels as `user`.
    pub async fn join(&mut self, channels: &[String], user: &str) -> Outcome<()> {
        let data = json!({ "user_id": user, "user_info": { "name": user } }).to_string();
        let socket_id = self.socket_id.clone();
        self.subscribe_all(channels, |channel| {
            let text = auth::subscription_text(&socket_id, channel, Some(&data));
            let auth = format!("{}:{}", APP.key, auth::sign(&Secret::new(APP.secret), &text));
            json!({ "channel": channel, "auth": auth, "channel_data": data })
        })
        .await
    }

    /// Reads and discards frames until the server closes the connection.
    pub async fn read_until_closed(mut self) {
        while self.stream.read_buf(&mut self.read).await.is_ok_and(|bytes| bytes > 0) {
            self.read.clear();
        }
    }

    /// Sends frames without waiting for a reply, and discards all received bytes, until the server
    /// closes the connection.
    pub async fn flood(mut self, frames: impl Iterator<Item = Vec<u8>> + Send) {
        let (mut receiver, mut sender) = self.stream.split();
        let send = async {
            for frame in frames {
                if sender.write_all(&frame).await.is_err() {
                    return;
                }
            }
        };
        let discard = async {
            let mut buffer = vec![0; 64 * 1024];
            while receiver.read(&mut buffer).await.is_ok_and(|bytes| bytes > 0) {}
        };
        tokio::join!(send, discard);
    }

    /// Sends a frame, then reads until `pattern` has arrived. Returns all bytes read.
    pub async fn request(&mut self, frame: &[u8], pattern: &str) -> Outcome<String> {
        self.stream.write_all(frame).await?;
        self.wait_for(pattern).await
    }

    /// Reads until `pattern` has arrived. Returns all bytes read.
    pub async fn wait_for(&mut self, pattern: &str) -> Outcome<String> {
        let read = self.read_until(pattern.as_bytes(), 1).await?;
        Ok(String::from_utf8_lossy(&read).into_owned())
    }

    /// Closes the socket with a TCP reset, without a close frame.
    pub fn reset(self) -> Outcome<()> {
        Ok(self.stream.set_zero_linger()?)
    }

    async fn subscribe_all(
        &mut self,
        channels: &[String],
        data: impl Fn(&str) -> serde_json::Value,
    ) -> Outcome<()> {
        for channels in channels.chunks(WINDOW) {
            let frame = |channel: &String| {
                let command = json!({ "event": "pusher:subscribe", "data": data(channel) });
                masked_text(command.to_string().as_bytes())
            };
            let frames: Vec<u8> = channels.iter().flat_map(frame).collect();
            self.stream.write_all(&frames).await?;
            self.read_until(CONFIRMATION, channels.len()).await?;
        }
        Ok(())
    }

    /// Reads until `pattern` has arrived `times` times. Returns all bytes read.
    async fn read_until(&mut self, pattern: &[u8], times: usize) -> Outcome<Vec<u8>> {
        // Searches new bytes only, with the previous `pattern.len() - 1` bytes, which may hold the
        // beginning of a match.
        let (mut searched, mut found) = (0, 0);
        let work = async {
            loop {
                while let Some(at) = memmem::find(&self.read[searched..], pattern) {
                    (searched, found) = (searched + at + pattern.len(), found + 1);
                }
                if found >= times {
                    return Outcome::Ok(());
                }
                searched = searched.max(self.read.len().saturating_sub(pattern.len() - 1));
                if self.stream.read_buf(&mut self.read).await? == 0 {
                    let last = String::from_utf8_lossy(&self.read[self.read.len().saturating_sub(100)..]);
                    return Err(format!("the server closed a connection: …{last}").into());
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, work).await {
            Ok(done) => done?,
            Err(_) => return Err(format!("{found} of {times} confirmations arrived in time").into()),
        }
        Ok(std::mem::take(&mut self.read))
    }
}
