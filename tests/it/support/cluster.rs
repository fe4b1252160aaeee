//! The two setups: one server with the memory backend, or two nodes that share a
//! Redis. A test that works with either takes a [`Cluster`], publishes on its first
//! node and subscribes on all.

use super::browser::{Browser, Frame};
use super::caller::Caller;
use super::redis::Redis;
use super::server::{AppSpec, Builder, Server};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    Memory,
    Redis,
}

pub struct Cluster {
    // Dropped in this order: nodes first, so that none logs a lost Redis.
    nodes: Vec<Server>,
    redis: Option<Redis>,
}

pub struct ClusterBuilder {
    backend: Backend,
    node: Builder,
}

impl ClusterBuilder {
    pub fn app(mut self, app: AppSpec) -> ClusterBuilder {
        self.node = self.node.app(app);
        self
    }

    pub fn config(mut self, toml: &str) -> ClusterBuilder {
        self.node = self.node.config(toml);
        self
    }

    pub async fn start(self) -> Cluster {
        match self.backend {
            Backend::Memory => Cluster { nodes: vec![self.node.start().await], redis: None },
            Backend::Redis => {
                let redis = Redis::start().await;
                let node = self.node.redis(&redis);
                let (a, b) = tokio::join!(node.clone().name("node a").start(), node.name("node b").start());
                Cluster { nodes: vec![a, b], redis: Some(redis) }
            }
        }
    }
}

impl Cluster {
    pub fn builder(backend: Backend) -> ClusterBuilder {
        ClusterBuilder { backend, node: Server::builder() }
    }

    pub async fn start(backend: Backend) -> Cluster {
        Cluster::builder(backend).start().await
    }

    /// All nodes: one or two.
    pub fn nodes(&self) -> &[Server] {
        &self.nodes
    }

    pub fn first(&self) -> &Server {
        &self.nodes[0]
    }

    /// A node other than the first, where there is one.
    pub fn second(&self) -> &Server {
        &self.nodes[self.nodes.len() - 1]
    }

    pub fn redis(&self) -> &Redis {
        self.redis.as_ref().expect("this cluster runs on Redis")
    }

    pub fn redis_mut(&mut self) -> &mut Redis {
        self.redis.as_mut().expect("this cluster runs on Redis")
    }

    /// A backend that publishes through the first node.
    pub fn caller(&self, app: &str) -> Caller {
        self.first().caller(app)
    }

    /// Two browsers, one on each node where there are two.
    pub async fn browsers(&self, key: &str) -> Vec<Browser> {
        vec![self.first().browser(key).await, self.second().browser(key).await]
    }

    /// The same, subscribed to all of these channels of app 1.
    pub async fn listeners(&self, channels: &[&str]) -> Audience {
        let mut browsers = self.browsers("key1").await;
        for browser in &mut browsers {
            for channel in channels {
                browser.subscribe(channel).await;
            }
        }
        Audience(browsers)
    }
}

/// Browsers on all nodes that are expected to receive the same frames.
pub struct Audience(pub Vec<Browser>);

impl Audience {
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
