//! Leases (design.md 5, *Leases*). A node's lease is a counter. A node that observes an unchanged
//! counter for too long fences its owner and sweeps the owner's memberships.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fred::interfaces::{ClientLike, EventInterface, HashesInterface, SetsInterface};
use fred::prelude::Value;
use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;

use super::error::{CallError, ScriptError, read_error};
use super::{RedisCore, SCHEMA, scripts};
use crate::app::Secret;
use crate::backend::BackendError;
use crate::channel::{ChannelId, Partition};
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

#[derive(Debug)]
pub(super) struct Lease {
    core: Arc<RedisCore>,
    state: Mutex<State>,
}

/// Characters of an incarnation's name that identify the process. The others number its
/// incarnations.
const PROCESS_CHARS: usize = 12;

/// The name under which a node writes memberships. A fenced name is never used again.
#[derive(Debug, Clone)]
pub(super) struct Incarnation {
    pub(super) name: Arc<str>,
    /// The previous name of this node, until its memberships are swept: updates replace them.
    pub(super) replaced: Option<Arc<str>>,
}

/// Why a node begins a new incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    /// The lease is gone: the node was fenced, or Redis has lost its data.
    LeaseLost,
    /// Another Redis process answers, which may have lost departures: memberships that this node does
    /// not report again must go.
    OtherProcess,
}

#[derive(Debug)]
struct State {
    incarnation: Incarnation,
    renewed: Instant,
    ended: bool,
    /// Living incarnations, as of the last renewal.
    nodes: Vec<String>,
    /// Dead nodes that this node is sweeping.
    sweeping: HashSet<String>,
}

/// This node's observation of another node's lease counter.
#[derive(Debug)]
struct Observation {
    counter: String,
    since: Instant,
}

/// Leases and fenced nodes, as `lua/renew_node.lua` returns them.
#[derive(Debug, Default)]
struct Nodes {
    leases: HashMap<String, String>,
    dead: HashMap<String, u64>,
    /// The last renewal was answered by another Redis process.
    are_of_other_process: bool,
}

impl State {
    fn is_overdue(&self, core: &RedisCore) -> bool {
        self.renewed.elapsed() >= core.times.lease_expiry * 3 / 4
    }
}

impl Lease {
    pub(super) async fn begin(core: Arc<RedisCore>) -> Result<Arc<Lease>, BackendError> {
        let incarnation = Incarnation::first();
        renew(&core, &incarnation.name, true).await?;
        let state = State {
            incarnation,
            renewed: Instant::now(),
            ended: false,
            nodes: Vec::new(),
            sweeping: HashSet::new(),
        };
        let lease = Arc::new(Lease { core, state: Mutex::new(state) });
        Task::Lease.spawn(lease.clone().renew_regularly());
        Ok(lease)
    }

    /// The incarnation under which memberships are written. `None` after three quarters of the
    /// expiry without a renewal, when other nodes may have fenced it, and after [`Lease::end`].
    pub(super) fn incarnation(&self) -> Option<Incarnation> {
        let state = self.state.lock();
        let fresh = !state.is_overdue(&self.core);
        (fresh && !state.ended).then(|| state.incarnation.clone())
    }

    /// Whether three quarters of the expiry have passed without a renewal.
    pub(super) fn is_overdue(&self) -> bool {
        self.state.lock().is_overdue(&self.core)
    }

    /// Incarnations of all living nodes, which may include this one.
    pub(super) fn nodes(&self) -> Vec<String> {
        self.state.lock().nodes.clone()
    }

    /// Removes this node's memberships and fences its own incarnation, so that other nodes sweep it
    /// again, for updates that were still in flight.
    pub(super) async fn end(&self) {
        let incarnation = {
            let mut state = self.state.lock();
            state.ended = true;
            state.incarnation.name.clone()
        };
        let end = async {
            sweep(&self.core, &incarnation).await?;
            let client = self.core.clients[0].with_options(&scripts::once());
            let counter: Option<String> =
                client.hget(self.core.keys.leases(), incarnation.as_ref()).await.map_err(read_error)?;
            fence(&self.core, &incarnation, counter.unwrap_or_default()).await
        };
        match tokio::time::timeout(limits::SCRIPT_DEADLINE, end).await {
            Ok(Ok(_)) => {}
            // Other nodes will observe an unchanged counter and sweep.
            Ok(Err(error)) => tracing::warn!(%error, "memberships not removed"),
            Err(_) => tracing::warn!("memberships not removed in time"),
        }
    }

    async fn renew_regularly(self: Arc<Lease>) {
        let mut observations: HashMap<String, Observation> = HashMap::new();
        let mut renewed = Instant::now();
        let mut restarts_for = None;
        let mut interval = tokio::time::interval(self.core.times.lease_interval);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut reconnects = self.core.clients[0].reconnect_rx();
        loop {
            tokio::select! {
                _ = interval.tick() => {}
                // Another process may answer now.
                _ = reconnects.recv() => {}
            }
            let (own, ended) = {
                let state = self.state.lock();
                (state.incarnation.clone(), state.ended)
            };
            if ended {
                return;
            }
            match renew(&self.core, &own.name, false).await {
                Ok(nodes) => {
                    if nodes.are_of_other_process {
                        restarts_for = Some(Reason::OtherProcess);
                    }
                    {
                        let mut state = self.state.lock();
                        state.renewed = Instant::now();
                        state.nodes = nodes.leases.keys().cloned().collect();
                    }
                    // An observation with interruptions proves nothing: this node itself may have
                    // been paused, or Redis.
                    if renewed.elapsed() > self.core.times.lease_expiry / 4 {
                        observations.clear();
                    }
                    renewed = Instant::now();
                    metrics().nodes.set(nodes.leases.len() as f64);
                    self.observe(nodes, &own.name, &mut observations);
                }
                Err(CallError::Script(ScriptError::Swept)) => restarts_for = Some(Reason::LeaseLost),
                Err(error) => {
                    tracing::debug!(error = %BackendError::from(error), "lease not renewed");
                }
            }
            if let Some(reason) = restarts_for
                && self.restart_incarnation(&own, reason).await.is_ok()
            {
                restarts_for = None;
            }
        }
    }

    /// Begins a new incarnation, under which all memberships are reported and replace those of the old
    /// one. What remains of the old one is swept when its last calls have ended.
    async fn restart_incarnation(
        self: &Arc<Lease>,
        old: &Incarnation,
        reason: Reason,
    ) -> Result<(), CallError> {
        let incarnation = old.next();
        let nodes = renew(&self.core, &incarnation.name, true).await?;
        if reason == Reason::LeaseLost {
            metrics().leases_lost.increment(1);
            tracing::warn!("the lease of this node was lost: beginning a new incarnation");
        }
        {
            let mut state = self.state.lock();
            state.incarnation = incarnation;
            state.renewed = Instant::now();
        }
        let (lease, old) = (self.clone(), old.name.clone());
        if let Some(counter) = nodes.leases.get(&*old) {
            // Its connections would be counted twice. After an error, other nodes fence it.
            let _ = fence(&self.core, &old, counter.clone()).await;
        }
        self.core.events.report_memberships();
        Task::LeaseSweep.spawn(async move {
            tokio::time::sleep(limits::SCRIPT_DEADLINE).await;
            finish_sweep(lease.core.clone(), old.to_string()).await;
            let mut state = lease.state.lock();
            state.incarnation.replaced.take_if(|replaced| *replaced == old);
        });
        Ok(())
    }

    /// Fences nodes with an unchanged counter for too long, and sweeps fenced nodes.
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
            } else if observation.since.elapsed() >= self.core.times.lease_expiry {
                self.sweep_once(node.clone(), reap(self.core.clone(), node, counter));
            }
        }
        // The fencing node should have finished its sweep by now, unless it has died.
        for (node, age_ms) in nodes.dead {
            if age_ms > self.core.times.lease_expiry.as_millis() as u64 {
                self.sweep_once(node.clone(), finish_sweep(self.core.clone(), node));
            }
        }
    }

    /// Spawns a sweep, unless one of the same node is still running.
    fn sweep_once(self: &Arc<Lease>, node: String, sweep: impl Future<Output = ()> + Send + 'static) {
        if self.state.lock().sweeping.insert(node.clone()) {
            let lease = self.clone();
            Task::LeaseSweep.spawn(async move {
                sweep.await;
                lease.state.lock().sweeping.remove(&node);
            });
        }
    }
}

impl Incarnation {
    fn first() -> Incarnation {
        let process = rand::random::<u64>() >> 16;
        Incarnation { name: format!("{process:012x}0000").into(), replaced: None }
    }

    fn next(&self) -> Incarnation {
        let number = u16::from_str_radix(&self.name[PROCESS_CHARS..], 16).unwrap_or_default();
        let name = format!("{}{:04x}", process_of(&self.name), number.wrapping_add(1));
        Incarnation { name: name.into(), replaced: Some(self.name.clone()) }
    }

    /// The common beginning of the names of all incarnations of this process.
    pub(super) fn process(&self) -> &str {
        process_of(&self.name)
    }
}

/// The process of the incarnation with this name.
pub(super) fn process_of(name: &str) -> &str {
    name.get(..PROCESS_CHARS).unwrap_or(name)
}

/// `lua/renew_node.lua`. Adopts the cluster's key for resume tokens, and the run id of Redis.
async fn renew(core: &RedisCore, incarnation: &str, is_new: bool) -> Result<Nodes, CallError> {
    let keys =
        vec![core.keys.leases(), core.keys.dead(), core.keys.tokens(), core.keys.seen(), core.keys.schema()];
    let own_key = core.resume_tokens.key();
    let arguments = vec![
        Value::String(incarnation.into()),
        scripts::number(u64::from(is_new)),
        scripts::bytes(own_key.reveal().to_vec()),
        scripts::number(core.seen_seq.load(Ordering::Relaxed)),
        scripts::number(SCHEMA),
    ];
    let answer = core.scripts.renew_node.run(&core.clients[0], keys, arguments).await?;
    let mut lists = answer.into_array().into_iter();
    let leases = lists.next().map(pairs).unwrap_or_default();
    let dead = lists.next().map(pairs).unwrap_or_default();
    // Negative after the clock of Redis was set back: the age is unknown, and a sweep may be repeated.
    let dead = dead.into_iter().map(|(node, age_ms)| (node, age_ms.parse().unwrap_or(u64::MAX)));
    if let Some(key) = lists.next().and_then(Value::into_string) {
        core.resume_tokens.adopt(Secret::new(key));
    }
    let (run_id, seen_seq) = (lists.next().and_then(Value::into_string), lists.next());
    core.seen_seq.fetch_max(seen_seq.and_then(|seen| seen.as_u64()).unwrap_or(0), Ordering::Relaxed);
    let are_of_other_process = run_id.is_some_and(|run_id| {
        core.run_id.adopt(&run_id, || {
            // Before the first epoch that this node opens there.
            core.seen_seq.fetch_add(limits::EPOCH_MARGIN, Ordering::Relaxed);
        })
    });
    Ok(Nodes { leases, dead: dead.collect(), are_of_other_process })
}

fn pairs(list: Value) -> HashMap<String, String> {
    list.convert().unwrap_or_default()
}

/// `lua/fence_node.lua`. Returns whether this call has fenced the node.
async fn fence(core: &RedisCore, node: &str, counter: String) -> Result<bool, BackendError> {
    let keys = vec![core.keys.leases(), core.keys.dead()];
    let arguments = vec![Value::String(node.into()), Value::String(counter.into())];
    let answer = core.scripts.fence_node.run(&core.clients[0], keys, arguments).await?;
    Ok(answer.as_u64() == Some(1))
}

async fn reap(core: Arc<RedisCore>, node: String, counter: String) {
    // A failed fence is repeated at the next renewal.
    if fence(&core, &node, counter).await == Ok(true) {
        tracing::info!(%node, "a node has died: removing its memberships");
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
        Err(error) => tracing::warn!(%node, %error, "sweep not finished; it will be repeated"),
    }
}

/// Removes all memberships of a node, in bounded steps, and refuses updates that arrive later:
/// `lua/mark_swept.lua`. Idempotent, because sweeps may be
/// interrupted or run concurrently.
async fn sweep(core: &RedisCore, node: &str) -> Result<(), BackendError> {
    let partitions = stream::iter(Partition::all().map(|partition| sweep_partition(core, node, partition)));
    let mut results = partitions.buffer_unordered(limits::SWEEPS_MAX);
    let mut failed = Ok(());
    while let Some(result) = results.next().await {
        // The other partitions are swept nevertheless.
        failed = failed.and(result);
    }
    failed
}

async fn sweep_partition(core: &RedisCore, node: &str, partition: Partition) -> Result<(), BackendError> {
    let client = core.client_of(partition);
    let ttl_ms = scripts::number(limits::SWEPT_TTL.as_millis() as u64);
    core.scripts.mark_swept.run(client, vec![core.keys.swept(partition, node)], vec![ttl_ms]).await?;
    let key = core.keys.channels(partition, node);
    let client = client.with_options(&scripts::once());
    loop {
        let page: Vec<String> =
            client.srandmember(&key, Some(limits::SWEEP_CHANNELS)).await.map_err(read_error)?;
        if page.is_empty() {
            return Ok(());
        }
        for channel_id in page.iter().filter_map(|channel_id| ChannelId::from_wire(channel_id)) {
            core.sweep_membership(&channel_id, node).await?;
        }
    }
}
