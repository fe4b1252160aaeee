//! HTTP client of a publishing backend: signed batches on one keep-alive connection.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use fanfare::app::Secret;
use fanfare::auth;
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;

#[derive(Debug)]
pub struct HttpClient {
    address: SocketAddr,
    stream: TcpStream,
    read: Vec<u8>,
    is_closed: bool,
}

impl HttpClient {
    pub async fn connect(address: SocketAddr) -> Outcome<HttpClient> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(HttpClient { address, stream, read: Vec::new(), is_closed: false })
    }

    /// A complete signed POST request. Requests are built before a run, so that signing is not
    /// part of the measured time. `path` is relative to the app.
    pub fn signed(&self, app: &App, path: &str, body: &str) -> Outcome<Vec<u8>> {
        let target = target(app, "POST", path, Some(&auth::body_md5(body.as_bytes())))?;
        Ok(self.post(&target, "application/json", body))
    }

    /// A complete POST request without a signature.
    pub fn post(&self, target: &str, content_type: &str, body: &str) -> Vec<u8> {
        let (address, len) = (self.address, body.len());
        format!(
            "POST {target} HTTP/1.1\r\nHost: {address}\r\nContent-Type: {content_type}\r\n\
             Content-Length: {len}\r\n\r\n{body}"
        )
        .into_bytes()
    }

    /// A complete signed GET request. `path` is relative to the app.
    pub fn query(&self, app: &App, path: &str) -> Outcome<Vec<u8>> {
        let target = target(app, "GET", path, None)?;
        Ok(format!("GET {target} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address).into_bytes())
    }

    pub async fn send_all(&mut self, requests: &[Vec<u8>]) -> Outcome<()> {
        for request in requests {
            self.send(request).await?;
        }
        Ok(())
    }

    /// The number of occurrences of `text` in the last response.
    pub fn count(&self, text: &str) -> usize {
        memmem::find_iter(&self.read, text).count()
    }

    /// Sends a request and reads the response. Fails unless the status is 2xx. Reconnects first
    /// if the server closed the connection after the previous response.
    pub async fn send(&mut self, request: &[u8]) -> Outcome<()> {
        if self.is_closed {
            *self = HttpClient::connect(self.address).await?;
        }
        self.stream.write_all(request).await?;
        self.read.clear();
        loop {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("the server closed the connection of an HTTP client".into());
            }
            if let Some(head) = complete_head(&self.read) {
                self.is_closed = head.contains("\r\nconnection: close");
                break;
            }
        }
        match self.read.starts_with(b"HTTP/1.1 2") {
            true => Ok(()),
            false => Err(format!("refused: {}", String::from_utf8_lossy(&self.read)).into()),
        }
    }
}

/// Path and query of a request, with its signature.
fn target(app: &App, method: &str, path: &str, md5: Option<&str>) -> Outcome<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs().to_string();
    let path = format!("/apps/{}{path}", app.id);
    let mut query = vec![("auth_key", app.key), ("auth_timestamp", &now), ("auth_version", "1.0")];
    query.extend(md5.map(|md5| ("body_md5", md5)));
    let signature = auth::sign(&Secret::new(app.secret), auth::request_text(method, &path, query.clone()));
    let query: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    Ok(format!("{path}?{}&auth_signature={signature}", query.join("&")))
}

/// The head of a response in lower case. `None` until the response is complete.
fn complete_head(response: &[u8]) -> Option<String> {
    let end = memmem::find(response, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&response[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    (response.len() >= end + 4 + length.unwrap_or(0)).then_some(head)
}

/// The app that every server of the benchmark is configured with.
#[derive(Debug)]
pub struct App {
    pub id: &'static str,
    pub key: &'static str,
    pub secret: &'static str,
}

pub const APP: App = App { id: "1", key: "bench-key", secret: "bench-secret" };
