//! A client that resumes as `docs/guides/resume.md` describes, and that supports
//! conflation keys, both marker styles and both delta formats (protocol.md 3.3 to
//! 3.9). Strict: where a client would have to request a resync, this one fails.

use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::browser::Browser;
use super::delta_client::{Encoding, apply, strip};
use super::frame::Frame;
use super::server::Server;

/// The meaning of a frame for the channel's state.
#[derive(Debug)]
pub enum FrameKind {
    Event(ReceivedEvent),
    /// `missed`, if the position reported missed events.
    Position {
        missed: bool,
    },
    /// The number of bases, which replace the earlier ones.
    Bases(usize),
    Other(Frame),
}

/// An event, as the application receives it.
#[derive(Debug)]
pub struct ReceivedEvent {
    pub encoding: Encoding,
    pub name: String,
    /// The published text.
    pub data: String,
    pub seq: Option<u64>,
    pub key: Option<String>,
    pub algorithm: Option<String>,
    /// The envelope, without markers of the underscore style.
    pub text: String,
    /// Length of the received frame.
    pub bytes: usize,
}

/// The state that a client keeps of one channel, also while disconnected.
#[derive(Debug, Clone, Default)]
pub struct ResumeState {
    /// By key: the number and the text of the chain's newest event.
    bases: HashMap<String, (u64, String)>,
    pub epoch: u64,
    pub seq: u64,
    pub from: u64,
    /// Previous socket ids, oldest first.
    pub sockets: Vec<String>,
    /// Of the last confirmation.
    pub token: String,
    /// No event has arrived since the position was reset: the first event of a
    /// cache channel is from before its position.
    is_fresh: bool,
    /// The client has requested positions.
    resumes: bool,
}

impl ResumeState {
    /// Applies the confirmation of a subscription. Returns whether it is resumed.
    pub fn on_confirmation(&mut self, succeeded: &Frame) -> bool {
        self.resumes = true;
        let data = succeeded.data_json();
        let number =
            |name: &str| data[name].as_u64().unwrap_or_else(|| panic!("no {name}: {}", succeeded.text));
        let position = (number("epoch"), number("seq"));
        self.token =
            data["token"].as_str().unwrap_or_else(|| panic!("no token: {}", succeeded.text)).to_owned();
        let resumed = data["resumed"].as_bool().unwrap_or_else(|| panic!("{}", succeeded.text));
        if resumed {
            assert_eq!(
                position,
                (self.epoch, self.seq),
                "resumed at the requested position: {}",
                succeeded.text
            );
        } else {
            self.begin_at(position);
        }
        resumed
    }

    fn begin_at(&mut self, (epoch, seq): (u64, u64)) {
        self.bases.clear();
        (self.epoch, self.seq, self.from) = (epoch, seq, seq);
        self.is_fresh = true;
    }

    /// The member `resume`, with the complete state.
    pub fn resume(&self) -> Value {
        let sockets = &self.sockets[self.sockets.len().saturating_sub(8)..];
        json!({
            "epoch": self.epoch,
            "seq": self.seq,
            "from": self.from,
            "socket_id": sockets,
            "token": self.token,
        })
    }

    /// The same for a client without bases.
    pub fn resume_without_bases(&mut self) -> Value {
        self.bases.clear();
        self.from = self.seq;
        json!({
            "epoch": self.epoch,
            "seq": self.seq,
            "socket_id": self.sockets,
            "token": self.token,
        })
    }

    /// Handles a frame of the channel; panics where a client would lose an event.
    pub fn on_frame(&mut self, frame: &Frame) -> FrameKind {
        match frame.event.as_str() {
            "pusher:delta" => FrameKind::Event(self.decode(frame)),
            "pusher:position" => {
                let number = |name: &str| {
                    frame.data[name].as_u64().unwrap_or_else(|| panic!("no {name}: {}", frame.text))
                };
                let position = (number("epoch"), number("seq"));
                let missed = frame.data["missed"] == true;
                if missed {
                    self.begin_at(position);
                } else if position.0 != self.epoch {
                    (self.epoch, self.seq, self.from) = (position.0, position.1, position.1);
                } else {
                    let is_later = position.1 == self.seq || is_later(position.1, self.seq);
                    assert!(is_later, "position before {}: {}", self.seq, frame.text);
                    self.seq = position.1;
                }
                FrameKind::Position { missed }
            }
            "pusher:delta_cache_sync" => FrameKind::Bases(self.sync(&frame.data_json())),
            name if name.starts_with("pusher") => FrameKind::Other(frame.clone()),
            _ => FrameKind::Event(self.read(frame)),
        }
    }

    fn sync(&mut self, data: &Value) -> usize {
        self.bases.clear();
        self.from = self.seq;
        for (key, states) in data["states"].as_object().expect("states") {
            let newest = &states[0];
            let text = newest["content"].as_str().expect("content").to_owned();
            self.bases.insert(key.clone(), (newest["seq"].as_u64().expect("seq"), text));
        }
        self.bases.len()
    }

    /// A full event.
    fn read(&mut self, frame: &Frame) -> ReceivedEvent {
        let envelope: Value = serde_json::from_str(&frame.text).unwrap();
        let number = |name: &str| envelope.get(name).map(|it| it.as_u64().expect("a number"));
        let text_of = |name: &str| envelope.get(name).map(|it| it.as_str().expect("a key").to_owned());
        let is_plain_style = envelope.get("sequence").is_some();
        let marker = number("__delta_seq").or(number("sequence"));
        let key = text_of("__conflation_key").or(text_of("conflation_key"));
        let seq = marker.or(number("__seq"));
        let text = match marker.is_some() && !is_plain_style {
            true => strip(&frame.text),
            false => frame.text.clone(),
        };
        if let Some(seq) = marker {
            self.bases.insert(key.clone().unwrap_or_default(), (seq, text.clone()));
        }
        self.advance(seq, frame);
        let encoding = if marker.is_some() { Encoding::Full } else { Encoding::Plain };
        ReceivedEvent { seq, key, algorithm: None, ..received_event(encoding, &text, frame) }
    }

    fn decode(&mut self, frame: &Frame) -> ReceivedEvent {
        let data = &frame.data;
        let key = data.get("conflation_key").map(|it| it.as_str().expect("a key").to_owned());
        let seq = data["seq"].as_u64().unwrap_or_else(|| panic!("no seq: {}", frame.text));
        let base_seq = data["base_index"].as_u64().unwrap_or_else(|| panic!("no base: {}", frame.text));
        let chain = key.clone().unwrap_or_default();
        let (held, base) = self
            .bases
            .get(&chain)
            .unwrap_or_else(|| panic!("no base in {:?}: {}", self.bases.keys(), frame.text));
        assert_eq!(*held, base_seq, "another base than the last of its chain: {}", frame.text);
        let delta = BASE64_STANDARD.decode(data["delta"].as_str().unwrap()).unwrap();
        let algorithm = data.get("algorithm").map(|it| it.as_str().expect("a name").to_owned());
        let target = match algorithm.as_deref() {
            Some("xdelta3") => {
                fanfare::delta::vcdiff::decode(base.as_bytes(), &delta, 1_000_000).expect("VCDIFF")
            }
            _ => apply(base.as_bytes(), &delta),
        };
        let text = String::from_utf8(target).unwrap();
        self.bases.insert(chain, (seq, text.clone()));
        self.advance(Some(seq), frame);
        let event = received_event(Encoding::Delta, &text, frame);
        assert_eq!(data["event"], event.name, "the delta names its event: {}", frame.text);
        ReceivedEvent { seq: Some(seq), key, algorithm, ..event }
    }

    fn advance(&mut self, seq: Option<u64>, frame: &Frame) {
        if let Some(seq) = seq {
            assert!(self.epoch != 0 || !self.resumes, "a number without an epoch: {}", frame.text);
            let is_later = is_later(seq, self.seq) || !self.resumes;
            assert!(is_later || self.is_fresh, "{seq} after {}: {}", self.seq, frame.text);
            self.seq = if is_later { seq } else { self.seq };
            self.is_fresh = false;
        }
    }
}

/// Numbers are the low 31 bits of a counter: of two, the later is the one with the
/// smaller distance.
pub fn is_later(seq: impl Into<u64>, than: impl Into<u64>) -> bool {
    let distance = seq.into().wrapping_sub(than.into()) & 0x7fff_ffff;
    distance != 0 && distance < 0x4000_0000
}

fn received_event(encoding: Encoding, text: &str, frame: &Frame) -> ReceivedEvent {
    let envelope: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error} in {text}"));
    assert_eq!(envelope["channel"].as_str(), frame.channel.as_deref(), "{text}");
    let data = match &envelope["data"] {
        Value::String(data) => data.clone(),
        inline => inline.to_string(),
    };
    let name = envelope["event"].as_str().expect("a name").to_owned();
    let bytes = frame.text.len();
    ReceivedEvent { encoding, name, data, seq: None, key: None, algorithm: None, text: text.into(), bytes }
}

/// One connection of such a client, on one channel.
pub struct ResumingClient {
    pub browser: Browser,
    pub state: ResumeState,
    pub channel: String,
}

impl ResumingClient {
    /// Subscribes for the first time.
    pub async fn on(server: &Server, channel: &str, members: Value) -> ResumingClient {
        let browser = server.browser("key1").await;
        let mut client = ResumingClient { browser, state: ResumeState::default(), channel: channel.into() };
        assert!(!client.subscribe(members, json!(true)).await, "there is nothing to resume");
        client
    }

    /// Subscribes without requesting positions, as older clients do.
    pub async fn without_positions(server: &Server, channel: &str, members: Value) -> ResumingClient {
        let mut browser = server.browser("key1").await;
        browser.subscribe_with(channel, members).await;
        ResumingClient { browser, state: ResumeState::default(), channel: channel.into() }
    }

    /// Connects with the kept state, and sends no subscription yet.
    pub async fn connect(server: &Server, channel: &str, state: ResumeState) -> ResumingClient {
        ResumingClient { browser: server.browser("key1").await, state, channel: channel.into() }
    }

    /// Reconnects with the kept state. Returns whether it is resumed.
    pub async fn reconnect(
        server: &Server,
        channel: &str,
        members: Value,
        state: ResumeState,
        resume: Value,
    ) -> (ResumingClient, bool) {
        ResumingClient::connect(server, channel, state).await.resume(members, resume).await
    }

    /// The same on an existing connection.
    pub async fn resume(mut self, members: Value, resume: Value) -> (ResumingClient, bool) {
        let resumed = self.subscribe(members, resume).await;
        (self, resumed)
    }

    /// Subscribes on its connection.
    pub async fn subscribe(&mut self, members: Value, resume: Value) -> bool {
        self.request(members, resume).await;
        self.confirmation().await
    }

    /// Sends the subscription only.
    pub async fn request(&mut self, mut members: Value, resume: Value) {
        if !self.state.sockets.iter().any(|socket| socket == self.browser.socket_id()) {
            self.state.sockets.push(self.browser.socket_id().to_owned());
        }
        members["resume"] = resume;
        self.browser.request_subscription_with(&self.channel, members).await;
    }

    /// Waits for the confirmation. Returns whether the subscription is resumed.
    pub async fn confirmation(&mut self) -> bool {
        let succeeded = self.browser.confirmed(&self.channel).await;
        self.state.on_confirmation(&succeeded)
    }

    /// Drops the connection and returns the client's state.
    pub fn disconnect(self) -> ResumeState {
        self.state
    }

    pub async fn receive(&mut self) -> FrameKind {
        let frame = self.browser.next().await;
        self.state.on_frame(&frame)
    }

    /// The next event; positions and answers to an opt-in may come before it.
    pub async fn event(&mut self) -> ReceivedEvent {
        loop {
            match self.receive().await {
                FrameKind::Event(event) => return event,
                FrameKind::Position { missed: false } | FrameKind::Bases(_) => {}
                FrameKind::Other(frame) if frame.event == "pusher:delta_compression_enabled" => {}
                other => panic!("expected an event, got {other:?}"),
            }
        }
    }

    /// The next initial bases; answers to an opt-in may come before them.
    pub async fn sync(&mut self) -> usize {
        loop {
            match self.receive().await {
                FrameKind::Bases(bases) => return bases,
                FrameKind::Other(frame) if frame.event == "pusher:delta_compression_enabled" => {}
                other => panic!("expected bases, got {other:?}"),
            }
        }
    }

    /// The next events, which must be these. Returns how each was encoded.
    #[track_caller]
    pub fn events(&mut self, expected: &[String]) -> impl Future<Output = Vec<Encoding>> {
        let caller = std::panic::Location::caller();
        async move {
            let mut encoding = Vec::new();
            for expected in expected {
                let event = self.event().await;
                assert_eq!(&event.data, expected, "at {caller}");
                encoding.push(event.encoding);
            }
            encoding
        }
    }

    /// The next frame, which must be a position. Returns whether events were
    /// missed.
    pub async fn position(&mut self) -> bool {
        match self.receive().await {
            FrameKind::Position { missed } => missed,
            other => panic!("expected a position, got {other:?}"),
        }
    }
}
