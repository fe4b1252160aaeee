//! A subscriber: connects to any live node, subscribes and unsubscribes, and fails
//! the test on every frame that a client could not handle.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::payloads::FILTERS;
use super::request::RequestKind;
use super::subscription::{State, Subscription};
use super::world::{CHANNELS, World};
use crate::support::frame::Envelope;
use crate::support::websocket::{Received, WebSocket};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How a client requests deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deltas {
    No,
    /// With each subscription: the requested format. On a channel without a
    /// configured format it is the one used.
    Each(&'static str),
    /// With each subscription: the channel's default format.
    Default,
    /// Once per connection, before or after it subscribes.
    Once(&'static str),
}

/// The subscriptions of one client, in the order of [`CHANNELS`].
pub type Subscriptions = Arc<Mutex<Vec<Subscription>>>;

pub struct Client {
    number: usize,
    world: Arc<World>,
    rng: StdRng,
    subscriptions: Subscriptions,
    deltas: Deltas,
    prefix: &'static str,
    socket_id: String,
}

impl Client {
    pub fn new(number: usize, world: Arc<World>, mut rng: StdRng) -> (Client, Subscriptions) {
        let all = [
            Deltas::No,
            Deltas::Each("fossil"),
            Deltas::Each("xdelta3"),
            Deltas::Default,
            Deltas::Once("fossil"),
            Deltas::Once("xdelta3"),
        ];
        let resumes = !number.is_multiple_of(3);
        let mut subscriptions: Vec<Subscription> =
            (0..CHANNELS.len()).map(|channel| Subscription::new(channel, resumes)).collect();
        for _ in 0..rng.random_range(1..4) {
            let chosen = rng.random_range(0..subscriptions.len());
            subscriptions[chosen].state = State::Pending;
        }
        for subscription in &mut subscriptions {
            subscription.filter = random_filter(&mut rng);
        }
        let subscriptions = Arc::new(Mutex::new(subscriptions));
        let client = Client {
            number,
            world,
            deltas: all[number % all.len()],
            prefix: if rng.random_bool(0.3) { "sockudo" } else { "pusher" },
            rng,
            subscriptions: subscriptions.clone(),
            socket_id: String::new(),
        };
        (client, subscriptions)
    }

    /// Runs until the task is aborted.
    pub async fn run(mut self) {
        loop {
            if let Some(mut socket) = self.connect().await {
                self.world.totals.add("connections");
                let end = self.run_connection(&mut socket).await;
                if let Err(why) = end {
                    self.world.fail(format!("client {} ({:?}): {why}", self.number, self.deltas));
                }
                self.socket_id.clear();
                self.world.sockets.lock()[self.number].clear();
                for subscription in self.subscriptions.lock().iter_mut() {
                    subscription.suspend();
                }
            }
            let longest = if self.world.is_calm() { 50 } else { 1_000 };
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..longest))).await;
        }
    }

    async fn connect(&mut self) -> Option<WebSocket> {
        let nodes = self.world.live_nodes();
        let node = *nodes.get(self.rng.random_range(0..nodes.len().max(1)))?;
        let protocol = if self.prefix == "sockudo" { 2 } else { 7 };
        let path = format!("/app/key1?protocol={protocol}&client=js&version=8.6.0");
        let opened = timeout(CONNECT_TIMEOUT, WebSocket::try_connect(node, &path, &[])).await;
        let mut socket = opened.ok()?.ok()?;
        let Ok(Received::Text(greeting)) = timeout(CONNECT_TIMEOUT, socket.next()).await else { return None };
        let data: Value = serde_json::from_str(&Envelope::parse(&greeting).ok()?.published()).ok()?;
        self.socket_id = data["socket_id"].as_str()?.to_owned();
        self.world.sockets.lock()[self.number].clone_from(&self.socket_id);
        Some(socket)
    }

    /// Runs until the connection ends; an error is a defect of the server.
    async fn run_connection(&mut self, socket: &mut WebSocket) -> Result<(), String> {
        let is_late = matches!(self.deltas, Deltas::Once(_)) && self.rng.random_bool(0.3);
        let mut frames = Vec::new();
        if !is_late {
            frames.extend(self.opt_in());
        }
        let is_on = |it: &&mut Subscription| it.state != State::Unsubscribed;
        for subscription in self.subscriptions.clone().lock().iter_mut().filter(is_on) {
            if is_late {
                subscription.opt_out();
            }
            let kind = match self.rng.random_range(0..20) {
                0 => RequestKind::Fresh,
                1 => RequestKind::ResumeInvalid,
                2 => RequestKind::ResumeWithoutBases,
                3 => RequestKind::ResumeEarlier,
                _ => RequestKind::Resume,
            };
            frames.push(self.subscribe(subscription, kind));
        }
        if is_late {
            frames.extend(self.opt_in());
        }
        loop {
            for frame in frames.drain(..) {
                if socket.send(Message::text(frame.to_string())).await.is_err() {
                    return Ok(());
                }
            }
            let pause = Duration::from_millis(self.rng.random_range(50..1_000));
            let reading = async {
                loop {
                    match socket.next().await {
                        Received::Text(text) => self.read(&text)?,
                        Received::Pong(_) => {}
                        Received::Closed { .. } | Received::Lost(_) => return Ok::<(), String>(()),
                    }
                }
            };
            match timeout(pause, reading).await {
                Ok(end) => return end,
                Err(_) if self.world.is_calm() => {}
                Err(_) => match self.rng.random_range(0..10) {
                    0 => return Ok(()),
                    _ => frames = self.random_action(),
                },
            }
        }
    }

    /// The opt-in for all channels, if this client opts in once per connection.
    fn opt_in(&mut self) -> Option<Value> {
        let Deltas::Once(algorithm) = self.deltas else { return None };
        for subscription in self.subscriptions.lock().iter_mut() {
            subscription.algorithm = Some(algorithm);
        }
        Some(json!({
            "event": format!("{}:enable_delta_compression", self.prefix),
            "data": { "algorithms": [algorithm] },
        }))
    }

    fn subscribe(&self, subscription: &mut Subscription, kind: RequestKind) -> Value {
        let delta: Option<Value> = match self.deltas {
            Deltas::No | Deltas::Once(_) => None,
            Deltas::Each(algorithm) => {
                subscription.algorithm = Some(algorithm);
                Some(algorithm.into())
            }
            Deltas::Default => {
                let is_vcdiff = subscription.name().starts_with("vcdiff");
                subscription.algorithm = Some(if is_vcdiff { "xdelta3" } else { "fossil" });
                Some(true.into())
            }
        };
        let mut data = subscription.subscribe_request(&self.world, kind, &self.socket_id);
        if let Some(delta) = delta {
            data["delta"] = delta;
        }
        json!({ "event": format!("{}:subscribe", self.prefix), "data": data })
    }

    /// A random action with one of the channels.
    fn random_action(&mut self) -> Vec<Value> {
        let subscriptions = self.subscriptions.clone();
        let mut subscriptions = subscriptions.lock();
        let chosen = self.rng.random_range(0..subscriptions.len());
        let count = subscriptions.iter().filter(|it| it.state != State::Unsubscribed).count();
        let subscription = &mut subscriptions[chosen];
        let channel_frame = |event: &str| json!({ "event": format!("{}:{event}", self.prefix), "data": { "channel": subscription.name() } });
        match subscription.state {
            _ if subscription.is_awaiting => vec![],
            State::Pending => vec![],
            State::Unsubscribed if count > 4 => vec![],
            State::Unsubscribed => {
                subscription.filter = random_filter(&mut self.rng);
                vec![self.subscribe(subscription, RequestKind::Fresh)]
            }
            State::Subscribed => match self.rng.random_range(0..8) {
                0 | 1 => {
                    let frame = channel_frame("unsubscribe");
                    subscription.unsubscribe();
                    vec![frame]
                }
                2 => vec![channel_frame("delta_sync_error"); 5],
                3 => vec![self.subscribe(subscription, RequestKind::ResumeWithoutBases)],
                4 => vec![self.subscribe(subscription, RequestKind::ResumeEarlier)],
                5 => vec![self.subscribe(subscription, RequestKind::ResumeInvalid)],
                _ => vec![self.subscribe(subscription, RequestKind::Resume)],
            },
        }
    }

    fn read(&self, text: &str) -> Result<(), String> {
        let envelope = Envelope::parse(text)?;
        let (prefix, event) = match envelope.event.split_once(':') {
            Some((prefix, event)) if prefix.starts_with(self.prefix) => (&prefix[self.prefix.len()..], event),
            _ => ("none", &*envelope.event),
        };
        let Some(channel) = envelope.channel.as_deref() else {
            let is_fine = matches!((prefix, event), ("", "ping" | "pong" | "delta_compression_enabled"));
            return if is_fine { Ok(()) } else { Err(format!("a frame without a channel: {text}")) };
        };
        let number = CHANNELS.iter().position(|(name, _)| *name == channel).ok_or("another channel")?;
        let mut subscriptions = self.subscriptions.lock();
        let subscription = &mut subscriptions[number];
        subscription.note(text);
        let data = || envelope.published();
        match (prefix, event) {
            ("_internal", "subscription_succeeded") => subscription.succeeded(&self.world, &data()),
            ("_internal", "subscription_count") | ("", "delta_compression_enabled") => Ok(()),
            ("", "position") => subscription.position_frame(&self.world, &data()),
            ("", "delta_cache_sync") => subscription.synced(&self.world, &data()),
            ("", "delta") => subscription.delta(&self.world, &envelope),
            ("none", _) => subscription.event(&self.world, text, &envelope),
            _ => Err(format!("unexpected frame: {text}")),
        }
        .map_err(|why| {
            format!("{channel}, resumes {}: {why}; {:#?}", subscription.resumes, subscription.trace)
        })
    }
}

/// A random filter; in half of the cases none.
fn random_filter(rng: &mut StdRng) -> usize {
    if rng.random_bool(0.5) { 0 } else { rng.random_range(0..FILTERS) }
}
