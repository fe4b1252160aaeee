//! Who lives (design.md 5). A node's lease is a counter; a node whose counter
//! stands still is condemned, and its memberships are swept by whoever saw it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use fred::interfaces::{ClientLike, HashesInterface, SetsInterface};
use fred::prelude::Value;
use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;

use super::{RedisCore, scripts};
use crate::backend::BackendError;
use crate::channel::{ChannelId, Partition};
use crate::limits;
use crate::metrics::metrics;

#[derive(Debug)]
pub(super) struct Lease {
    core: Arc<RedisCore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Names this life of the node. One that was swept is never used again.
    incarnation: Arc<str>,
    renewed: Instant,
    ended: bool,
    /// Incarnations that live, as of the last renewal.
    nodes: Vec<String>,
    /// Dead nodes that are being swept from here.
    sweeping: HashSet<String>,
}

/// WebhookEventKind this node has seen of another's counter.
#[derive(Debug)]
struct Observation {
    counter: String,
    since: Instant,
}

/// Leases and condemned nodes, as `lua/renew_node.lua` returns them.
#[derive(Debug, Default)]
struct Nodes {
    leases: HashMap<String, String>,
    dead: HashMap<String, u64>,
}

impl Lease {
    pub(super) async fn begin(core: Arc<RedisCore>) -> Result<Arc<Lease>, BackendError> {
        let incarnation = new_incarnation();
        renew(&core, &incarnation, true).await?;
        let state = State {
            incarnation,
            renewed: Instant::now(),
            ended: false,
            nodes: Vec::new(),
            sweeping: HashSet::new(),
        };
        let lease = Arc::new(Lease { core, state: Mutex::new(state) });
        tokio::spawn(lease.clone().keep());
        Ok(lease)
    }

    /// The name under which memberships are written; None while it may have been
    /// swept.
    pub(super) fn incarnation(&self) -> Option<Arc<str>> {
        let state = self.state.lock();
        let fresh = state.renewed.elapsed() < limits::LEASE_EXPIRY * 3 / 4;
        (fresh && !state.ended).then(|| state.incarnation.clone())
    }

    /// Incarnations of all nodes that live, this one perhaps among them.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.state.lock().nodes.clone()
    }

    /// Takes this node's memberships away, and condemns itself: others will look
    /// once more, for an update that was still on its way.
    pub(super) async fn end(&self) {
        let incarnation = {
            let mut state = self.state.lock();
            state.ended = true;
            state.incarnation.clone()
        };
        let end = async {
            sweep(&self.core, &incarnation).await?;
            let client = self.core.clients[0].with_options(&scripts::once());
            let counter: Option<String> = client
                .hget(self.core.keys.leases(), incarnation.as_ref())
                .await
                .map_err(super::read_error)?;
            fence(&self.core, &incarnation, counter.unwrap_or_default()).await
        };
        match tokio::time::timeout(limits::SCRIPT_DEADLINE, end).await {
            Ok(Ok(_)) => {}
            // Others will see the counter stand still.
            Ok(Err(error)) => tracing::warn!(%error, "memberships not taken away"),
            Err(_) => tracing::warn!("memberships not taken away in time"),
        }
    }

    async fn keep(self: Arc<Lease>) {
        let mut observations: HashMap<String, Observation> = HashMap::new();
        let mut renewed = Instant::now();
        let mut interval = tokio::time::interval(limits::LEASE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let (incarnation, ended) = {
                let state = self.state.lock();
                (state.incarnation.clone(), state.ended)
            };
            if ended {
                return;
            }
            match renew(&self.core, &incarnation, false).await {
                Ok(nodes) => {
                    {
                        let mut state = self.state.lock();
                        state.renewed = Instant::now();
                        state.nodes = nodes.leases.keys().cloned().collect();
                    }
                    // WebhookEventKind this node has not watched all the time proves nothing:
                    // it may itself have been paused, or Redis.
                    if renewed.elapsed() > limits::LEASE_EXPIRY / 4 {
                        observations.clear();
                    }
                    renewed = Instant::now();
                    metrics().nodes.set(nodes.leases.len() as f64);
                    self.observe(nodes, &incarnation, &mut observations);
                }
                Err(BackendError::Refused(error)) if error.contains("SWEPT") => {
                    self.restart_incarnation(&incarnation).await;
                }
                Err(error) => tracing::debug!(%error, "lease not renewed"),
            }
        }
    }

    /// This life is over, though nobody has died: takes a new one, tells
    /// everything under it, and sweeps the old when its last calls have ended.
    async fn restart_incarnation(&self, old: &Arc<str>) {
        metrics().leases_lost.increment(1);
        tracing::warn!("the lease of this node is gone: taking a new one");
        let incarnation = new_incarnation();
        if renew(&self.core, &incarnation, true).await.is_err() {
            return;
        }
        {
            let mut state = self.state.lock();
            state.incarnation = incarnation;
            state.renewed = Instant::now();
        }
        self.core.events.report_memberships();
        let (core, old) = (self.core.clone(), old.clone());
        tokio::spawn(async move {
            tokio::time::sleep(limits::SCRIPT_DEADLINE).await;
            if let Err(error) = sweep(&core, &old).await {
                tracing::warn!(%error, "memberships of an earlier lease not taken away");
            }
        });
    }

    /// Condemns who has stood still for too long, and sweeps the condemned.
    fn observe(self: &Arc<Lease>, nodes: Nodes, own: &str, observations: &mut HashMap<String, Observation>) {
        observations.retain(|node, _| nodes.leases.contains_key(node));
        for (node, counter) in nodes.leases {
            if node == own {
                continue;
            }
            let observation = observations
                .entry(node.clone())
                .or_insert_with(|| Observation { counter: counter.clone(), since: Instant::now() });
            if observation.counter != counter {
                *observation = Observation { counter, since: Instant::now() };
            } else if observation.since.elapsed() >= limits::LEASE_EXPIRY {
                self.sweep_once(node.clone(), reap(self.core.clone(), node, counter));
            }
        }
        // Whoever condemned them should have swept them by now, unless it died.
        for (node, age_ms) in nodes.dead {
            if age_ms > limits::LEASE_EXPIRY.as_millis() as u64 {
                self.sweep_once(node.clone(), finish_sweep(self.core.clone(), node));
            }
        }
    }

    /// A look comes before the sweep of the last one may have ended.
    fn sweep_once(self: &Arc<Lease>, node: String, sweep: impl Future<Output = ()> + Send + 'static) {
        if self.state.lock().sweeping.insert(node.clone()) {
            let lease = self.clone();
            tokio::spawn(async move {
                sweep.await;
                lease.state.lock().sweeping.remove(&node);
            });
        }
    }
}

fn new_incarnation() -> Arc<str> {
    format!("{:016x}", rand::random::<u64>()).into()
}

/// `lua/renew_node.lua`
async fn renew(core: &RedisCore, incarnation: &str, is_new: bool) -> Result<Nodes, BackendError> {
    let keys = vec![core.keys.leases(), core.keys.dead()];
    let arguments = vec![Value::String(incarnation.into()), scripts::number(u64::from(is_new))];
    let answer = core.scripts.renew_node.run(&core.clients[0], keys, arguments).await?;
    let mut lists = answer.into_array().into_iter();
    let leases = lists.next().map(pairs).unwrap_or_default();
    let dead = lists.next().map(pairs).unwrap_or_default();
    let dead = dead.into_iter().map(|(node, age_ms)| (node, age_ms.parse().unwrap_or(0)));
    Ok(Nodes { leases, dead: dead.collect() })
}

fn pairs(list: Value) -> HashMap<String, String> {
    list.convert().unwrap_or_default()
}

/// `lua/fence_node.lua`: true if it was this call that condemned the node.
async fn fence(core: &RedisCore, node: &str, counter: String) -> Result<bool, BackendError> {
    let keys = vec![core.keys.leases(), core.keys.dead()];
    let arguments = vec![Value::String(node.into()), Value::String(counter.into())];
    let answer = core.scripts.fence_node.run(&core.clients[0], keys, arguments).await?;
    Ok(answer.as_u64() == Some(1))
}

async fn reap(core: Arc<RedisCore>, node: String, counter: String) {
    // Whoever failed to fence sees the same again at the next look.
    if fence(&core, &node, counter).await == Ok(true) {
        tracing::info!(%node, "a node has died: taking its memberships away");
        metrics().nodes_swept.increment(1);
        finish_sweep(core, node).await;
    }
}

async fn finish_sweep(core: Arc<RedisCore>, node: String) {
    match sweep(&core, &node).await {
        Ok(()) => {
            let client = core.clients[0].with_options(&scripts::once());
            let _: Result<u64, _> = client.hdel(core.keys.dead(), node).await;
        }
        Err(error) => tracing::warn!(%node, %error, "sweep not finished; it will be tried again"),
    }
}

/// Takes all memberships of a node away, in bounded steps. Idempotent: sweepers
/// may die, or be several.
async fn sweep(core: &RedisCore, node: &str) -> Result<(), BackendError> {
    let partitions = stream::iter(Partition::all().map(|partition| sweep_partition(core, node, partition)));
    let mut results = partitions.buffer_unordered(limits::SWEEPS_MAX);
    while let Some(result) = results.next().await {
        result?;
    }
    Ok(())
}

async fn sweep_partition(core: &RedisCore, node: &str, partition: Partition) -> Result<(), BackendError> {
    let key = core.keys.channels(partition, node);
    let client = core.client_of(partition).with_options(&scripts::once());
    loop {
        let some: Vec<String> =
            client.srandmember(&key, Some(limits::SWEEP_CHANNELS)).await.map_err(super::read_error)?;
        if some.is_empty() {
            return Ok(());
        }
        for channel_id in some.iter().filter_map(|channel_id| ChannelId::from_wire(channel_id)) {
            core.sweep_membership(&channel_id, node).await?;
        }
    }
}
