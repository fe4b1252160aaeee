//! The servers of a test: one with the memory backend, or several nodes that share a
//! Redis. A test that works with either backend publishes on the first node and
//! subscribes on all.

use futures_util::future::join_all;

use super::browser::Browser;
use super::caller::Caller;
use super::frame::Frame;
use super::proxy::Proxy;
use super::redis::Redis;
use super::server::{AppSpec, Builder, Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Redis,
}

pub struct Cluster {
    // Dropped in this order: nodes first, so that none logs a lost Redis.
    pub nodes: Vec<Server>,
    proxy: Option<Proxy>,
    redis: Option<Redis>,
    builder: ClusterBuilder,
}

#[derive(Clone)]
pub struct ClusterBuilder {
    backend: Backend,
    node: Builder,
    count: usize,
    proxied: Option<usize>,
    durable: bool,
}

impl ClusterBuilder {
    pub fn app(mut self, app: AppSpec) -> ClusterBuilder {
        self.node = self.node.app(app);
        self
    }

    pub fn without_apps(mut self) -> ClusterBuilder {
        self.node = self.node.without_apps();
        self
    }

    pub fn config(mut self, toml: &str) -> ClusterBuilder {
        self.node = self.node.config(toml);
        self
    }

    /// The number of nodes on Redis; 2 without this.
    pub fn nodes(mut self, count: usize) -> ClusterBuilder {
        self.count = count;
        self
    }

    /// The node with this index reaches Redis through [`Cluster::proxy`].
    pub fn proxied(mut self, index: usize) -> ClusterBuilder {
        self.proxied = Some(index);
        self
    }

    /// The nodes notice faults four times as fast: for tests to which the length of the lease, of
    /// the probes and of the head checks does not matter.
    pub fn quick_detection(mut self) -> ClusterBuilder {
        self.node = self.node.env("FANFARE_TEST__SPEEDUP", "4");
        self
    }

    /// Redis keeps acknowledged writes across a restart.
    pub fn durable(mut self) -> ClusterBuilder {
        self.durable = true;
        self
    }

    pub async fn start(self) -> Cluster {
        let (mut proxy, mut redis) = (None, None);
        if self.backend == Backend::Redis {
            let started = if self.durable { Redis::start_durable().await } else { Redis::start().await };
            if self.proxied.is_some() {
                proxy = Some(Proxy::start(started.port()).await);
            }
            redis = Some(started);
        }
        let mut cluster = Cluster { nodes: Vec::new(), proxy, redis, builder: self };
        let count = if cluster.redis.is_some() { cluster.builder.count } else { 1 };
        cluster.nodes = join_all((0..count).map(|index| cluster.start_node(index))).await;
        cluster
    }
}

impl Cluster {
    pub fn builder(backend: Backend) -> ClusterBuilder {
        ClusterBuilder { backend, node: Server::builder(), count: 2, proxied: None, durable: false }
    }

    pub async fn start(backend: Backend) -> Cluster {
        Cluster::builder(backend).start().await
    }

    /// Starts a node with the settings of this index, to replace or to join the others.
    pub async fn start_node(&self, index: usize) -> Server {
        let node = self.builder.node.clone().name(&format!("node {index}"));
        match (&self.proxy, &self.redis) {
            (Some(proxy), _) if self.builder.proxied == Some(index) => node.redis_url(&proxy.url()),
            (_, Some(redis)) => node.redis(redis),
            _ => node,
        }
        .start()
        .await
    }

    pub fn first(&self) -> &Server {
        &self.nodes[0]
    }

    /// A node other than the first, where there is one.
    pub fn second(&self) -> &Server {
        &self.nodes[1 % self.nodes.len()]
    }

    pub fn redis(&self) -> &Redis {
        self.redis.as_ref().expect("this cluster runs on Redis")
    }

    pub fn redis_mut(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("this cluster runs on Redis")
    }

    /// Between Redis and the node of [`ClusterBuilder::proxied`].
    pub fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().expect("a node of this cluster is proxied")
    }

    /// A backend that publishes through the first node.
    pub fn caller(&self, app: &str) -> Caller {
        self.first().caller(app)
    }

    /// The sum of a metric on each node.
    pub async fn metric(&self, name: &str) -> Vec<f64> {
        join_all(self.nodes.iter().map(async |node| node.metrics().await.sum(name))).await
    }

    /// Two browsers, one on each node where there are two.
    pub async fn browsers(&self, key: &str) -> Vec<Browser> {
        vec![self.first().browser(key).await, self.second().browser(key).await]
    }

    /// The same, subscribed to all of these channels of app 1.
    pub async fn subscribers(&self, channels: &[&str]) -> Subscribers {
        let mut browsers = self.browsers("key1").await;
        for browser in &mut browsers {
            for channel in channels {
                browser.subscribe(channel).await;
            }
        }
        Subscribers(browsers)
    }
}

/// Clients on all nodes that are expected to receive the same frames.
pub struct Subscribers(pub Vec<Browser>);

impl Subscribers {
    /// The next frame of each browser, which must be this event, and the same byte
    /// for byte for all.
    pub async fn expect_event(&mut self, channel: &str, name: &str) -> Frame {
        let mut seen: Option<Frame> = None;
        for browser in &mut self.0 {
            let frame = browser.expect_event(channel, name).await;
            if let Some(other) = &seen {
                assert_eq!(other.text, frame.text, "two subscribers received different frames");
            }
            seen = Some(frame);
        }
        seen.expect("a cluster has at least one browser")
    }

    /// Proves that no other frame arrived: publishes an event, which must be the
    /// next one.
    pub async fn expect_nothing(&mut self, caller: &Caller, channel: &str, why: &str) {
        caller.publish(channel, "marker", why).await;
        for browser in &mut self.0 {
            browser.expect_nothing_before(channel, "marker").await;
        }
    }
}
