//! A socket that subscribes to many channels, one after another or in windows.

use std::net::SocketAddr;
use std::time::Duration;

use fanfare::app::Secret;
use fanfare::auth;
use memchr::memmem;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::caller::APP;
use crate::frames::masked_text;

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIRMATION: &[u8] = b"pusher_internal:subscription_succeeded";
/// Subscriptions under way at once: their confirmations fit into what the server
/// keeps for one socket.
const WINDOW: usize = 64;

#[derive(Debug)]
pub struct Visitor {
    stream: TcpStream,
    read: Vec<u8>,
    socket_id: String,
}

impl Visitor {
    /// Connected and greeted.
    pub async fn connect(address: SocketAddr) -> Outcome<Visitor> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut visitor = Visitor { stream, read: Vec::new(), socket_id: String::new() };
        let request = format!(
            "GET /app/{}?protocol=7&client=js&version=8.4.0&flash=false HTTP/1.1\r\nHost: {address}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            APP.key
        );
        visitor.stream.write_all(request.as_bytes()).await?;
        // `{\"socket_id\":\"1.2\",…`, a string in a string.
        let greeting = visitor.read_until(b"activity_timeout", 1).await?;
        let greeting = String::from_utf8_lossy(&greeting).replace('\\', "");
        let id = greeting.split(r#""socket_id":""#).nth(1).and_then(|rest| rest.split('"').next());
        visitor.socket_id = id.ok_or("the greeting has no socket id")?.to_owned();
        Ok(visitor)
    }

    /// Public channels.
    pub async fn subscribe(&mut self, channels: &[String]) -> Outcome<()> {
        self.ask(channels, |channel| json!({ "channel": channel })).await
    }

    /// Presence channels, as this user.
    pub async fn join(&mut self, channels: &[String], user: &str) -> Outcome<()> {
        let data = json!({ "user_id": user, "user_info": { "name": user } }).to_string();
        let socket_id = self.socket_id.clone();
        self.ask(channels, |channel| {
            let text = auth::subscription_text(&socket_id, channel, Some(&data));
            let auth = format!("{}:{}", APP.key, auth::sign(&Secret::new(APP.secret), &text));
            json!({ "channel": channel, "auth": auth, "channel_data": data })
        })
        .await
    }

    /// Reads on, as others come, until the server closes.
    pub async fn stay(mut self) {
        while self.stream.read_buf(&mut self.read).await.is_ok_and(|bytes| bytes > 0) {
            self.read.clear();
        }
    }

    /// Gone without a word: its end is a reset.
    pub fn reset(self) -> Outcome<()> {
        Ok(self.stream.set_zero_linger()?)
    }

    async fn ask(&mut self, channels: &[String], data: impl Fn(&str) -> serde_json::Value) -> Outcome<()> {
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

    /// What came until `what` had come so many times.
    async fn read_until(&mut self, what: &[u8], times: usize) -> Outcome<Vec<u8>> {
        // Only what is new is looked at, and as much before it as may begin it.
        let (mut seen, mut found) = (0, 0);
        let work = async {
            loop {
                while let Some(at) = memmem::find(&self.read[seen..], what) {
                    (seen, found) = (seen + at + what.len(), found + 1);
                }
                if found >= times {
                    return Outcome::Ok(());
                }
                seen = seen.max(self.read.len().saturating_sub(what.len() - 1));
                if self.stream.read_buf(&mut self.read).await? == 0 {
                    let last = String::from_utf8_lossy(&self.read[self.read.len().saturating_sub(100)..]);
                    return Err(format!("a visitor was closed: …{last}").into());
                }
            }
        };
        match tokio::time::timeout(PATIENCE, work).await {
            Ok(done) => done?,
            Err(_) => return Err(format!("{found} of {times} confirmations came").into()),
        }
        Ok(std::mem::take(&mut self.read))
    }
}
