//! One cheap handle for the parts of a node, which is one Fanfare process.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use crate::apps::Apps;
use crate::backend::Backend;
use crate::channels::ChannelsHandle;
use crate::delta::settings::DeltaConfig;
use crate::log_limit::LogLimit;
use crate::sockets::connection_limit::ConnectionLimiter;
use crate::sockets::connections::Connections;
use crate::sockets::http_limit::HttpLimiter;

pub type Node = Arc<NodeState>;

#[derive(Debug)]
pub struct NodeState {
    pub apps: Arc<Apps>,
    pub backend: Arc<Backend>,
    pub channels: ChannelsHandle,
    pub connections: Arc<Connections>,
    pub connection_limiter: ConnectionLimiter,
    pub http_limiter: Arc<HttpLimiter>,
    pub delta: DeltaConfig,
    /// Whether subscriptions may be filtered by tags (protocol.md 4).
    pub tag_filtering: bool,
    /// Silence of a client before its keepalive begins (protocol.md 2.2).
    pub activity_timeout: Duration,
    /// The prefix below which all routes exist in addition to the root: empty, or `/…` without a
    /// trailing slash.
    pub path_prefix: String,
    /// Proxies whose `X-Forwarded-For` header is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Log lines about upgrades on unknown paths; the subject is the path.
    pub unknown_paths_log: LogLimit,
    /// Log lines about upgrades that a proxy broke; the subject is the cause.
    pub broken_upgrades_log: LogLimit,
    draining: AtomicBool,
}

/// The part of the configuration that requests and connections use. The fields are as in
/// [`NodeState`].
#[derive(Debug)]
pub struct Settings {
    pub delta: DeltaConfig,
    /// Whether subscriptions may be filtered by tags (protocol.md 4).
    pub tag_filtering: bool,
    pub activity_timeout: Duration,
    pub path_prefix: String,
    pub trusted_proxies: Vec<IpNet>,
}

impl NodeState {
    pub fn new(
        apps: Arc<Apps>,
        backend: Arc<Backend>,
        channels: ChannelsHandle,
        connections: Arc<Connections>,
        http_limiter: Arc<HttpLimiter>,
        settings: Settings,
    ) -> NodeState {
        let Settings { delta, tag_filtering, activity_timeout, path_prefix, trusted_proxies } = settings;
        NodeState {
            apps,
            channels,
            http_limiter,
            connections,
            connection_limiter: ConnectionLimiter::new(backend.clone()),
            backend,
            delta,
            tag_filtering,
            activity_timeout,
            path_prefix,
            trusted_proxies,
            unknown_paths_log: LogLimit::default(),
            broken_upgrades_log: LogLimit::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// Begins to drain: from now on the node is not ready and refuses new connections.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why the node is not ready for traffic, or `None` if it is.
    pub fn unready(&self) -> Option<Cow<'static, str>> {
        match self.is_draining() {
            true => Some("draining".into()),
            false => self.backend.unready(),
        }
    }
}
