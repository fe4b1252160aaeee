//! The shared state of a cluster, in Redis (design.md 3 to 5): scripts append entries, topics
//! distribute them, leases detect dead nodes.

pub mod apps;
mod connection_log;
mod error;
mod history;
mod keys;
mod lease;
mod links;
mod listen;
mod membership;
mod memory_watch;
mod publish;
mod publish_permits;
mod quotas;
mod requirements;
mod run_id;
mod scripts;
mod url_file;
mod webhook_outbox;

use std::borrow::Cow;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fred::interfaces::{ClientLike, EventInterface, KeysInterface};
use fred::prelude::{
    Builder, Client, ConnectionConfig, Error, ErrorKind, PerformanceConfig, ReconnectPolicy, Value,
};
use fred::types::RespVersion;
use fred::types::config::{Config, CredentialProvider, TcpConfig};
use thiserror::Error;

use super::BackendError;
use crate::backend_events::BackendEvents;
use crate::channel::{ChannelId, Partition};
use crate::entry::EntryId;
use crate::limits::{self, DetectionTimes};
use crate::metrics::metrics;
use crate::resume_tokens::ResumeTokens;
use crate::task::Task;

use apps::AppStore;
use connection_log::ConnectionLog;
use keys::Keys;
use lease::Lease;
use links::Links;
use listen::Listener;
use memory_watch::{MemoryInfo, MemoryWatch};
use publish_permits::PublishPermits;
use run_id::RunId;
use scripts::{Scripts, bytes, number};
use url_file::UrlFile;

/// Version of the data in Redis. A node refuses to start on any other.
const SCHEMA: u64 = 4;

/// Why Redis cannot be used. Reported at start, when an operator can act.
#[derive(Debug, Error)]
pub enum ConnectError {
    #[error("the URL is not understood: {0}")]
    Url(Error),
    #[error("no connection within {} s: {error}", limits::REDIS_START_TIMEOUT.as_secs())]
    Unreachable { error: Error },
    #[error("no connection: {0}")]
    Refused(Error),
    #[error("its answer to {command} was not understood: {error}")]
    Answer { command: &'static str, error: BackendError },
    #[error(
        "it holds data of schema {found}, and this version knows schema {SCHEMA}; use another `redis_prefix`"
    )]
    Schema { found: u64 },
    #[error("its version is {version}, and the oldest that works is {}.{}", min.0, min.1)]
    Version { version: String, min: (u32, u32) },
    #[error("it refuses {}: {error}; permit them to the user in `redis_url`, and rename none", commands.join(", "))]
    Forbids { commands: Vec<&'static str>, error: String },
    #[error("its maxmemory-policy is {policy:?}: it would evict channels; set it to `noeviction`")]
    Evicts { policy: String },
}

#[derive(Debug)]
pub struct Redis {
    core: Arc<RedisCore>,
    listener: Listener,
    links: Links,
    lease: Arc<Lease>,
    apps: AppStore,
    memory: Arc<MemoryWatch>,
}

/// State shared by all calls of scripts.
#[derive(Debug)]
struct RedisCore {
    keys: Keys,
    scripts: Scripts,
    /// Connections for scripts. All scripts of a channel use the connection that its partition
    /// selects, so that they keep their order.
    clients: Vec<Client>,
    events: BackendEvents,
    times: DetectionTimes,
    /// The highest sequence number of any channel that this node knows, received or as of the last
    /// renewal of the lease: a lower bound for new epochs.
    seen_seq: AtomicU64,
    /// With the key that Redis holds, as of the last renewal of the lease.
    resume_tokens: ResumeTokens,
    run_id: RunId,
    publish_permits: PublishPermits,
}

impl Redis {
    /// Connects, checks the configuration and schema of this Redis, begins a lease and starts to
    /// listen. Each connection uses the credentials that `url_file` has then, if there is one. Calls
    /// `on_error` with each error of an attempt to connect.
    pub async fn connect(
        url: &str,
        url_file: Option<PathBuf>,
        prefix: &str,
        events: BackendEvents,
        times: DetectionTimes,
        on_error: impl Fn(&Error),
    ) -> Result<Redis, ConnectError> {
        let mut config = standalone(url)?;
        config.credential_provider =
            url_file.map(|path| Arc::new(UrlFile::new(path)) as Arc<dyn CredentialProvider>);
        let keys = Keys::new(prefix, config.database);
        let clients = (0..limits::REDIS_CONNECTIONS).map(|_| build(config.clone(), limits::REDIS_EVENTS_MAX));
        let clients = clients.collect::<Result<Vec<Client>, _>>().map_err(ConnectError::Url)?;
        let apps = build(config.clone(), limits::REDIS_EVENTS_MAX).map_err(ConnectError::Url)?;
        let subscriber = build(config, limits::REDIS_MESSAGES_MAX).map_err(ConnectError::Url)?;
        for client in clients.iter().chain([&subscriber, &apps]) {
            init(client, &on_error).await?;
        }
        requirements::check_version(&clients[0]).await?;
        requirements::check_commands(&clients[0], &subscriber, &keys).await?;
        let core = Arc::new(RedisCore {
            keys,
            scripts: Scripts::new(),
            clients,
            events,
            times,
            seen_seq: AtomicU64::new(0),
            resume_tokens: ResumeTokens::new(),
            run_id: RunId::default(),
            publish_permits: PublishPermits::default(),
        });
        core.check_eviction().await?;
        core.check_schema().await?;
        let lease = Lease::begin(core.clone())
            .await
            .map_err(|error| ConnectError::Answer { command: "renew_node", error })?;
        ConnectionLog::start(core.clients.iter().chain([&subscriber, &apps]).cloned().collect());
        let links = Links::start(&core, &subscriber, &apps);
        let listener = Listener::start(core.clone(), subscriber);
        for client in &core.clients {
            Task::RedisReconnects.spawn(watch_reconnects(client.clone(), core.clone()));
        }
        let apps = AppStore::new(apps, core.keys.clone());
        let memory = MemoryWatch::start(core.clients[0].clone());
        Ok(Redis { core, listener, links, lease, apps, memory })
    }

    /// The apps stored in this Redis.
    pub fn apps(&self) -> &AppStore {
        &self.apps
    }

    /// The reason why this node cannot write, does not receive the messages of other nodes, or may
    /// be taken for dead.
    pub fn unready(&self) -> Option<Cow<'static, str>> {
        if let Some(reason) = self.links.unready() {
            return Some(reason);
        }
        if !self.listener.is_listening() {
            return Some(match self.core.clients.iter().all(scripts::is_connected) {
                true => "this node does not receive its own probe through Redis".into(),
                false => "Redis is unavailable".into(),
            });
        }
        self.lease.is_overdue().then(|| "the lease of this node is not renewed".into())
    }

    pub fn resume_tokens(&self) -> &ResumeTokens {
        &self.core.resume_tokens
    }

    /// As [`crate::backend::Backend::warning`].
    pub fn warning(&self) -> Option<String> {
        self.memory.warning()
    }

    pub async fn leave(&self) {
        self.lease.end().await;
    }
}

impl RedisCore {
    fn client(&self, channel_id: &ChannelId) -> &Client {
        self.client_of(channel_id.partition())
    }

    fn client_of(&self, partition: Partition) -> &Client {
        &self.clients[usize::from(partition.0) % self.clients.len()]
    }

    /// The first arguments of every script that appends entries: `lua/include/append.lua`. Reserves
    /// capacity for `further` arguments.
    fn appending(&self, id: EntryId, further: usize) -> Vec<Value> {
        let mut arguments = Vec::with_capacity(7 + further);
        arguments.extend([
            bytes(id.as_bytes().to_vec()),
            number(self.seen_seq.load(Ordering::Relaxed)),
            number(limits::LOG_ENTRIES_MAX as u64),
            number(limits::LOG_BYTES_MAX as u64),
            number(limits::LOG_AGE_MAX.as_millis() as u64),
            number(limits::HEAD_IDLE_MAX.as_millis() as u64),
            self.run_id.argument(),
        ]);
        arguments
    }

    /// Refuses a policy that evicts keys.
    async fn check_eviction(&self) -> Result<(), ConnectError> {
        let info = MemoryInfo::read(&self.clients[0]).await;
        let info = info.map_err(|e| ConnectError::Answer { command: "INFO memory", error: e.into() })?;
        match info.evicting_policy() {
            Some(policy) => Err(ConnectError::Evicts { policy: policy.to_owned() }),
            None => Ok(()),
        }
    }

    async fn check_schema(&self) -> Result<(), ConnectError> {
        let answer = |error| ConnectError::Answer { command: "GET schema", error: BackendError::from(error) };
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

/// The configuration of all connections.
fn standalone(url: &str) -> Result<Config, ConnectError> {
    let config = Config::from_url(url).map_err(ConnectError::Url)?;
    Ok(Config { version: RespVersion::RESP3, fail_fast: false, ..config })
}

/// Builds a client. fred allocates `messages_max` elements for each of its broadcast channels.
fn build(config: Config, messages_max: usize) -> Result<Client, Error> {
    Builder::from_config(config)
        .with_connection_config(|connection: &mut ConnectionConfig| {
            connection.connection_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            connection.internal_command_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            connection.max_command_attempts = 1;
            connection.max_command_buffer_len = limits::REDIS_COMMANDS_MAX;
            connection.tcp = tcp();
        })
        .with_performance_config(|performance: &mut PerformanceConfig| {
            performance.default_command_timeout = limits::SCRIPT_ATTEMPT_TIMEOUT;
            performance.broadcast_channel_capacity = messages_max;
        })
        .set_policy(ReconnectPolicy::new_exponential(0, 50, 1_000, 2))
        .build()
}

fn tcp() -> TcpConfig {
    TcpConfig {
        nodelay: Some(true),
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        user_timeout: Some(limits::LINK_RECEIPT_TIMEOUT),
        ..TcpConfig::default()
    }
}

/// Connects, and retries until the timeout, because Redis may be starting at the same time. Calls
/// `on_error` with the error of each attempt.
async fn init(client: &Client, on_error: impl Fn(&Error)) -> Result<(), ConnectError> {
    let mut errors = client.error_rx();
    // The last error is more informative than the timeout.
    let mut last = Error::new(ErrorKind::Timeout, "no answer");
    let attempts = async {
        let mut connected = pin!(client.init());
        loop {
            tokio::select! {
                connected = connected.as_mut() => return connected,
                Ok((error, _)) = errors.recv() => {
                    on_error(&error);
                    last = error;
                }
            }
        }
    };
    match tokio::time::timeout(limits::REDIS_START_TIMEOUT, attempts).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(ConnectError::Refused(error)),
        Err(_) => Err(ConnectError::Unreachable { error: last }),
    }
}

/// Requests membership updates and head checks after each reconnect: it may lead to another
/// Redis, or Redis may have lost data.
async fn watch_reconnects(client: Client, core: Arc<RedisCore>) {
    let mut reconnects = client.reconnect_rx();
    while !matches!(reconnects.recv().await, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
        metrics().redis_reconnects.increment(1);
        core.events.report_memberships();
        core.events.check_heads();
    }
}
