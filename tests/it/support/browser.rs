//! A browser: one WebSocket connection that speaks the Pusher protocol and fails
//! the test on every unexpected frame.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use fanfare::app::Secret;
use fanfare::auth;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::PATIENCE;
use super::http::Answer;
use super::server::AppSpec;

/// One frame of the server.
#[derive(Debug, Clone)]
pub struct Frame {
    pub event: String,
    pub channel: Option<String>,
    /// As in the envelope: a string or an object.
    pub data: Value,
    /// The frame, byte for byte.
    pub text: String,
}

impl Frame {
    fn parse(text: &str) -> Frame {
        let value: Value =
            serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in frame {text}"));
        Frame {
            event: value["event"].as_str().unwrap_or_else(|| panic!("no event in frame {text}")).into(),
            channel: value["channel"].as_str().map(str::to_owned),
            data: value["data"].clone(),
            text: text.into(),
        }
    }

    /// The string that every frame of an event carries.
    #[track_caller]
    pub fn data_text(&self) -> &str {
        self.data.as_str().unwrap_or_else(|| panic!("data is not a string: {}", self.text))
    }

    /// The JSON inside that string.
    #[track_caller]
    pub fn data_json(&self) -> Value {
        serde_json::from_str(self.data_text()).unwrap_or_else(|error| panic!("{error} in {}", self.text))
    }
}

/// What a socket received: a frame, or its end.
#[derive(Debug)]
pub enum Incoming {
    Frame(Frame),
    Closed(u16),
    /// Without a close frame.
    Gone(String),
}

pub struct Browser {
    /// Used in failure messages.
    name: String,
    app: Option<AppSpec>,
    socket: WebSocketStream<TcpStream>,
    socket_id: String,
    subscribed: BTreeSet<String>,
    /// Frames that arrived while another one was awaited.
    kept: VecDeque<Frame>,
}

impl Browser {
    /// `app` holds the credentials with which the browser's own backend signs.
    pub async fn connect(addr: SocketAddr, path: &str, app: Option<AppSpec>) -> Result<Browser, Box<Answer>> {
        Browser::connect_from(addr, path, app, None).await
    }

    /// The same, from a page of this origin.
    pub async fn connect_from(
        addr: SocketAddr,
        path: &str,
        app: Option<AppSpec>,
        origin: Option<&str>,
    ) -> Result<Browser, Box<Answer>> {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let mut request = format!("ws://{addr}{path}").into_client_request().unwrap();
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().unwrap());
        }
        let handshake = tokio_tungstenite::client_async(request, stream);
        let name = format!("browser of {addr}{path}");
        match tokio::time::timeout(PATIENCE, handshake).await.expect("a handshake in time") {
            Ok((socket, _)) => {
                let (socket_id, subscribed, kept) = Default::default();
                Ok(Browser { name, app, socket, socket_id, subscribed, kept })
            }
            Err(Error::Http(response)) => {
                let (head, body) = response.into_parts();
                let body = Bytes::from(body.unwrap_or_default());
                Err(Box::new(Answer { status: head.status.as_u16(), headers: head.headers, body }))
            }
            Err(error) => panic!("{name}: {error}"),
        }
    }

    /// Reads the server's first frame, which carries the socket id.
    pub async fn expect_greeting(&mut self) -> Frame {
        let frame = self.next().await;
        assert_eq!(frame.event, "pusher:connection_established", "{}", frame.text);
        self.socket_id = frame.data_json()["socket_id"].as_str().expect("a socket_id").into();
        frame
    }

    pub fn socket_id(&self) -> &str {
        &self.socket_id
    }

    // --- sending ----------------------------------------------------------------

    /// Subscribes as `pusher-js` does, signed by the app's backend where the
    /// channel requires it, and waits for the confirmation.
    pub async fn subscribe(&mut self, channel: &str) -> Frame {
        self.subscribe_with(channel, json!({})).await
    }

    /// The same with further members in the subscription's data.
    pub async fn subscribe_with(&mut self, channel: &str, members: Value) -> Frame {
        self.ask_for(channel, members).await;
        self.confirmed(channel).await
    }

    /// Sends the subscription only.
    pub async fn ask_for(&mut self, channel: &str, members: Value) {
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

    /// `key:signature` for this socket, as the app's backend answers.
    pub fn sign(&self, channel: &str) -> String {
        self.sign_text(&auth::subscription_text(&self.socket_id, channel, None))
    }

    /// `key:signature` of any text.
    pub fn sign_text(&self, text: &str) -> String {
        let app = self.app.as_ref().expect("this browser has an app");
        format!("{}:{}", app.key, auth::sign(&Secret::new(app.secret.as_str()), text))
    }

    /// Unsubscribes, and waits until the server has read the request: it reads the
    /// frames of a socket in order. No frame confirms that the unsubscription has
    /// taken effect; for that, use [`super::Caller::count_becomes`].
    pub async fn unsubscribe(&mut self, channel: &str) {
        self.send(json!({ "event": "pusher:unsubscribe", "data": { "channel": channel } })).await;
        self.subscribed.remove(channel);
        self.settle().await;
    }

    /// Returns when the server has read everything sent before. Frames that arrive
    /// in between are kept for [`Browser::next`].
    pub async fn settle(&mut self) {
        self.send(json!({ "event": "pusher:ping", "data": {} })).await;
        loop {
            let frame = self.read().await;
            if frame.event == "pusher:pong" {
                return;
            }
            self.kept.push_back(frame);
        }
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.send_message(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        let sent = tokio::time::timeout(PATIENCE, self.socket.send(message)).await;
        sent.expect("the send completes in time").unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// For sockets that the server may close during the send.
    pub async fn try_send_message(&mut self, message: Message) -> Result<(), Error> {
        tokio::time::timeout(PATIENCE, self.socket.send(message)).await.expect("the send completes in time")
    }

    /// Sends a close frame and waits for the server's.
    pub async fn close(mut self) {
        let _ = self.socket.close(None).await;
        let end = async { while let Some(Ok(_)) = self.socket.next().await {} };
        tokio::time::timeout(PATIENCE, end).await.expect("the server's close frame in time");
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
        if let Some(frame) = self.kept.pop_front() {
            return Incoming::Frame(frame);
        }
        match self.message().await {
            Some(Ok(Message::Text(text))) => Incoming::Frame(Frame::parse(&text)),
            Some(Ok(Message::Close(Some(close)))) => Incoming::Closed(close.code.into()),
            Some(Ok(other)) => Incoming::Gone(format!("{other:?}")),
            Some(Err(error)) => Incoming::Gone(error.to_string()),
            None => Incoming::Gone("end of stream".into()),
        }
    }

    /// The next WebSocket-level pong.
    pub async fn expect_websocket_pong(&mut self) -> Bytes {
        match tokio::time::timeout(PATIENCE, self.socket.next()).await {
            Ok(Some(Ok(Message::Pong(payload)))) => payload,
            other => panic!("{}: expected a pong, got {other:?}", self.name),
        }
    }

    /// The next frame or the end, with a timeout of the test's choice.
    pub async fn next_within(&mut self, within: std::time::Duration) -> Incoming {
        tokio::time::timeout(within, async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(text))) => return Incoming::Frame(Frame::parse(&text)),
                    Some(Ok(Message::Close(Some(close)))) => return Incoming::Closed(close.code.into()),
                    other => return Incoming::Gone(format!("{other:?}")),
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{}: nothing within {within:?}", self.name))
    }

    /// The same, starting with the kept frames.
    pub async fn next_kept_within(&mut self, within: std::time::Duration) -> Incoming {
        match self.kept.pop_front() {
            Some(frame) => Incoming::Frame(frame),
            None => self.next_within(within).await,
        }
    }

    async fn read(&mut self) -> Frame {
        match self.message().await {
            Some(Ok(Message::Text(text))) => Frame::parse(&text),
            other => panic!("{}: expected a frame, got {other:?}", self.name),
        }
    }

    /// The next message that is not a WebSocket ping or pong.
    async fn message(&mut self) -> Option<Result<Message, Error>> {
        let next = async {
            loop {
                match self.socket.next().await {
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .unwrap_or_else(|_| panic!("{}: nothing came within {PATIENCE:?}", self.name))
    }
}
