//! A subscriber: connects to whichever node is there, comes and goes, and webhook_events
//! whatever a client would stumble over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::ask::How;
use super::frames::Envelope;
use super::payloads::FILTERS;
use super::subscription::{State, Subscription};
use super::world::{CHANNELS, World};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client says about deltas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deltas {
    No,
    /// With each subscription: the value, and what it means where nothing else is
    /// preferred.
    Each(&'static str),
    /// As the channel has it.
    Default,
    /// Once per connection, before or after it subscribes.
    Once(&'static str),
}

/// Of one client: in the order of [`CHANNELS`].
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

type Socket = WebSocketStream<TcpStream>;

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
            subscriptions[chosen].state = State::Asked;
        }
        for subscription in &mut subscriptions {
            subscription.filter = some_filter(&mut rng);
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

    /// Never ends by itself.
    pub async fn run(mut self) {
        loop {
            if let Some(mut socket) = self.connect().await {
                self.world.totals.add("connections");
                let end = self.talk(&mut socket).await;
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

    async fn connect(&mut self) -> Option<Socket> {
        let nodes = self.world.live_nodes();
        let node = *nodes.get(self.rng.random_range(0..nodes.len().max(1)))?;
        let protocol = if self.prefix == "sockudo" { 2 } else { 7 };
        let mut socket = timeout(CONNECT_TIMEOUT, open(node, protocol)).await.ok()??;
        let greeting = timeout(CONNECT_TIMEOUT, socket.next()).await.ok()??.ok()?;
        let greeting: Value = serde_json::from_str(greeting.to_text().ok()?).ok()?;
        let data: Value = serde_json::from_str(greeting["data"].as_str()?).ok()?;
        self.socket_id = data["socket_id"].as_str()?.to_owned();
        self.world.sockets.lock()[self.number].clone_from(&self.socket_id);
        Some(socket)
    }

    /// Until the connection ends; an error is a mistake of the server.
    async fn talk(&mut self, socket: &mut Socket) -> Result<(), String> {
        let is_late = matches!(self.deltas, Deltas::Once(_)) && self.rng.random_bool(0.3);
        let mut frames = Vec::new();
        if !is_late {
            frames.extend(self.opt_in());
        }
        let is_on = |it: &&mut Subscription| it.state != State::Out;
        for subscription in self.subscriptions.clone().lock().iter_mut().filter(is_on) {
            if is_late {
                subscription.opt_out();
            }
            let how = match self.rng.random_range(0..20) {
                0 => How::Fresh,
                1 => How::Wrong,
                2 => How::Forgetful,
                3 => How::Back,
                _ => How::Resume,
            };
            frames.push(self.subscribe(subscription, how));
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
                        Some(Ok(Message::Text(text))) => self.read(&text)?,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok::<(), String>(()),
                        Some(Ok(_)) => {}
                    }
                }
            };
            match timeout(pause, reading).await {
                Ok(end) => return end,
                Err(_) if self.world.is_calm() => {}
                Err(_) => match self.rng.random_range(0..10) {
                    0 => return Ok(()),
                    _ => frames = self.act(),
                },
            }
        }
    }

    /// The opt-in for all channels, if that is how this client does it.
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

    fn subscribe(&self, subscription: &mut Subscription, how: How) -> Value {
        let said: Option<Value> = match self.deltas {
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
        let mut data = subscription.ask(&self.world, how, &self.socket_id);
        if let Some(said) = said {
            data["delta"] = said;
        }
        json!({ "event": format!("{}:subscribe", self.prefix), "data": data })
    }

    /// Something that clients do, with one of its channels.
    fn act(&mut self) -> Vec<Value> {
        let subscriptions = self.subscriptions.clone();
        let mut subscriptions = subscriptions.lock();
        let chosen = self.rng.random_range(0..subscriptions.len());
        let count = subscriptions.iter().filter(|it| it.state != State::Out).count();
        let subscription = &mut subscriptions[chosen];
        let say = |event: &str| json!({ "event": format!("{}:{event}", self.prefix), "data": { "channel": subscription.name() } });
        match subscription.state {
            _ if subscription.is_awaiting => vec![],
            State::Asked => vec![],
            State::Out if count > 4 => vec![],
            State::Out => {
                subscription.filter = some_filter(&mut self.rng);
                vec![self.subscribe(subscription, How::Fresh)]
            }
            State::In => match self.rng.random_range(0..8) {
                0 | 1 => {
                    let frame = say("unsubscribe");
                    subscription.leave();
                    vec![frame]
                }
                2 => vec![say("delta_sync_error"); 5],
                3 => vec![self.subscribe(subscription, How::Forgetful)],
                4 => vec![self.subscribe(subscription, How::Back)],
                5 => vec![self.subscribe(subscription, How::Wrong)],
                _ => vec![self.subscribe(subscription, How::Resume)],
            },
        }
    }

    fn read(&self, text: &str) -> Result<(), String> {
        let envelope = Envelope::read(text)?;
        let (prefix, event) = match envelope.event.split_once(':') {
            Some((prefix, event)) if prefix.starts_with(self.prefix) => (&prefix[self.prefix.len()..], event),
            _ => ("none", &*envelope.event),
        };
        let Some(channel) = envelope.channel.as_deref() else {
            let is_fine =
                matches!((prefix, event), ("", "ping" | "pong" | "delta_compression_enabled" | "error"));
            return if is_fine { Ok(()) } else { Err(format!("a frame without a channel: {text}")) };
        };
        let number = CHANNELS.iter().position(|(name, _)| *name == channel).ok_or("another channel")?;
        let mut subscriptions = self.subscriptions.lock();
        let subscription = &mut subscriptions[number];
        subscription.note(text);
        let data = || envelope.published().unwrap_or_default();
        match (prefix, event) {
            ("_internal", "subscription_succeeded") => subscription.succeeded(&self.world, &data()),
            ("_internal", "subscription_count") | ("", "delta_compression_enabled") => Ok(()),
            ("", "position") => subscription.moved(&self.world, &data()),
            ("", "delta_cache_sync") => subscription.synced(&self.world, &data()),
            ("", "delta") => subscription.delta(&self.world, &envelope),
            ("none", _) => subscription.event(&self.world, text, &envelope),
            _ => Err(format!("not expected: {text}")),
        }
        .map_err(|why| {
            format!("{channel}, resumes {}: {why}; {:#?}", subscription.resumes, subscription.trace)
        })
    }
}

/// Often none.
fn some_filter(rng: &mut StdRng) -> usize {
    if rng.random_bool(0.5) { 0 } else { rng.random_range(0..FILTERS) }
}

async fn open(node: SocketAddr, protocol: u8) -> Option<Socket> {
    let stream = TcpStream::connect(node).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let path = format!("ws://{node}/app/key1?protocol={protocol}&client=js&version=8.6.0");
    let request = path.into_client_request().ok()?;
    Some(tokio_tungstenite::client_async(request, stream).await.ok()?.0)
}
