//! The backend of an app: signs requests as Pusher's libraries do, or deliberately
//! wrong where a test needs it.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use fanfare::app::Secret;
use fanfare::auth;
use serde_json::Value;

use super::STEP_TIMEOUT;
use super::http::{self, Answer, Connection};
use super::raw::RawConnection;
use super::server::AppSpec;

pub struct Caller {
    addr: SocketAddr,
    app: AppSpec,
    connection: Connection,
}

impl Caller {
    pub fn new(addr: SocketAddr, app: AppSpec) -> Caller {
        Caller { addr, app, connection: Connection::new(addr) }
    }

    pub async fn post_events(&self, event: Value) -> Answer {
        self.events(&event).send().await
    }

    /// `events` is the array of the batch.
    pub async fn post_batch(&self, events: Value) -> Answer {
        self.batch(&events).send().await
    }

    /// Publishes one event and expects a 200, for tests of a later step.
    #[track_caller]
    pub fn publish(&self, channel: &str, name: &str, data: &str) -> impl Future<Output = ()> {
        let event = serde_json::json!({"name": name, "channel": channel, "data": data});
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.post_events(event).await;
            assert_eq!(answer.status, 200, "publish at {caller}: {}", answer.text());
        }
    }

    /// A signed `GET`, such as `.get("/channels/news", &[("info", "user_count")])`.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Answer {
        let mut request = self.request("GET", path);
        for (key, value) in query {
            request = request.query(key, value);
        }
        request.send().await
    }

    /// The subscription count of a channel in the cluster.
    pub async fn subscription_count(&self, channel: &str) -> Value {
        let path = format!("/channels/{channel}");
        self.get(&path, &[("info", "subscription_count")]).await.expect_ok()["subscription_count"].clone()
    }

    /// Waits until the cluster reports this count: no frame confirms that an
    /// unsubscription has taken effect. Repeats the request while a node is
    /// connecting to Redis.
    pub async fn count_becomes(&self, channel: &str, count: usize) {
        self.count_becomes_within(channel, count, STEP_TIMEOUT).await;
    }

    pub async fn count_becomes_within(&self, channel: &str, count: usize, within: Duration) {
        let what = format!("{count} subscriptions of {channel}");
        let path = format!("/channels/{channel}");
        super::eventually(&what, within, async || {
            let answer = self.get(&path, &[("info", "subscription_count")]).await;
            match answer.status {
                200 if answer.json()["subscription_count"] == count => Ok(()),
                _ => Err(answer.text()),
            }
        })
        .await;
    }

    pub fn events(&self, event: &Value) -> Request<'_> {
        self.request("POST", "/events").json(event)
    }

    pub fn batch(&self, events: &Value) -> Request<'_> {
        self.request("POST", "/batch_events").json(&serde_json::json!({ "batch": events }))
    }

    /// A request that a test may alter before sending. `path` is below
    /// `/apps/{id}`, as on the wire.
    pub fn request(&self, method: &str, path: &str) -> Request<'_> {
        Request {
            caller: self,
            method: method.into(),
            path: format!("/apps/{}{path}", self.app.id),
            query: Vec::new(),
            headers: vec![("content-type".into(), "application/json".into())],
            body: Bytes::new(),
            chunks: None,
            signed_path: None,
            auth: Auth::of(&self.app),
        }
    }

    /// The number of TCP connections opened so far.
    pub fn connections_opened(&self) -> usize {
        self.connection.opened()
    }
}

/// How a request is signed: correctly, unless a test overrides a part.
struct Auth {
    key: String,
    secret: String,
    timestamp: i64,
    version: String,
    /// Replaces the MD5 of the body; `None` as the libraries do.
    body_md5: Option<String>,
    /// Replaces the correct signature.
    signature: Option<String>,
    omitted: Vec<String>,
}

impl Auth {
    fn of(app: &AppSpec) -> Auth {
        Auth {
            key: app.key.clone(),
            secret: app.secret.clone(),
            timestamp: now(),
            version: "1.0".into(),
            body_md5: None,
            signature: None,
            omitted: Vec::new(),
        }
    }
}

struct Pair {
    key: String,
    value: String,
    /// The pair as on the wire.
    wire: String,
}

pub struct Request<'a> {
    caller: &'a Caller,
    method: String,
    path: String,
    query: Vec<Pair>,
    headers: Vec<(String, String)>,
    body: Bytes,
    chunks: Option<Vec<Bytes>>,
    /// Replaces the path in the signed text.
    signed_path: Option<String>,
    auth: Auth,
}

impl Request<'_> {
    pub fn json(self, body: &Value) -> Self {
        self.body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends no `Content-Length` but chunks of these lengths, in turn, up to the
    /// end of the body.
    pub fn in_chunks(mut self, lengths: &[usize]) -> Self {
        let mut rest = self.body.clone();
        let mut lengths = lengths.iter().cycle();
        let mut chunks = Vec::new();
        while !rest.is_empty() {
            let length = (*lengths.next().unwrap()).clamp(1, rest.len());
            chunks.push(rest.split_to(length));
        }
        self.chunks = Some(chunks);
        self
    }

    /// A query parameter, percent-escaped as most libraries do.
    pub fn query(self, key: &str, value: &str) -> Self {
        let wire = format!("{}={}", escape(key), escape(value));
        self.query_as(key, value, &wire)
    }

    /// A query parameter with its form on the wire, such as Python's unescaped one.
    pub fn query_as(mut self, key: &str, value: &str, wire: &str) -> Self {
        self.query.push(Pair { key: key.into(), value: value.into(), wire: wire.into() });
        self
    }

    /// The whole path, for other apps and routes.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Signs this path and sends the other: the effect of a proxy that rewrites
    /// paths.
    pub fn signed_as(mut self, path: &str) -> Self {
        self.signed_path = Some(path.into());
        self
    }

    /// Replaces any header of that name.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self = self.without_header(name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self
    }

    pub fn key(mut self, key: &str) -> Self {
        self.auth.key = key.into();
        self
    }

    pub fn secret(mut self, secret: &str) -> Self {
        self.auth.secret = secret.into();
        self
    }

    /// Sets the timestamp to `seconds` from now.
    pub fn at(mut self, seconds: i64) -> Self {
        self.auth.timestamp = now() + seconds;
        self
    }

    pub fn version(mut self, version: &str) -> Self {
        self.auth.version = version.into();
        self
    }

    pub fn body_md5(mut self, md5: &str) -> Self {
        self.auth.body_md5 = Some(md5.into());
        self
    }

    pub fn signature(mut self, signature: &str) -> Self {
        self.auth.signature = Some(signature.into());
        self
    }

    /// Omits an `auth_…` or `body_md5` parameter, from the signature as well.
    pub fn without(mut self, parameter: &str) -> Self {
        self.auth.omitted.push(parameter.into());
        self
    }

    pub async fn send(self) -> Answer {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// For tests in which the server, or the route to it, may be gone.
    pub async fn try_send(self) -> Result<Answer, String> {
        let mut request = hyper::Request::builder()
            .method(self.method.as_str())
            .uri(self.target())
            .header("host", self.caller.addr.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let body = match self.chunks {
            Some(chunks) => http::chunked(chunks),
            None => http::whole(self.body),
        };
        self.caller.connection.send(request.body(body).unwrap()).await
    }

    /// Writes the whole request and closes the connection without reading the
    /// answer.
    pub async fn send_and_hang_up(self) {
        RawConnection::open(self.caller.addr).await.send(self.bytes()).await;
    }

    /// Writes the request in pieces of these lengths and waits for the answer.
    pub async fn send_in_pieces(self, lengths: &[usize]) -> Answer {
        let bytes = self.bytes();
        let mut connection = RawConnection::open(self.caller.addr).await;
        let mut lengths = lengths.iter().cycle();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*lengths.next().unwrap()).clamp(1, rest.len()));
            connection.send(piece).await;
            // Lets the other tasks run, so that pieces arrive one by one.
            tokio::task::yield_now().await;
            rest = after;
        }
        let answer = connection.answer().await;
        connection.expect_end(STEP_TIMEOUT).await;
        answer
    }

    /// The request as on the wire, on a connection of its own.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.target());
        let length = ("content-length".to_owned(), self.body.len().to_string());
        let own =
            [("host".into(), self.caller.addr.to_string()), ("connection".into(), "close".into()), length];
        for (name, value) in own.iter().chain(&self.headers) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Path and query, signed.
    fn target(&self) -> String {
        let mut pairs = self.auth_pairs();
        let own = self.query.iter().map(|pair| (pair.key.as_str(), pair.value.as_str()));
        let all = own.chain(pairs.iter().map(|(key, value)| (*key, value.as_str())));
        let signed_path = self.signed_path.as_ref().unwrap_or(&self.path);
        let text = auth::request_text(&self.method, signed_path, all);
        let right = auth::sign(&Secret::new(self.auth.secret.as_str()), &text);
        if !self.omits("auth_signature") {
            pairs.push(("auth_signature", self.auth.signature.clone().unwrap_or(right)));
        }
        let own = self.query.iter().map(|pair| pair.wire.clone());
        let auth = pairs.iter().map(|(key, value)| format!("{key}={}", escape(value)));
        let query: Vec<String> = own.chain(auth).collect();
        format!("{}?{}", self.path, query.join("&"))
    }

    fn auth_pairs(&self) -> Vec<(&'static str, String)> {
        let auth = &self.auth;
        let mut pairs = vec![
            ("auth_key", auth.key.clone()),
            ("auth_timestamp", auth.timestamp.to_string()),
            ("auth_version", auth.version.clone()),
        ];
        let md5 = || auth::body_md5(&self.body);
        if auth.body_md5.is_some() || !self.body.is_empty() {
            pairs.push(("body_md5", auth.body_md5.clone().unwrap_or_else(md5)));
        }
        pairs.retain(|(key, _)| !self.omits(key));
        pairs
    }

    fn omits(&self, parameter: &str) -> bool {
        self.auth.omitted.iter().any(|omitted| omitted == parameter)
    }
}

fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
