//! A receiver of webhooks: it records the channels of the events, or never answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use memchr::memmem;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::Outcome;

#[derive(Debug)]
pub struct Receiver {
    pub address: SocketAddr,
    /// Time of the first event of each channel.
    events: Arc<Mutex<HashMap<String, Instant>>>,
    task: JoinHandle<()>,
}

impl Receiver {
    pub async fn start(answers: bool) -> Outcome<Receiver> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let events = Arc::<Mutex<HashMap<String, Instant>>>::default();
        let recorded = events.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let events = recorded.clone();
                connections.spawn(async move {
                    let _ = serve(stream, answers, &events).await;
                });
            }
        });
        Ok(Receiver { address, events, task })
    }

    pub fn received(&self, channel: &str) -> Option<Instant> {
        self.events.lock().get(channel).copied()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    answers: bool,
    events: &Mutex<HashMap<String, Instant>>,
) -> Outcome<()> {
    let mut read = Vec::new();
    while stream.read_buf(&mut read).await? > 0 {
        let Some(bytes) = call_bytes(&read).filter(|bytes| answers && *bytes <= read.len()) else { continue };
        let head = memmem::find(&read, b"\r\n\r\n").unwrap_or_default() + 4;
        let body: Value = serde_json::from_slice(&read[head..bytes])?;
        for event in body["events"].as_array().into_iter().flatten() {
            let channel = event["channel"].as_str().unwrap_or_default().to_owned();
            events.lock().entry(channel).or_insert_with(Instant::now);
        }
        read.drain(..bytes);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
    Ok(())
}

/// Bytes of the first request, once its head is there.
fn call_bytes(read: &[u8]) -> Option<usize> {
    let head = memmem::find(read, b"\r\n\r\n")?;
    let text = std::str::from_utf8(&read[..head]).ok()?.to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?;
    Some(head + 4 + length.trim().parse::<usize>().ok()?)
}
