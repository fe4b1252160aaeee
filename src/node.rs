//! The parts of this process behind one cheap handle.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;

use crate::apps::Apps;
use crate::backend::Backend;
use crate::channels::ChannelsHandle;
use crate::connection_limit::ConnectionLimiter;
use crate::delta::settings::DeltaConfig;
use crate::log_limit::LogLimit;
use crate::sockets::connections::Connections;

pub type Node = Arc<NodeState>;

#[derive(Debug)]
pub struct NodeState {
    pub apps: Arc<Apps>,
    pub backend: Arc<Backend>,
    pub channels: ChannelsHandle,
    pub connections: Arc<Connections>,
    pub connection_limiter: ConnectionLimiter,
    pub delta: DeltaConfig,
    /// Whether subscriptions may be filtered by tags (protocol.md 4).
    pub tag_filtering: bool,
    pub activity_timeout: Duration,
    /// Both APIs are below it too: empty, or `/…` without a slash at its end.
    pub path_prefix: String,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// For lines that strangers cause.
    pub log_limit: LogLimit,
    draining: AtomicBool,
}

/// What a node is told of itself.
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
        settings: Settings,
    ) -> NodeState {
        let Settings { delta, tag_filtering, activity_timeout, path_prefix, trusted_proxies } = settings;
        NodeState {
            apps,
            channels,
            connections: Arc::default(),
            connection_limiter: ConnectionLimiter::new(backend.clone()),
            backend,
            delta,
            tag_filtering,
            activity_timeout,
            path_prefix,
            trusted_proxies,
            log_limit: LogLimit::default(),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on this node is not ready, and takes no new sockets.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Why this node should get no traffic, if so.
    pub fn unready(&self) -> Option<&'static str> {
        match self.is_draining() {
            true => Some("draining"),
            false => self.backend.unready(),
        }
    }
}
