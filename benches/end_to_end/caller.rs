//! The backend that publishes: signed batches on one kept connection.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare::app::Secret;
use fanfare::auth;
use memchr::memmem;
use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Outcome;

pub const EVENTS_PER_BATCH: u64 = 10;

/// What is published: made of JSON, as payloads are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// 200 bytes, all different.
    Small,
    /// 1 KB, in which a few numbers change.
    Large,
    /// 1 KB, of which nothing comes again.
    Random,
}

#[derive(Debug)]
pub struct Caller {
    address: SocketAddr,
    stream: TcpStream,
    read: Vec<u8>,
}

impl Payload {
    pub fn bytes(self) -> usize {
        match self {
            Payload::Small => 200,
            Payload::Large | Payload::Random => 1024,
        }
    }

    fn text(self, number: u64) -> String {
        let noise = |salt: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt) >> 20;
        let mut text = format!(r#"{{"number":{number},"price":{},"volume":{}"#, noise(1), noise(2));
        let filler = match self {
            Payload::Small => (0..8).map(|salt| format!("{:016x}", noise(salt))).collect::<String>(),
            Payload::Large => "the same as in every other event of this channel ".repeat(20),
            Payload::Random => letters(number, 950),
        };
        let room = self.bytes() - text.len() - r#","text":""}"#.len();
        text += &format!(r#","text":"{filler:x<room$.room$}"}}"#);
        text
    }

    /// The body of a batch on `channel`; its events are numbered on.
    pub fn batch(self, channel: &str, batch: u64) -> String {
        let numbers = batch * EVENTS_PER_BATCH..(batch + 1) * EVENTS_PER_BATCH;
        let event =
            |number| json!({ "name": "price-changed", "channel": channel, "data": self.text(number) });
        json!({ "batch": numbers.map(event).collect::<Vec<_>>() }).to_string()
    }
}

/// The same for a number in every run, and like those of no other.
fn letters(number: u64, count: usize) -> String {
    let letters = StdRng::seed_from_u64(number).sample_iter(Alphanumeric).take(count);
    letters.map(char::from).collect()
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Outcome<Caller> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Caller { address, stream, read: Vec::new() })
    }

    /// The whole request, so that no signing is in what is measured.
    pub fn request(&self, app: &App, body: &str) -> Outcome<Vec<u8>> {
        let target = target(app, "POST", "/batch_events", Some(&auth::body_md5(body.as_bytes())))?;
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.address,
            body.len()
        );
        Ok([head.as_bytes(), body.as_bytes()].concat())
    }

    /// A question; `path` is below the app.
    pub fn query(&self, app: &App, path: &str) -> Outcome<Vec<u8>> {
        let target = target(app, "GET", path, None)?;
        Ok(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).into_bytes())
    }

    /// How often `what` is in the last answer.
    pub fn count(&self, what: &str) -> usize {
        memmem::find_iter(&self.read, what).count()
    }

    /// Sends a request and reads the answer, which must be 200.
    pub async fn send(&mut self, request: &[u8]) -> Outcome<()> {
        self.stream.write_all(request).await?;
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the server closed the caller's connection".into());
            }
            if is_whole(&self.read) {
                break;
            }
        }
        match self.read.starts_with(b"HTTP/1.1 200 ") {
            true => Ok(()),
            false => Err(format!("refused: {}", String::from_utf8_lossy(&self.read)).into()),
        }
    }
}

/// Path and query, signed.
fn target(app: &App, method: &str, path: &str, md5: Option<&str>) -> Outcome<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let path = format!("/apps/{}{path}", app.id);
    let mut query = vec![("auth_key", app.key), ("auth_timestamp", &now), ("auth_version", "1.0")];
    query.extend(md5.map(|md5| ("body_md5", md5)));
    let signature = auth::sign(&Secret::new(app.secret), auth::request_text(method, &path, query.clone()));
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!("{path}?{}&auth_signature={signature}", query.join("&")))
}

fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = memmem::find(answer, b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    answer.len() >= end + 4 + length.unwrap_or(0)
}

/// The app that the servers of the benchmark have.
#[derive(Debug)]
pub struct App {
    pub id: &'static str,
    pub key: &'static str,
    pub secret: &'static str,
}

pub const APP: App = App { id: "1", key: "bench-key", secret: "bench-secret" };
