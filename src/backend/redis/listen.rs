//! Listening to topics (design.md 4): proved, not assumed; made good after a
//! reconnect; and proved again and again by a probe that this node sends itself.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fred::interfaces::{ClientInterface, ClientLike, EventInterface, PubsubInterface};
use fred::prelude::Client;
use fred::types::Message;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{mpsc, oneshot};

use super::{RedisCore, scripts};
use crate::backend::BackendError;
use crate::backend_events::Incoming;
use crate::channel::ChannelId;
use crate::entry::Entry;
use crate::limits;
use crate::metrics::metrics;

#[derive(Debug)]
pub(super) struct Listener {
    requests: mpsc::Sender<Request>,
    probe: Arc<Probe>,
}

#[derive(Debug)]
enum Request {
    Listen(ChannelId, oneshot::Sender<()>),
    Unlisten(ChannelId),
    /// The connection was made anew.
    Renewed,
}

/// Whether this node hears what it says.
#[derive(Debug)]
struct Probe {
    topic: String,
    started: Instant,
    /// When a probe was last heard, in ms since `started`.
    received_at_ms: AtomicU64,
    /// Number of the last probe that was sent.
    sent: AtomicU64,
    /// Number of the last that was heard, or could not be: its topic was proved
    /// to be listened to only after it.
    received: AtomicU64,
}

impl Listener {
    pub(super) fn start(core: Arc<RedisCore>, client: Client) -> Listener {
        let (requests, queue) = mpsc::channel(limits::LISTEN_REQUESTS_MAX);
        let probe = Arc::new(Probe {
            topic: core.keys.probe(&format!("{:016x}", rand::random::<u64>())),
            started: Instant::now(),
            received_at_ms: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        });
        tokio::spawn(receive(client.clone(), core.clone(), probe.clone()));
        tokio::spawn(watch(client.clone(), requests.clone()));
        tokio::spawn(send_probes(client.clone(), core.clone(), probe.clone()));
        let topics = Topics {
            client,
            core,
            probe: probe.clone(),
            connection: None,
            topics: HashSet::new(),
            again: VecDeque::new(),
            renewing: false,
            waiting: HashMap::new(),
        };
        tokio::spawn(topics.run(queue));
        Listener { requests, probe }
    }

    /// Resolves when a barrier has proved that the topic is listened to.
    pub(super) async fn listen(&self, channel_id: &ChannelId) -> Result<(), BackendError> {
        let (proved, proof) = oneshot::channel();
        let sent = self.requests.send(Request::Listen(channel_id.clone(), proved)).await;
        sent.map_err(|_| BackendError::Unavailable)?;
        proof.await.map_err(|_| BackendError::Unavailable)
    }

    /// A full queue lets it pass: what is heard for nobody is let go, and asks
    /// for this again.
    pub(super) fn unlisten(&self, channel_id: &ChannelId) {
        let _ = self.requests.try_send(Request::Unlisten(channel_id.clone()));
    }

    pub(super) fn is_listening(&self) -> bool {
        self.probe.since_received() < limits::PROBE_INTERVAL + limits::READY_GRACE
    }
}

/// The one task that subscribes and unsubscribes, in the order it was asked to.
struct Topics {
    client: Client,
    core: Arc<RedisCore>,
    /// Its topic is subscribed first on every connection.
    probe: Arc<Probe>,
    /// WebhookEventKind Redis calls the connection on which all topics but those in `again`
    /// are subscribed. It calls no other the same, so an equal answer before and
    /// after a SUBSCRIBE proves that it was carried by this connection; only a
    /// Redis that was restarted counts anew, and then [`Request::Renewed`] comes.
    connection: Option<u64>,
    topics: HashSet<String>,
    /// To be subscribed on the connection that there is now.
    again: VecDeque<String>,
    /// The connection is new: what was announced meanwhile may have been missed.
    renewing: bool,
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
}

impl Topics {
    async fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        self.again.push_back(self.probe.topic.clone());
        loop {
            let requests = self.next_requests(&mut queue).await;
            if requests.is_empty() && queue.is_closed() {
                return;
            }
            let (wanted, unwanted) = self.sort(requests);
            if !unwanted.is_empty() {
                // Lost with its connection, it would have been done anyway.
                let _ = self.client.unsubscribe(unwanted).await;
            }
            let mut chunk = wanted;
            let room = limits::SUBSCRIBE_TOPICS_MAX.saturating_sub(chunk.len());
            chunk.extend(self.again.drain(..room.min(self.again.len())));
            chunk.retain(|topic| self.topics.contains(topic) || *topic == self.probe.topic);
            if !self.subscribe(chunk).await {
                tokio::time::sleep(limits::RETRY_DELAY).await;
            }
        }
    }

    /// Waits for requests, unless there are topics to be subscribed again.
    async fn next_requests(&mut self, queue: &mut mpsc::Receiver<Request>) -> Vec<Request> {
        let mut requests = Vec::new();
        if self.again.is_empty() && self.connection.is_some() {
            queue.recv_many(&mut requests, limits::SUBSCRIBE_TOPICS_MAX).await;
        } else {
            while let Ok(request) = queue.try_recv() {
                requests.push(request);
                if requests.len() == limits::SUBSCRIBE_TOPICS_MAX {
                    break;
                }
            }
        }
        requests
    }

    /// Topics to subscribe to and to leave. One that is left and wanted again in
    /// one breath is simply kept.
    fn sort(&mut self, requests: Vec<Request>) -> (Vec<String>, Vec<String>) {
        let mut wanted = Vec::new();
        let mut unwanted = Vec::new();
        for request in requests {
            match request {
                Request::Listen(channel_id, proved) => {
                    let topic = self.core.keys.log(&channel_id);
                    self.topics.insert(topic.clone());
                    self.waiting.entry(topic.clone()).or_default().push(proved);
                    wanted.push(topic);
                }
                Request::Unlisten(channel_id) => {
                    let topic = self.core.keys.log(&channel_id);
                    self.topics.remove(&topic);
                    unwanted.push(topic);
                }
                Request::Renewed => self.connection = None,
            }
        }
        unwanted.retain(|topic| !self.topics.contains(topic));
        (wanted, unwanted)
    }

    /// Subscribes and proves it. False if that has to be tried again.
    async fn subscribe(&mut self, chunk: Vec<String>) -> bool {
        let sent = chunk.is_empty() || self.client.subscribe(chunk.clone()).await.is_ok();
        let connection = match sent {
            true => self.client.with_options(&scripts::once()).client_id::<u64>().await.ok(),
            false => None,
        };
        let Some(connection) = connection else {
            self.again.extend(chunk);
            return false;
        };
        if self.connection.replace(connection) != Some(connection) {
            // Another connection: nothing of before is subscribed on it, and of
            // this chunk nobody knows.
            tracing::debug!(topics = self.topics.len(), "subscribing on a new connection");
            self.again = [&self.probe.topic].into_iter().chain(&self.topics).cloned().collect();
            self.renewing = true;
            return true;
        }
        for topic in chunk {
            if topic == self.probe.topic {
                self.probe.arm();
            }
            for proved in self.waiting.remove(&topic).unwrap_or_default() {
                // The inbox has gone: nobody to tell.
                let _ = proved.send(());
            }
        }
        if self.again.is_empty() && std::mem::take(&mut self.renewing) {
            self.core.events.check_heads();
            self.core.events.report_memberships();
        }
        true
    }
}

/// Reads what is announced, and hands it on: never waits for anything else, for
/// Redis cuts a subscriber that is slow.
async fn receive(client: Client, core: Arc<RedisCore>, probe: Arc<Probe>) {
    let mut messages = client.message_rx();
    loop {
        match messages.recv().await {
            Ok(message) => on_message(message, &core, &probe),
            Err(RecvError::Lagged(count)) => {
                metrics().backend_events_dropped.increment(count);
                core.events.check_heads();
            }
            Err(RecvError::Closed) => return,
        }
    }
}

fn on_message(message: Message, core: &RedisCore, probe: &Probe) {
    let topic: &str = &message.channel;
    if let Some(channel_id) = core.keys.channel_id(topic) {
        match Entry::decode(message.value.into_bytes().unwrap_or_default()) {
            Ok(entry) => {
                core.seen_seq.fetch_max(entry.position().seq, Ordering::Relaxed);
                core.events.push(Incoming { channel_id, entry });
            }
            Err(error) => {
                metrics().entries_unreadable.increment(1);
                tracing::warn!(%channel_id, %error, "entry not read");
            }
        }
    } else if topic == probe.topic {
        probe.on_received(message.value.as_u64().unwrap_or(0));
    }
}

async fn watch(client: Client, requests: mpsc::Sender<Request>) {
    let mut reconnects = client.reconnect_rx();
    while !matches!(reconnects.recv().await, Err(RecvError::Closed)) {
        metrics().redis_reconnects.increment(1);
        if requests.send(Request::Renewed).await.is_err() {
            return;
        }
    }
}

/// Says something to itself, and expects to hear it. Only probes that were sent
/// and not heard prove anything: then the connection is made anew, however
/// healthy its socket looks.
async fn send_probes(client: Client, core: Arc<RedisCore>, probe: Arc<Probe>) {
    let mut overdue_since: Option<Instant> = None;
    for number in 1_u64.. {
        let sent_at = Instant::now();
        probe.sent.store(number, Ordering::Relaxed);
        let sender = core.clients[0].with_options(&scripts::once());
        let sent: Result<u64, _> = sender.publish(probe.topic.clone(), number.to_string()).await;
        tokio::time::sleep(limits::PROBE_INTERVAL).await;
        if probe.received.load(Ordering::Relaxed) >= number {
            overdue_since = None;
        } else if sent.is_ok() && scripts::is_connected(&client) {
            overdue_since.get_or_insert(sent_at);
        }
        if overdue_since.is_some_and(|since| since.elapsed() >= limits::PROBE_TIMEOUT) {
            overdue_since = None;
            metrics().probe_failures.increment(1);
            tracing::warn!("this node does not hear its own probe: connecting anew");
            // Its end is seen by `watch`, like that of any other reconnect.
            let _ = client.force_reconnection().await;
        }
    }
}

impl Probe {
    fn on_received(&self, number: u64) {
        self.received.fetch_max(number, Ordering::Relaxed);
        self.received_at_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Its topic is listened to: what was sent before proves nothing.
    fn arm(&self) {
        self.received.fetch_max(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn since_received(&self) -> Duration {
        let heard_at = Duration::from_millis(self.received_at_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(heard_at)
    }
}
