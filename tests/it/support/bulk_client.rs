//! A client of which a test opens thousands: without task and record. It reads on demand,
//! and looks for confirmations only.

use std::net::SocketAddr;

use tokio_tungstenite::tungstenite::Message;

use super::STEP_TIMEOUT;
use super::websocket::{Received, WebSocket, pusher_path};

/// Subscriptions sent before their confirmations are read: the confirmations of one
/// window fit into the server's write buffer of one socket.
const WINDOW: usize = 250;

pub struct BulkClient(WebSocket);

impl BulkClient {
    /// Connects and reads the first frame.
    pub async fn connect(addr: SocketAddr, key: &str) -> BulkClient {
        let socket = WebSocket::connect(addr, &pusher_path(key), &[]).await.expect("an upgrade");
        let mut client = BulkClient(socket);
        client.read_times("pusher:connection_established", 1).await;
        client
    }

    /// Subscribes to public channels, each of which is confirmed.
    pub async fn subscribe(&mut self, channels: &[String]) {
        for channels in channels.chunks(WINDOW) {
            for channel in channels {
                let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#);
                self.0.send(Message::text(text)).await.expect("an open socket");
            }
            self.read_times("pusher_internal:subscription_succeeded", channels.len()).await;
        }
    }

    /// Closes the connection with a TCP reset and without a close frame.
    pub fn reset(self) {
        self.0.stream().set_zero_linger().unwrap();
    }

    /// Reads until this event has arrived `times` times, and discards all frames.
    async fn read_times(&mut self, event: &str, times: usize) {
        let work = async {
            let mut count = 0;
            while count < times {
                match self.0.next().await {
                    Received::Text(text) => count += usize::from(text.contains(event)),
                    Received::Pong(_) => {}
                    end => panic!("{end:?} after {count} times {event}"),
                }
            }
        };
        tokio::time::timeout(6 * STEP_TIMEOUT, work)
            .await
            .unwrap_or_else(|_| panic!("not {times} times {event}"));
    }
}
