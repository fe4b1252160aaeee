//! Faults while events are published: nodes and Redis end, restart and pause, and connections between
//! them end.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::world::{APP, CHANNELS, World};
use crate::support::server::AppSpec;
use crate::support::{Backend, Cluster, STEP_TIMEOUT, Signal};

const CONFIG: &str =
    "log = \"info,fanfare=debug\"\ndrain_delay = 0.1\ndrain_window = 0.2\n[tag_filtering]\nenabled = true\n";
/// A killed node is taken for dead after 8 s.
const HEALED_WITHIN: Duration = Duration::from_secs(20);
const PLAIN_MARKERS: &str = "[delta_compression]\nmarkers = \"plain\"\n";

pub fn app() -> AppSpec {
    let flat = APP.split('\n').map(str::trim).collect::<String>();
    AppSpec::new("1").set("max_event_batch_size", 100).set("channel_delta_compression", flat)
}

/// The cluster of a run. Its faults are reported to the world.
pub struct Faults {
    world: Arc<World>,
    cluster: Cluster,
}

impl Faults {
    pub async fn start(world: Arc<World>) -> Faults {
        let markers = if world.plain_markers { PLAIN_MARKERS } else { "" };
        let cluster = Cluster::builder(Backend::Redis).nodes(3).durable();
        let cluster = cluster.app(app()).config(CONFIG).config(markers).start().await;
        *world.nodes.lock() = cluster.nodes.iter().map(|node| Some(node.addr())).collect();
        Faults { world, cluster }
    }

    /// Injects one fault and repairs it.
    pub async fn inject(&mut self, rng: &mut StdRng) {
        let at = rng.random_range(0..self.cluster.nodes.len());
        let pause = Duration::from_millis(rng.random_range(0..1_000));
        match rng.random_range(0..8) {
            0 => {
                self.world.totals.add("nodes killed");
                self.cluster.nodes[at].kill9();
                self.replace(at, pause).await;
            }
            1 => {
                self.world.totals.add("nodes drained");
                self.cluster.nodes[at].signal(Signal::Terminate);
                self.cluster.nodes[at].wait_exit(STEP_TIMEOUT).await;
                self.replace(at, Duration::ZERO).await;
            }
            2 => {
                self.world.totals.add("redis killed");
                self.cluster.redis_mut().kill();
                tokio::time::sleep(pause).await;
                self.cluster.redis_mut().restart().await;
            }
            3 => {
                self.world.totals.add("nodes paused");
                self.cluster.nodes[at].signal(Signal::Stop);
                tokio::time::sleep(pause * 3).await;
                self.cluster.nodes[at].signal(Signal::Continue);
            }
            4 => {
                self.world.totals.add("redis paused");
                self.cluster.redis().signal(Signal::Stop);
                tokio::time::sleep(pause * 3).await;
                self.cluster.redis().signal(Signal::Continue);
            }
            5 => self.command("connections killed", &["CLIENT", "KILL", "TYPE", "normal"]).await,
            6 => self.command("listeners killed", &["CLIENT", "KILL", "TYPE", "pubsub"]).await,
            _ => self.command("scripts flushed", &["SCRIPT", "FLUSH"]).await,
        }
    }

    async fn command(&self, fault: &'static str, words: &[&str]) {
        self.world.totals.add(fault);
        self.cluster.redis().command(words).await;
    }

    /// The cluster counts the subscriptions of the clients, and no others.
    pub async fn counts_become(&self, counts: &[usize]) {
        let caller = self.cluster.caller("1");
        for ((channel, _), count) in CHANNELS.iter().zip(counts) {
            caller.count_becomes_within(channel, *count, HEALED_WITHIN).await;
        }
    }

    async fn replace(&mut self, at: usize, pause: Duration) {
        self.world.nodes.lock()[at] = None;
        tokio::time::sleep(pause).await;
        self.cluster.nodes[at] = self.cluster.start_node(at).await;
        self.world.nodes.lock()[at] = Some(self.cluster.nodes[at].addr());
    }

    /// Empties Redis, at a moment when every subscriber has every event.
    pub async fn empty_redis(&self) {
        self.world.totals.add("redis emptied");
        self.cluster.redis().command(&["FLUSHALL"]).await;
    }
}
