//! A client of the Pusher protocol: it fails the test on every unexpected frame.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use bytes::Bytes;
use fanfare::app::Secret;
use fanfare::auth;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use super::STEP_TIMEOUT;
use super::frame::Frame;
use super::http::Answer;
use super::server::AppSpec;
use super::websocket::{self, Received, Sink, Source, WebSocket};

/// A frame, or the end of the connection.
#[derive(Debug)]
pub enum Incoming {
    Frame(Frame),
    Closed(u16),
    /// The end without a close frame.
    Lost(String),
}

/// The sending half of a client.
pub struct Requests {
    /// Used in failure messages.
    pub name: String,
    app: Option<AppSpec>,
    socket_id: String,
    sink: Sink,
}

pub struct Browser {
    requests: Requests,
    source: Source,
    subscribed: BTreeSet<String>,
    /// Frames that arrived while another one was awaited.
    kept: VecDeque<Frame>,
}

impl Deref for Browser {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.requests
    }
}

impl DerefMut for Browser {
    fn deref_mut(&mut self) -> &mut Requests {
        &mut self.requests
    }
}

impl Requests {
    pub fn socket_id(&self) -> &str {
        &self.socket_id
    }

    /// Sends a subscription as `pusher-js` does, signed by the app's backend where the
    /// channel requires it.
    pub async fn request_subscription(&mut self, channel: &str) {
        self.request_subscription_with(channel, json!({})).await;
    }

    /// The same with further members in the subscription's data.
    pub async fn request_subscription_with(&mut self, channel: &str, members: Value) {
        let mut data = json!({ "channel": channel });
        if channel.starts_with("private-") {
            data["auth"] = self.sign(channel).into();
        }
        for (name, value) in members.as_object().expect("members are an object") {
            data[name] = value.clone();
        }
        self.subscribe_raw(data).await;
    }

    /// Sends a subscription with exactly this data.
    pub async fn subscribe_raw(&mut self, data: Value) {
        self.send(json!({ "event": "pusher:subscribe", "data": data })).await;
    }

    /// No frame confirms that the unsubscription has taken effect; for that, use
    /// [`super::Caller::count_becomes`].
    pub async fn request_unsubscription(&mut self, channel: &str) {
        self.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } })).await;
    }

    pub async fn ping(&mut self) {
        self.send(json!({ "event": "pusher:ping", "data": {} })).await;
    }

    /// `key:signature` for this socket, as the app's backend answers.
    pub fn sign(&self, channel: &str) -> String {
        self.sign_text(&auth::subscription_text(&self.socket_id, channel, None))
    }

    /// `key:signature` of any text.
    pub fn sign_text(&self, text: &str) -> String {
        let app = self.app.as_ref().expect("this browser has an app");
        format!("{}:{}", app.key, auth::sign(&Secret::new(app.secret.as_str()), text))
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        self.try_send_message(message).await.unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// For sockets that the server may close during the send.
    pub async fn try_send_message(&mut self, message: Message) -> Result<(), String> {
        websocket::send(&mut self.sink, message).await
    }
}

impl Browser {
    /// `app` holds the credentials with which the client's own backend signs.
    pub async fn connect(addr: SocketAddr, path: &str, app: Option<AppSpec>) -> Result<Browser, Box<Answer>> {
        Browser::connect_with(addr, path, app, &[]).await
    }

    /// The same with further headers.
    pub async fn connect_with(
        addr: SocketAddr,
        path: &str,
        app: Option<AppSpec>,
        headers: &[(&str, &str)],
    ) -> Result<Browser, Box<Answer>> {
        Ok(Browser::new(WebSocket::connect(addr, path, headers).await?, path, app))
    }

    /// On an open TCP connection.
    pub async fn upgrade(stream: TcpStream, path: &str, app: AppSpec) -> Result<Browser, Box<Answer>> {
        let socket = WebSocket::upgrade(stream, path, &[]).await.map_err(|error| error.refusal(path))?;
        Ok(Browser::new(socket, path, Some(app)))
    }

    fn new(socket: WebSocket, path: &str, app: Option<AppSpec>) -> Browser {
        let name = format!("client of {path}");
        let (sink, source) = socket.split();
        let (socket_id, subscribed, kept) = Default::default();
        Browser { requests: Requests { name, app, socket_id, sink }, source, subscribed, kept }
    }

    /// The sending half, and the source of the frames to come, for a task of their own.
    pub fn split(self) -> (Requests, Source) {
        assert!(self.kept.is_empty(), "{}: unread frames", self.name);
        (self.requests, self.source)
    }

    /// Reads the server's first frame, which carries the socket id.
    pub async fn expect_greeting(&mut self) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.event, "pusher:connection_established", "{}", frame.text);
        self.requests.socket_id = frame.data_json()["socket_id"].as_str().expect("a socket_id").into();
        frame
    }

    /// Subscribes, and waits for the confirmation.
    pub async fn subscribe(&mut self, channel: &str) -> Frame {
        self.subscribe_with(channel, json!({})).await
    }

    /// The same with further members in the subscription's data.
    pub async fn subscribe_with(&mut self, channel: &str, members: Value) -> Frame {
        self.request_subscription_with(channel, members).await;
        self.confirmed(channel).await
    }

    /// Waits for the confirmation; no event of the channel may arrive before it.
    /// Keeps the frames of other channels for later.
    pub async fn confirmed(&mut self, channel: &str) -> Frame {
        let confirms = |frame: &Frame| {
            frame.event == "pusher_internal:subscription_succeeded"
                && frame.channel.as_deref() == Some(channel)
        };
        // Channels are confirmed in any order: the confirmation may be among the
        // kept frames.
        if let Some(at) = self.kept.iter().position(confirms) {
            self.subscribed.insert(channel.into());
            return self.kept.remove(at).expect("`position` found it");
        }
        loop {
            let frame = self.read().await;
            if confirms(&frame) {
                self.subscribed.insert(channel.into());
                return frame;
            }
            let is_event = frame.channel.as_deref() == Some(channel) && !frame.event.starts_with("pusher");
            let is_early = is_event && !self.subscribed.contains(channel);
            assert!(!is_early, "{}: before the confirmation of {channel}: {}", self.name, frame.text);
            self.kept.push_back(frame);
        }
    }

    /// Unsubscribes, and waits until the server has read the request: it reads the
    /// frames of a socket in order.
    pub async fn unsubscribe(&mut self, channel: &str) {
        self.request_unsubscription(channel).await;
        self.subscribed.remove(channel);
        self.settle().await;
    }

    /// Returns when the server has read everything sent before. Frames that arrive
    /// in between are kept for [`Browser::next`].
    pub async fn settle(&mut self) {
        self.ping().await;
        loop {
            let frame = self.read().await;
            if frame.event == "pusher:pong" {
                return;
            }
            self.kept.push_back(frame);
        }
    }

    /// Sends a close frame and waits for the server's.
    pub async fn close(mut self) {
        let _ = self.try_send_message(Message::Close(None)).await;
        let end = async {
            while let Received::Text(_) | Received::Pong(_) = websocket::next(&mut self.source).await {}
        };
        tokio::time::timeout(STEP_TIMEOUT, end).await.expect("the server's close frame in time");
    }

    // --- receiving --------------------------------------------------------------

    /// The next frame of any kind.
    pub async fn next(&mut self) -> Frame {
        match self.kept.pop_front() {
            Some(frame) => frame,
            None => self.read().await,
        }
    }

    /// The next frame of this event, on any channel. Keeps the frames before it for
    /// later.
    pub async fn find_event(&mut self, name: &str) -> Frame {
        if let Some(at) = self.kept.iter().position(|frame| frame.event == name) {
            return self.kept.remove(at).expect("`position` found it");
        }
        loop {
            let frame = self.read().await;
            if frame.event == name {
                return frame;
            }
            self.kept.push_back(frame);
        }
    }

    /// The next frame, which must be this event.
    pub async fn expect_event(&mut self, channel: &str, name: &str) -> Frame {
        let frame = self.next().await;
        let is_it = frame.event == name && frame.channel.as_deref() == Some(channel);
        assert!(is_it, "{}: expected {name} on {channel}, got {}", self.name, frame.text);
        frame
    }

    /// Proves that no other frame arrived: the test has published `marker` after
    /// everything that must not arrive, and `marker` is the next frame.
    pub async fn expect_nothing_before(&mut self, channel: &str, marker: &str) {
        self.expect_event(channel, marker).await;
    }

    /// The next frame, which must be `pusher:error`. Returns its message.
    pub async fn expect_error(&mut self) -> String {
        self.expect_error_frame().await.data["message"].as_str().unwrap().into()
    }

    /// The same with this code.
    pub async fn expect_error_code(&mut self, code: u16) -> String {
        let frame = self.expect_error_frame().await;
        assert_eq!(frame.data["code"], code, "{}: {}", self.name, frame.text);
        frame.data["message"].as_str().unwrap().into()
    }

    async fn expect_error_frame(&mut self) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.event, "pusher:error", "{}: {}", self.name, frame.text);
        let message = frame.data["message"].as_str();
        assert!(message.is_some_and(|text| !text.is_empty()), "no message: {}", frame.text);
        let code = &frame.data["code"];
        assert!(code.is_null() || code.is_u64(), "no code: {}", frame.text);
        frame
    }

    /// The next two frames, which must report that this channel refused the
    /// subscription: an event of the channel, whose data is returned, and a
    /// `pusher:error`.
    pub async fn expect_subscription_error(&mut self, channel: &str) -> Value {
        let frame = self.expect_event(channel, "pusher:subscription_error").await;
        for (member, is_right) in [
            ("type", frame.data["type"].is_string()),
            ("error", frame.data["error"].as_str().is_some_and(|text| !text.is_empty())),
            ("status", frame.data["status"].is_u64()),
        ] {
            assert!(is_right, "{member} is missing: {}", frame.text);
        }
        let copy = self.next().await;
        let expected = json!({ "channel": channel, "code": 4300, "message": frame.data["error"] });
        assert_eq!((copy.event.as_str(), &copy.data), ("pusher:error", &expected), "{}", self.name);
        frame.data
    }

    /// Waits for the server to close this socket and returns the close code. Only
    /// `pusher:error` frames, which give the reason, may come before.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match self.incoming().await {
                Incoming::Closed(code) => return code,
                Incoming::Frame(frame) if frame.event == "pusher:error" => {}
                other => panic!("{}: expected to be closed, got {other:?}", self.name),
            }
        }
    }

    /// The next frame or the end of the connection.
    pub async fn incoming(&mut self) -> Incoming {
        self.incoming_within(STEP_TIMEOUT).await
    }

    pub async fn incoming_within(&mut self, within: Duration) -> Incoming {
        match self.kept.pop_front() {
            Some(frame) => Incoming::Frame(frame),
            None => self.receive(within).await,
        }
    }

    /// The next WebSocket-level pong.
    pub async fn expect_websocket_pong(&mut self) -> Bytes {
        match tokio::time::timeout(STEP_TIMEOUT, websocket::next(&mut self.source)).await {
            Ok(Received::Pong(payload)) => payload,
            other => panic!("{}: expected a pong, got {other:?}", self.name),
        }
    }

    async fn read(&mut self) -> Frame {
        match self.receive(STEP_TIMEOUT).await {
            Incoming::Frame(frame) => frame,
            end => panic!("{}: expected a frame, got {end:?}", self.name),
        }
    }

    async fn receive(&mut self, within: Duration) -> Incoming {
        let deadline = tokio::time::Instant::now() + within;
        loop {
            match tokio::time::timeout_at(deadline, websocket::next(&mut self.source)).await {
                Ok(Received::Text(text)) => return Incoming::Frame(Frame::parse(&text)),
                Ok(Received::Pong(_)) => {}
                Ok(Received::Closed { code, .. }) => return Incoming::Closed(code),
                Ok(Received::Lost(error)) => return Incoming::Lost(error),
                Err(_) => panic!("{}: nothing arrived within {within:?}", self.name),
            }
        }
    }
}
