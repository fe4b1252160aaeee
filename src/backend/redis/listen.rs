//! Listening to topics (design.md 4): each subscription is proved, repeated after a reconnect, and
//! monitored by a probe that this node publishes to itself.

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
use crate::capacity::Shrink;
use crate::channel::ChannelId;
use crate::entry::Entry;
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

#[derive(Debug)]
pub(super) struct Listener {
    requests: mpsc::Sender<Request>,
    probe: Arc<Probe>,
    /// Age of the last received probe at which the node is not ready.
    probe_age_max: Duration,
}

#[derive(Debug)]
enum Request {
    Listen(ChannelId, oneshot::Sender<()>),
    Unlisten(ChannelId),
    /// The client has reconnected.
    Renewed,
}

/// Monitors whether this node receives its own messages.
#[derive(Debug)]
struct Probe {
    topic: String,
    started: Instant,
    /// Time of the last received probe, in ms since `started`.
    received_at_ms: AtomicU64,
    /// Number of the last probe that was sent.
    sent: AtomicU64,
    /// Number of the last probe that was received, or that was sent before the probe topic was
    /// subscribed.
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
        Task::RedisMessages.spawn(receive(client.clone(), core.clone(), probe.clone()));
        Task::RedisReconnects.spawn(watch(client.clone(), requests.clone()));
        Task::RedisProbes.spawn(send_probes(client.clone(), core.clone(), probe.clone()));
        let probe_age_max = core.times.probe_interval + core.times.ready_grace;
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
        Task::RedisTopics.spawn(topics.run(queue));
        Listener { requests, probe, probe_age_max }
    }

    /// Resolves when the subscription to the topic is proved.
    pub(super) async fn listen(&self, channel_id: &ChannelId) -> Result<(), BackendError> {
        let (proved, proof) = oneshot::channel();
        let sent = self.requests.send(Request::Listen(channel_id.clone(), proved)).await;
        sent.map_err(|_| BackendError::Unavailable)?;
        proof.await.map_err(|_| BackendError::Unavailable)
    }

    /// Leaves the topic. A full queue drops the request: the next message on the topic has no
    /// receiver, and repeats it.
    pub(super) fn unlisten(&self, channel_id: &ChannelId) {
        let _ = self.requests.try_send(Request::Unlisten(channel_id.clone()));
    }

    pub(super) fn is_listening(&self) -> bool {
        self.probe.since_received() < self.probe_age_max
    }
}

/// The single task that subscribes and unsubscribes, in the order of the requests.
struct Topics {
    client: Client,
    core: Arc<RedisCore>,
    /// Its topic is subscribed first on every connection.
    probe: Arc<Probe>,
    /// Redis's id of the connection on which all topics except those in `again` are subscribed.
    /// Ids are unique, so equal ids before and after a SUBSCRIBE prove that this connection has
    /// carried it. Only a restarted Redis repeats ids, and then [`Request::Renewed`] arrives.
    connection: Option<u64>,
    topics: HashSet<String>,
    /// Topics to subscribe again on the current connection.
    again: VecDeque<String>,
    /// The connection is new: entries may have been lost during the reconnect.
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
            let (to_subscribe, to_unsubscribe) = self.apply(requests);
            if !to_unsubscribe.is_empty() {
                // If the connection is lost, so are its subscriptions.
                let _ = self.client.unsubscribe(to_unsubscribe).await;
            }
            let mut chunk = to_subscribe;
            let capacity = limits::SUBSCRIBE_TOPICS_MAX.saturating_sub(chunk.len());
            chunk.extend(self.again.drain(..capacity.min(self.again.len())));
            self.again.shrink_if_sparse();
            self.waiting.shrink_if_sparse();
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

    /// Applies the requests. Returns the topics to subscribe to and the topics to leave. A topic
    /// that is left and requested again in the same call stays subscribed.
    fn apply(&mut self, requests: Vec<Request>) -> (Vec<String>, Vec<String>) {
        let mut to_subscribe = Vec::new();
        let mut to_unsubscribe = Vec::new();
        for request in requests {
            match request {
                Request::Listen(channel_id, proved) => {
                    let topic = self.core.keys.log(&channel_id);
                    self.topics.insert(topic.clone());
                    self.waiting.entry(topic.clone()).or_default().push(proved);
                    to_subscribe.push(topic);
                }
                Request::Unlisten(channel_id) => {
                    let topic = self.core.keys.log(&channel_id);
                    self.topics.remove(&topic);
                    self.topics.shrink_if_sparse();
                    to_unsubscribe.push(topic);
                }
                Request::Renewed => self.connection = None,
            }
        }
        to_unsubscribe.retain(|topic| !self.topics.contains(topic));
        (to_subscribe, to_unsubscribe)
    }

    /// Subscribes and proves it. Returns false if the caller has to retry.
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
            // Another connection: it has none of the previous subscriptions, and possibly none of
            // this chunk.
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
                // The receiver is gone only if the channels actor has ended.
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

/// Receives messages and passes them on. Never waits for anything else, because Redis closes the
/// connection of a slow subscriber.
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

/// Publishes probes to this node's own topic. Only a probe that was sent and not received proves
/// a defect; the client then reconnects, even if its socket looks healthy.
async fn send_probes(client: Client, core: Arc<RedisCore>, probe: Arc<Probe>) {
    let mut overdue_since: Option<Instant> = None;
    for number in 1_u64.. {
        let sent_at = Instant::now();
        probe.sent.store(number, Ordering::Relaxed);
        let sender = core.clients[0].with_options(&scripts::once());
        let sent: Result<u64, _> = sender.publish(probe.topic.clone(), number.to_string()).await;
        tokio::time::sleep(core.times.probe_interval).await;
        if probe.received.load(Ordering::Relaxed) >= number {
            overdue_since = None;
        } else if sent.is_ok() && scripts::is_connected(&client) {
            overdue_since.get_or_insert(sent_at);
        }
        if overdue_since.is_some_and(|since| since.elapsed() >= core.times.probe_timeout) {
            overdue_since = None;
            metrics().probe_failures.increment(1);
            tracing::warn!("this node does not receive its own probe: reconnecting");
            // `watch` observes this reconnect like any other.
            let _ = client.force_reconnection().await;
        }
    }
}

impl Probe {
    fn on_received(&self, number: u64) {
        self.received.fetch_max(number, Ordering::Relaxed);
        self.received_at_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The probe topic is subscribed: probes that were sent before are not expected.
    fn arm(&self) {
        self.received.fetch_max(self.sent.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn since_received(&self) -> Duration {
        let received_at = Duration::from_millis(self.received_at_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(received_at)
    }
}
