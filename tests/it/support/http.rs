//! One HTTP/1.1 connection that is kept alive, and the responses on it.

use std::convert::Infallible;
use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::HeaderMap;
use hyper::body::Frame;
use hyper::client::conn::http1::SendRequest;
use hyper::header::HeaderName;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::STEP_TIMEOUT;

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A complete response.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The body of an error response, which [`Answer::expect_error`] has checked.
#[derive(Debug, Clone)]
pub struct Refusal(pub Value);

impl Answer {
    /// The response without its body, and the length of its head. `None` if the head is
    /// not complete.
    pub fn parse_head(bytes: &[u8]) -> Option<(Answer, usize)> {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = String::from_utf8_lossy(&bytes[..end]);
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        Some((Answer { status, headers, body: Bytes::new() }, end + 4))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The body as JSON. Client libraries parse every response, so each must be
    /// JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let kind = self.header("content-type").unwrap_or("");
        assert!(kind.starts_with("application/json"), "content-type {kind:?} with {}", self.text());
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.text()))
    }

    /// Status 200 and an object: Python's library accepts nothing else.
    #[track_caller]
    pub fn expect_ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        let value = self.json();
        assert!(value.is_object(), "{value}");
        value
    }

    /// `{"error": text, "code": code, "status": status, …}`.
    #[track_caller]
    pub fn expect_error(&self, status: u16, code: &str) -> Refusal {
        let refusal = self.expect_refused(status);
        assert_eq!(refusal.0["code"], code, "{}", refusal.0);
        refusal
    }

    /// The same with any code.
    #[track_caller]
    pub fn expect_refused(&self, status: u16) -> Refusal {
        assert_eq!(self.status, status, "{}", self.text());
        let value = self.json();
        assert!(value["error"].as_str().is_some_and(|text| !text.is_empty()), "no error text: {value}");
        assert!(value["code"].as_str().is_some_and(|code| !code.is_empty()), "no error code: {value}");
        assert_eq!(value["status"], status, "{value}");
        Refusal(value)
    }
}

impl Refusal {
    #[track_caller]
    pub fn at_index(&self, index: usize) -> &Refusal {
        assert_eq!(self.0["index"], index, "{}", self.0);
        self
    }

    #[track_caller]
    pub fn without_index(&self) -> &Refusal {
        assert_eq!(self.0.get("index"), None, "{}", self.0);
        self
    }

    #[track_caller]
    pub fn of_field(&self, field: &str) -> &Refusal {
        assert_eq!(self.0["field"], field, "{}", self.0);
        self
    }
}

/// A connection, opened at the first request and again after a loss.
pub struct Connection {
    addr: SocketAddr,
    sender: tokio::sync::Mutex<Option<SendRequest<Body>>>,
    opened: std::sync::atomic::AtomicUsize,
}

impl Connection {
    pub fn new(addr: SocketAddr) -> Connection {
        Connection { addr, sender: tokio::sync::Mutex::default(), opened: 0.into() }
    }

    /// The number of TCP connections opened so far.
    pub fn opened(&self) -> usize {
        self.opened.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Sends the request and reads the whole response; `Err` holds the reason of a
    /// failure.
    pub async fn send(&self, request: hyper::Request<Body>) -> Result<Answer, String> {
        tokio::time::timeout(STEP_TIMEOUT, self.exchange(request))
            .await
            .map_err(|_| format!("no answer from {} within {STEP_TIMEOUT:?}", self.addr))?
            .map_err(|error| format!("{}: {error}", self.addr))
    }

    async fn exchange(
        &self,
        request: hyper::Request<Body>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let mut kept = self.sender.lock().await;
        // Taken out while in use: a request that is dropped half-way must not leave
        // a connection behind on which its response is still pending.
        let mut sender = match kept.take() {
            Some(sender) if !sender.is_closed() => sender,
            _ => self.open().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        *kept = Some(sender);
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    async fn open(&self) -> Result<SendRequest<Body>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        self.opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(sender)
    }
}

/// A body with a `Content-Length`.
pub fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed_unsync()
}

/// A body in chunks (`Transfer-Encoding: chunked`), each sent by itself.
pub fn chunked(chunks: Vec<Bytes>) -> Body {
    let frames = futures_util::stream::iter(chunks).then(|chunk| async {
        // Lets the connection send its chunk before it receives the next one.
        tokio::task::yield_now().await;
        Ok(Frame::data(chunk))
    });
    StreamBody::new(frames).boxed_unsync()
}

/// A plain, unsigned `GET`.
pub async fn get(addr: SocketAddr, path: &str) -> Answer {
    request(addr, "GET", path).await
}

pub async fn request(addr: SocketAddr, method: &str, path: &str) -> Answer {
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("host", addr.to_string())
        .body(whole(Bytes::new()))
        .unwrap();
    Connection::new(addr).send(request).await.unwrap()
}
