//! The receiver of an app's webhooks: a server that records every request and
//! responds as the test configures, or not at all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use fanfare::app::Secret;
use fanfare::auth;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::server::AppSpec;
use super::{Port, STEP_TIMEOUT};

/// One request, as received on the wire.
#[derive(Debug, Clone)]
pub struct Call {
    pub at: Instant,
    /// `POST /path HTTP/1.1`
    pub request: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub reply: Reply,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    Status(u16),
    Redirect(String),
    /// The connection stays open without a response.
    Hang,
    /// These bytes, and the end of the connection.
    Raw(&'static [u8]),
}

type Behaviour = Box<dyn Fn(&Call) -> Reply + Send>;

struct Shared {
    calls: watch::Sender<Vec<Call>>,
    behaviour: Mutex<Behaviour>,
}

pub struct Receiver {
    /// Reserved also while the receiver is down.
    port: Port,
    shared: Arc<Shared>,
    /// None while the receiver is down.
    task: Option<JoinHandle<()>>,
}

impl Call {
    pub fn header(&self, name: &str) -> Vec<&str> {
        let named = self.headers.iter().filter(|(other, _)| other == name);
        named.map(|(_, value)| value.as_str()).collect()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }

    pub fn events(&self) -> Vec<Value> {
        self.json()["events"].as_array().expect("events are an array").clone()
    }

    pub fn is_accepted(&self) -> bool {
        matches!(self.reply, Reply::Status(200..=299))
    }

    /// Whether the request contains an event of this channel.
    pub fn names(&self, channel: &str) -> bool {
        self.events().iter().any(|event| event["channel"] == channel)
    }

    /// Verifies the signature as Pusher's libraries do: over the received bytes.
    #[track_caller]
    pub fn expect_signed(&self, app: &AppSpec) {
        let signature = auth::sign(&Secret::new(app.secret.as_str()), &self.body);
        assert_eq!(self.header("x-pusher-signature"), [signature]);
        assert_eq!(self.header("x-pusher-key"), [app.key.as_str()]);
    }
}

impl Receiver {
    /// Responds with 200 until [`Receiver::answer`] changes it.
    pub async fn start() -> Receiver {
        let behaviour: Behaviour = Box::new(|_| Reply::Status(200));
        let shared =
            Arc::new(Shared { calls: watch::Sender::new(Vec::new()), behaviour: Mutex::new(behaviour) });
        let mut receiver = Receiver { port: Port::hold(), shared, task: None };
        receiver.up().await;
        receiver
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.port.addr())
    }

    /// Sets the response to every further request.
    pub fn answer(&self, behaviour: impl Fn(&Call) -> Reply + Send + 'static) {
        *self.shared.behaviour.lock() = Box::new(behaviour);
    }

    /// Stops listening on the port and cuts the connections.
    pub async fn down(&mut self) {
        let task = self.task.take().expect("it is up");
        task.abort();
        // The port is closed once the task has ended.
        let _ = task.await;
    }

    pub async fn up(&mut self) {
        let listener = TcpListener::bind(self.port.addr()).await.unwrap();
        self.task = Some(tokio::spawn(accept(listener, self.shared.clone())));
    }

    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.borrow().clone()
    }

    /// The events of all requests answered with 2xx, in order.
    pub fn events(&self) -> Vec<Value> {
        accepted(&self.shared.calls.borrow())
    }

    /// Waits until the requests so far satisfy `check`.
    pub async fn until(&self, what: &str, check: impl Fn(&[Call]) -> bool) -> Vec<Call> {
        // Three times, because retries are delayed.
        self.until_within(what, 3 * STEP_TIMEOUT, check).await
    }

    /// The same with a timeout, for retries after a long failure, whose delays have
    /// grown.
    pub async fn until_within(
        &self,
        what: &str,
        within: Duration,
        check: impl Fn(&[Call]) -> bool,
    ) -> Vec<Call> {
        let mut calls = self.shared.calls.subscribe();
        match tokio::time::timeout(within, calls.wait_for(|calls| check(calls))).await {
            Ok(calls) => calls.expect("the sender lives").clone(),
            Err(_) => panic!("{what}: not in time; the calls were {:#?}", self.calls()),
        }
    }

    /// Waits until this many events were accepted, and returns all accepted ones.
    pub async fn until_accepted(&self, count: usize) -> Vec<Value> {
        let calls = self.until(&format!("{count} events"), |calls| accepted(calls).len() >= count).await;
        accepted(&calls)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

fn accepted(calls: &[Call]) -> Vec<Value> {
    calls.iter().filter(|call| call.is_accepted()).flat_map(Call::events).collect()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Ends its connections when it is dropped.
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve(stream, shared.clone()));
    }
}

async fn serve(mut stream: TcpStream, shared: Arc<Shared>) {
    let mut buffer = BytesMut::new();
    while let Some(call) = read_call(&mut stream, &mut buffer, &shared).await {
        let answer = match call.reply {
            Reply::Status(status) => format!("HTTP/1.1 {status} So\r\ncontent-length: 2\r\n\r\nok"),
            Reply::Redirect(to) => {
                format!("HTTP/1.1 302 There\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n")
            }
            Reply::Hang => std::future::pending().await,
            Reply::Raw(bytes) => {
                let _ = stream.write_all(bytes).await;
                return;
            }
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// The next request of a connection, recorded; None at its end.
async fn read_call(stream: &mut TcpStream, buffer: &mut BytesMut, shared: &Shared) -> Option<Call> {
    let head_bytes = loop {
        if let Some(at) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at;
        }
        read_more(stream, buffer).await?;
    };
    let head = String::from_utf8(buffer.split_to(head_bytes).to_vec()).expect("a head is ASCII");
    buffer.advance(4);
    let mut lines = head.split("\r\n");
    let request = lines.next().unwrap().to_owned();
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a header has a colon");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    let headers: Vec<(String, String)> = headers.collect();
    let length = headers.iter().find(|(name, _)| name == "content-length").expect("a body of known length");
    let length: usize = length.1.parse().expect("a length");
    while buffer.len() < length {
        read_more(stream, buffer).await?;
    }
    let body = buffer.split_to(length).freeze();
    let mut call = Call { at: Instant::now(), request, headers, body, reply: Reply::Hang };
    call.reply = (shared.behaviour.lock())(&call);
    shared.calls.send_modify(|calls| calls.push(call.clone()));
    Some(call)
}

async fn read_more(stream: &mut TcpStream, buffer: &mut BytesMut) -> Option<()> {
    match stream.read_buf(buffer).await {
        Ok(1..) => Some(()),
        _ => None,
    }
}
