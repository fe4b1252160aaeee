//! The state that nodes share, in Redis (design.md 3 to 5): scripts number and
//! announce, topics carry, leases tell who lives.

mod keys;
mod lease;
mod listen;
mod scripts;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fred::interfaces::{ClientLike, EventInterface, HashesInterface, KeysInterface};
use fred::prelude::{
    Builder, Client, ConnectionConfig, Error, ErrorKind, PerformanceConfig, ReconnectPolicy, Value,
};
use fred::types::config::{Config, TcpConfig, UnresponsiveConfig};
use fred::types::{InfoKind, RespVersion};
use futures_util::future::try_join_all;
use thiserror::Error;

use super::{Asserted, BackendError, Publication};
use crate::channel::Address;
use crate::event::{Announcement, AnnouncementId, Log, Position};
use crate::limits;
use crate::mailbox::Mailbox;
use crate::metrics::metrics;

use keys::Keys;
use lease::Lease;
use listen::Listener;
use scripts::{Scripts, backend_error, bytes, number};

/// The version of what is in Redis. A node refuses to start on any other.
const SCHEMA: u64 = 1;

/// Why Redis cannot be used. Said at start-up, where someone can do something.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("the URL is not understood: {0}")]
    Url(Error),
    #[error("no connection within {} s: {error}", limits::REDIS_START_TIMEOUT.as_secs())]
    Unreachable { error: Error },
    #[error("its answer to {command} was not understood: {error}")]
    Answer { command: &'static str, error: BackendError },
    #[error(
        "it holds data of schema {found}, and this version knows schema {SCHEMA}; use another `redis_prefix`"
    )]
    Schema { found: u64 },
    #[error("its maxmemory-policy is {policy:?}: it would evict channels; set it to `noeviction`")]
    Evicts { policy: String },
}

#[derive(Debug)]
pub struct Redis {
    parts: Arc<Parts>,
    listener: Listener,
    lease: Arc<Lease>,
}

/// What scripts need.
#[derive(Debug)]
struct Parts {
    keys: Keys,
    scripts: Scripts,
    /// A channel's scripts all use the one that its address chooses, so that they
    /// cannot overtake each other.
    clients: Vec<Client>,
    mailbox: Mailbox,
    /// The highest number of any channel: where a new epoch may start.
    seen_seq: AtomicU64,
}

impl Redis {
    /// Connects, checks that this Redis can be used, begins a lease and starts to
    /// listen.
    pub async fn connect(url: &str, prefix: &str, mailbox: Mailbox) -> Result<Redis, ConnectError> {
        let config = Config::from_url(url).map_err(ConnectError::Url)?;
        let config = Config { version: RespVersion::RESP3, fail_fast: false, ..config };
        let clients = (0..limits::REDIS_CONNECTIONS).map(|_| build(config.clone(), limits::REDIS_EVENTS_MAX));
        let clients = clients.collect::<Result<Vec<Client>, _>>().map_err(ConnectError::Url)?;
        let subscriber = build(config, limits::REDIS_MESSAGES_MAX).map_err(ConnectError::Url)?;
        for client in clients.iter().chain([&subscriber]) {
            init(client).await?;
        }
        let parts = Arc::new(Parts {
            keys: Keys::new(prefix),
            scripts: Scripts::new(),
            clients,
            mailbox,
            seen_seq: AtomicU64::new(0),
        });
        parts.check_eviction().await?;
        parts.check_schema().await?;
        let lease = Lease::begin(parts.clone())
            .await
            .map_err(|error| ConnectError::Answer { command: "renew_node", error })?;
        let listener = Listener::start(parts.clone(), subscriber);
        for client in &parts.clients {
            tokio::spawn(watch_reconnects(client.clone(), parts.clone()));
        }
        Ok(Redis { parts, listener, lease })
    }

    /// `lua/publish_batch.lua`, resent under its operation id where no answer has
    /// come, until [`limits::SCRIPT_DEADLINE`].
    pub async fn publish_batch(
        &self,
        id: AnnouncementId,
        publications: Vec<Publication>,
    ) -> Result<Vec<Option<u64>>, BackendError> {
        let client = self.parts.client(&publications[0].address);
        let keys = self.parts.publish_keys(&publications);
        let started = Instant::now();
        let mut sent_ago = None;
        let answer = loop {
            let arguments = self.parts.publish_arguments(id, sent_ago, &publications);
            let left = limits::SCRIPT_DEADLINE.saturating_sub(started.elapsed());
            let script = &self.parts.scripts.publish_batch;
            match script
                .run_within(left.min(limits::SCRIPT_ATTEMPT_TIMEOUT), client, keys.clone(), arguments)
                .await
            {
                Ok(answer) => break answer,
                // The first attempt failed before anything was sent.
                Err(BackendError::Unavailable) if sent_ago.is_none() => {
                    return Err(BackendError::Unavailable);
                }
                Err(BackendError::Unavailable | BackendError::OutcomeUnknown) => {}
                Err(error) => return Err(error),
            }
            if !is_connected_again(client, started + limits::SCRIPT_DEADLINE).await {
                return Err(BackendError::OutcomeUnknown);
            }
            metrics().redis_resends.increment(1);
            sent_ago = Some(started.elapsed());
        };
        let counts: Vec<i64> = answer.convert().map_err(backend_error)?;
        Ok(counts.into_iter().map(|count| u64::try_from(count).ok()).collect())
    }

    pub async fn listen(&self, address: &Address) -> Result<(), BackendError> {
        self.listener.listen(address).await
    }

    pub fn unlisten(&self, address: &Address) {
        self.listener.unlisten(address);
    }

    /// `lua/assert_subscriptions.lua` for this node.
    pub async fn assert_subscriptions(
        &self,
        address: &Address,
        count: u64,
    ) -> Result<Asserted, BackendError> {
        // Under a lease that may have been swept, a membership could be written
        // that nobody would ever take away.
        let node = self.lease.incarnation().ok_or(BackendError::Unavailable)?;
        self.parts.assert_subscriptions(address, &node, count).await
    }

    pub async fn count_subscriptions(&self, address: &Address) -> Result<u64, BackendError> {
        let client = self.parts.client(address).with_options(&scripts::once());
        let total: Option<u64> =
            client.hget(self.parts.keys.subs(address), "total").await.map_err(read_error)?;
        Ok(total.unwrap_or(0))
    }

    /// `lua/read_log.lua`
    pub async fn read_log(&self, address: &Address, after: AnnouncementId) -> Result<Log, BackendError> {
        let keys = vec![self.parts.keys.head(address), self.parts.keys.log(address)];
        let arguments = vec![bytes(after.as_bytes().to_vec())];
        let answer = self.parts.scripts.read_log.run(self.parts.client(address), keys, arguments).await?;
        let mut values = answer.into_array();
        let announcements = values.split_off(values.len().min(4)).into_iter();
        let announcements =
            announcements.filter_map(|value| Announcement::decode(value.into_bytes()?).ok()).collect();
        Ok(Log { head: position(values), announcements })
    }

    /// Pipelined: one read for each channel, on the connection of the first.
    pub async fn read_heads(&self, addresses: &[Address]) -> Result<Vec<Option<Position>>, BackendError> {
        let Some(first) = addresses.first() else { return Ok(Vec::new()) };
        let client = self.parts.client(first).with_options(&scripts::once());
        let reads = addresses.iter().map(|address| {
            let client = &client;
            async move {
                let fields = vec!["epoch", "seq", "id", "time"];
                let head: Value = client.hmget(self.parts.keys.head(address), fields).await?;
                Ok(position(head.into_array()))
            }
        });
        try_join_all(reads).await.map_err(read_error)
    }

    /// `lua/open_epoch.lua`
    pub async fn open_epoch(&self, address: &Address, epoch: u64, seen_seq: u64) -> Result<(), BackendError> {
        let keys = vec![self.parts.keys.head(address)];
        let arguments = vec![number(epoch), number(seen_seq)];
        self.parts.scripts.open_epoch.run(self.parts.client(address), keys, arguments).await.map(drop)
    }

    /// What keeps this node from hearing others, or others from hearing it.
    pub fn unready(&self) -> Option<&'static str> {
        if self.listener.hears() {
            return None;
        }
        match self.parts.clients.iter().all(scripts::is_connected) {
            true => Some("this node does not hear its own probe through Redis"),
            false => Some("Redis is away"),
        }
    }

    pub async fn leave(&self) {
        self.lease.end().await;
    }
}

impl Parts {
    fn client(&self, address: &Address) -> &Client {
        &self.clients[address.slice(self.clients.len())]
    }

    fn publish_keys(&self, publications: &[Publication]) -> Vec<String> {
        let channels = publications.iter().map(|publication| &publication.address);
        channels.flat_map(|a| [self.keys.head(a), self.keys.log(a), self.keys.subs(a)]).collect()
    }

    fn publish_arguments(
        &self,
        id: AnnouncementId,
        sent_ago: Option<Duration>,
        publications: &[Publication],
    ) -> Vec<Value> {
        // A second more: clocks are read at different moments.
        let sent_ago_ms = sent_ago.map(|ago| (ago.as_millis() + 1_000).to_string()).unwrap_or_default();
        let mut arguments = Vec::with_capacity(7 + 4 * publications.len());
        arguments.extend([
            bytes(id.as_bytes().to_vec()),
            Value::String(sent_ago_ms.into()),
            number(self.seen_seq.load(Ordering::Relaxed)),
            number(limits::LOG_ANNOUNCEMENTS_MAX as u64),
            number(limits::LOG_BYTES_MAX as u64),
            number(limits::LOG_AGE_MAX.as_millis() as u64),
            number(limits::HEAD_IDLE_MAX.as_millis() as u64),
        ]);
        for publication in publications {
            arguments.extend([
                Value::String(self.keys.topic(&publication.address).into()),
                number(u64::from(publication.count)),
                number(u64::from(publication.wants_count)),
                bytes(publication.body.clone()),
            ]);
        }
        arguments
    }

    /// For this node, or with 0 to sweep another.
    async fn assert_subscriptions(
        &self,
        address: &Address,
        node: &str,
        count: u64,
    ) -> Result<Asserted, BackendError> {
        let keys = vec![
            self.keys.head(address),
            self.keys.subs(address),
            self.keys.channels(address.partition(), node),
        ];
        let arguments =
            vec![Value::String(node.into()), number(count), Value::String(address.as_str().into())];
        let answer = self.scripts.assert_subscriptions.run(self.client(address), keys, arguments).await?;
        let mut values = answer.into_array();
        let total = values.pop().and_then(|value| value.as_u64()).unwrap_or(0);
        Ok(Asserted { at: position(values).unwrap_or_default(), total })
    }

    /// Evicted channels would lose their history and their members. Where Redis
    /// does not say its policy, the operator has to know.
    async fn check_eviction(&self) -> Result<(), ConnectError> {
        let answer = self.clients[0].info::<String>(Some(InfoKind::Memory)).await;
        let info =
            answer.map_err(|e| ConnectError::Answer { command: "INFO memory", error: backend_error(e) })?;
        let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        match value("maxmemory_policy") {
            Some(policy) if policy != "noeviction" => Err(ConnectError::Evicts { policy: policy.to_owned() }),
            _ => Ok(()),
        }
    }

    async fn check_schema(&self) -> Result<(), ConnectError> {
        let answer = |error| ConnectError::Answer { command: "GET schema", error: backend_error(error) };
        let key = self.keys.schema();
        let options = (None, Some(fred::types::SetOptions::NX), false);
        let _: Option<String> =
            self.clients[0].set(&key, SCHEMA, options.0, options.1, options.2).await.map_err(answer)?;
        match self.clients[0].get::<Option<u64>, _>(&key).await.map_err(answer)? {
            Some(found) if found != SCHEMA => Err(ConnectError::Schema { found }),
            _ => Ok(()),
        }
    }
}

/// fred sets aside room for `messages_max` of each thing that it may tell.
fn build(config: Config, messages_max: usize) -> Result<Client, Error> {
    Builder::from_config(config)
        .with_connection_config(|connection: &mut ConnectionConfig| {
            connection.connection_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            connection.internal_command_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = limits::REDIS_COMMANDS_MAX;
            connection.tcp = TcpConfig { nodelay: Some(true), ..TcpConfig::default() };
            connection.unresponsive = UnresponsiveConfig {
                max_timeout: Some(limits::SCRIPT_DEADLINE),
                interval: Duration::from_millis(500),
            };
        })
        .with_performance_config(|performance: &mut PerformanceConfig| {
            performance.default_command_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            performance.broadcast_channel_capacity = messages_max;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2))
        .build()
}

/// Redis may be starting at the same time.
async fn init(client: &Client) -> Result<(), ConnectError> {
    let mut errors = client.error_rx();
    let connected = tokio::time::timeout(limits::REDIS_START_TIMEOUT, client.init()).await;
    if let Ok(Ok(_)) = connected {
        return Ok(());
    }
    // The last error says more than that time is up.
    let mut error = Error::new(ErrorKind::Timeout, "no answer");
    while let Ok((newer, _)) = errors.try_recv() {
        error = newer;
    }
    Err(ConnectError::Unreachable { error })
}

/// After any reconnect Redis may be another, or have lost what it knew.
async fn watch_reconnects(client: Client, parts: Arc<Parts>) {
    let mut reconnects = client.reconnect_rx();
    while !matches!(reconnects.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
        metrics().redis_reconnects.increment(1);
        parts.mailbox.reassert();
        parts.mailbox.recheck();
    }
}

/// Waits until the connection can be used again; false at the deadline. An
/// attempt to connect that failed is not the last one.
async fn is_connected_again(client: &Client, deadline: Instant) -> bool {
    let connected = async {
        while client.wait_for_connect().await.is_err() {
            tokio::time::sleep(limits::RECONNECT_PAUSE).await;
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::time::timeout(left, connected).await.is_ok() && Instant::now() + limits::RECONNECT_PAUSE < deadline
}

/// A read that fails can be done again: it is never unknown.
fn read_error(error: Error) -> BackendError {
    match backend_error(error) {
        BackendError::OutcomeUnknown => BackendError::Unavailable,
        error => error,
    }
}

/// Epoch, seq, id and time as a script returns them.
fn position(values: Vec<Value>) -> Option<Position> {
    let [epoch, seq, id, time]: [Value; 4] = values.try_into().ok()?;
    let id = AnnouncementId::from_bytes(&id.into_bytes()?)?;
    Some(Position { epoch: epoch.as_u64()?, seq: seq.as_u64()?, id, time_ms: time.as_u64()? })
}
