//! Faults while events are published: nodes and Redis end and restart.

use std::sync::Arc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

use super::world::{APP, World};
use crate::support::server::AppSpec;
use crate::support::{PATIENCE, Redis, Server, Signal};

const CONFIG: &str =
    "log = \"info,fanfare=debug\"\ndrain_delay = 0.1\ndrain_window = 0.2\n[tag_filtering]\nenabled = true\n";
const PLAIN_MARKERS: &str = "[delta_compression]\nmarkers = \"plain\"\n";

pub fn app() -> AppSpec {
    let flat = APP.split('\n').map(str::trim).collect::<String>();
    AppSpec::new("1").set("max_event_batch_size", 100).set("channel_delta_compression", flat)
}

pub struct Stage {
    world: Arc<World>,
    // Dropped first, so that no node logs a lost Redis.
    nodes: Vec<Server>,
    redis: Redis,
}

impl Stage {
    pub async fn start(world: Arc<World>) -> Stage {
        let redis = Redis::start_durable().await;
        let plain = world.plain_markers;
        let (a, b, c) =
            tokio::join!(start(&redis, 0, plain), start(&redis, 1, plain), start(&redis, 2, plain));
        let nodes = vec![a, b, c];
        *world.nodes.lock() = nodes.iter().map(|node| Some(node.addr())).collect();
        Stage { world, nodes, redis }
    }

    /// Injects one fault and repairs it.
    pub async fn inject_fault(&mut self, rng: &mut StdRng) {
        let at = rng.random_range(0..self.nodes.len());
        let pause = Duration::from_millis(rng.random_range(0..1_000));
        match rng.random_range(0..3) {
            0 => {
                self.world.totals.add("nodes killed");
                self.nodes[at].kill9();
                self.replace(at, pause).await;
            }
            1 => {
                self.world.totals.add("nodes drained");
                self.nodes[at].signal(Signal::Terminate);
                self.nodes[at].wait_exit(PATIENCE).await;
                self.replace(at, Duration::ZERO).await;
            }
            _ => {
                self.world.totals.add("redis killed");
                self.redis.kill();
                tokio::time::sleep(pause).await;
                self.redis.restart().await;
            }
        }
    }

    async fn replace(&mut self, at: usize, pause: Duration) {
        self.world.nodes.lock()[at] = None;
        tokio::time::sleep(pause).await;
        self.nodes[at] = start(&self.redis, at, self.world.plain_markers).await;
        self.world.nodes.lock()[at] = Some(self.nodes[at].addr());
    }

    /// Empties Redis, at a moment when every subscriber has every event.
    pub async fn empty_redis(&self) {
        self.world.totals.add("redis emptied");
        self.redis.command(&["FLUSHALL"]).await;
    }
}

async fn start(redis: &Redis, number: usize, plain: bool) -> Server {
    let node = Server::builder().name(&format!("node {number}")).app(app()).redis(redis).config(CONFIG);
    if plain { node.config(PLAIN_MARKERS).start().await } else { node.start().await }
}
