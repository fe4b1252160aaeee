//! One of thousands of sockets: no task, no record and hardly any memory. It reads
//! on demand only, and looks for confirmations only.

use std::net::SocketAddr;

use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

const CONFIRMATION: &[u8] = b"pusher_internal:subscription_succeeded";
/// Subscriptions sent before their confirmations are read: the confirmations of one
/// window fit into the server's write buffer of one socket.
const WINDOW: usize = 250;

pub struct Extra {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Extra {
    /// Connects and reads the first frame.
    pub async fn connect(addr: SocketAddr, key: &str) -> Extra {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut extra = Extra { stream, read: Vec::new() };
        let request = format!(
            "GET /app/{key}?protocol=7&client=js&version=8.6.0 HTTP/1.1\r\nHost: {addr}\r\n\
             Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        extra.stream.write_all(request.as_bytes()).await.unwrap();
        extra.read_times(b"pusher:connection_established", 1).await;
        extra
    }

    /// Subscribes to public channels, each of which is confirmed.
    pub async fn subscribe(&mut self, channels: &[String]) {
        for channels in channels.chunks(WINDOW) {
            let frames = channels.iter().flat_map(|channel| subscribe_frame(channel)).collect::<Vec<u8>>();
            self.stream.write_all(&frames).await.unwrap();
            self.read_times(CONFIRMATION, channels.len()).await;
        }
    }

    /// Closes the connection with a TCP reset and without a close frame.
    pub fn reset(self) {
        self.stream.set_zero_linger().unwrap();
    }

    /// Reads until `what` has arrived `times` times, and discards everything read
    /// so far.
    async fn read_times(&mut self, what: &[u8], times: usize) {
        let work = async {
            while memmem::find_iter(&self.read, what).count() < times {
                let read = self.stream.read_buf(&mut self.read).await.unwrap();
                assert!(read > 0, "closed after {}", String::from_utf8_lossy(&self.read));
            }
        };
        if tokio::time::timeout(PATIENCE * 6, work).await.is_err() {
            let what = String::from_utf8_lossy(what);
            panic!("not {times} times {what} in {:?}", String::from_utf8_lossy(&self.read));
        }
        self.read = Vec::new();
    }
}

/// Masked with zeros, which leave the text as it is.
fn subscribe_frame(channel: &str) -> Vec<u8> {
    let text = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#);
    let len = u8::try_from(text.len()).ok().filter(|len| *len < 126).expect("a short name");
    [&[0x81, 0x80 | len, 0, 0, 0, 0], text.as_bytes()].concat()
}
