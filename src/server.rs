//! The server process: construction of the parts, serving, drain.

use std::borrow::Cow;
use std::fmt::Display;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::apps::{self, Apps};
use crate::backend::Backend;
use crate::backend::memory::Memory;
use crate::backend::redis::{ConnectError, Redis};
use crate::backend_events::{BackendEvents, backend_events};
use crate::config::Config;
use crate::listener::{self, Routes, Serving};
use crate::metrics;
use crate::node::{Node, NodeState, Settings};
use crate::sockets::connections::Connections;
use crate::sockets::http_limit::{HttpBounds, HttpLimiter};
use crate::sockets::write_buffer::WriteBuffer;
use crate::task::{self, Task};
use crate::webhook::Webhooks;
use crate::wire::close::Close;
use crate::{channels, files, http, limits, webhook};

/// Why the server did not start.
#[derive(Debug, Error)]
pub enum ServeError {
    #[error("cannot listen on {address}: {error}")]
    Listen { address: SocketAddr, error: io::Error },
    #[error("cannot use Redis: {0}")]
    Redis(#[from] ConnectError),
    #[error("the task {0} of this node has panicked: the process ends")]
    Panicked(Task),
}

/// The apps of a configuration that was read again, for a node that serves.
#[derive(Debug)]
pub struct Reload {
    pub apps: Vec<App>,
    /// Receives a message when the node uses them.
    pub applied: oneshot::Sender<()>,
}

/// Serves until `shutdown` resolves and the node is drained. Calls `ready` with the bound
/// address, whose port the system chooses if the configured one is 0. Applies `reloads` once the
/// node has started and until it drains.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr),
    reloads: mpsc::Receiver<Reload>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    metrics::install();
    let files_max = files::raise_limit();
    config.test_panic.into_iter().for_each(task::inject_panic);
    let listeners = [bind(config.listen)?, bind(config.metrics_listen)?];
    let [listen, metrics_listen] = listeners.each_ref().map(local);
    let [listener, metrics_listener] = listeners;
    let (step, step_reader) = watch::channel("connecting to Redis".to_owned());
    let routes = Routes::new(http::starting_router(step_reader, &config.path_prefix));
    let drain_times = (config.drain_delay, config.drain_window);
    let connections = Arc::<Connections>::default();
    let limiter = http_limiter(&config, files_max, connections.clone());
    // Every HTTP connection holds a receiver. It signals the shutdown to the connection, and
    // `closed` waits until every connection has dropped its receiver.
    let (ending, ending_reader) = watch::channel(());
    let serving = Serving {
        routes: routes.clone(),
        limiter: limiter.clone(),
        keep_alive: config.keep_alive_timeout,
        ending: ending_reader,
    };
    let metrics = Serving { routes: Routes::new(http::metrics_router()), ..serving.clone() };
    // Dropped, with its receivers, when the select below ends.
    let serve = async move {
        tokio::join!(
            listener::accept(listener, &serving, |peer| serving.limiter.accept(peer)),
            listener::accept(metrics_listener, &metrics, |_| metrics.limiter.accept_metrics())
        );
    };
    let serve_node = async {
        let mut shutdown = pin!(shutdown);
        if config.redis.is_some() {
            tracing::info!(%listen, %metrics_listen, "connecting to Redis");
        }
        let started = tokio::select! {
            started = start(config, connections, limiter, &step) => started?,
            () = shutdown.as_mut() => return Ok(None),
        };
        routes.set(http::router(started.node.clone()));
        tracing::info!(%listen, %metrics_listen, backend = started.backend, files_max, "listening");
        ready(listen);
        Task::Readiness.spawn(watch_readiness(started.node.clone()));
        Task::Expiry.spawn(remove_expired(started.node.clone()));
        tokio::select! {
            () = shutdown => {}
            () = apply_reloads(&started.node, reloads) => {}
        }
        drain(&started.node, drain_times).await;
        Ok::<_, ServeError>(Some(started))
    };
    // Both listeners serve from the beginning of the start to the end of the drain: the load
    // balancer polls `/ready`, and sends requests until it has seen the 503.
    let started = tokio::select! {
        () = serve => None,
        started = serve_node => started?,
        task = task::panicked() => return Err(ServeError::Panicked(task)),
    };
    // Requests in progress still receive their response.
    let _ = ending.send(());
    let _ = tokio::time::timeout(limits::SCRIPT_DEADLINE, ending.closed()).await;
    if let Some(Started { node, webhooks, .. }) = started {
        // After the connections: their end causes webhook events too.
        webhooks.stop().await;
        node.backend.leave().await;
        tracing::info!("drained");
    }
    Ok(())
}

/// A node that serves.
struct Started {
    node: Node,
    /// For the log.
    backend: &'static str,
    webhooks: Webhooks,
}

/// Builds the node. Sends each step of its start to `step`.
async fn start(
    config: Config,
    connections: Arc<Connections>,
    http_limiter: Arc<HttpLimiter>,
    step: &watch::Sender<String>,
) -> Result<Started, ConnectError> {
    let (events, receiver) = backend_events();
    let backend = Arc::new(connect(&config, events, step).await?);
    let channels = channels::start(receiver, backend.clone(), config.delta.clone(), config.detection_times);
    let apps = Arc::new(Apps::new(config.apps, backend.clone()));
    let settings = Settings {
        delta: config.delta,
        tag_filtering: config.tag_filtering,
        activity_timeout: config.activity_timeout,
        path_prefix: config.path_prefix,
        trusted_proxies: config.trusted_proxies,
    };
    let node: Node = Arc::new(NodeState::new(apps, backend, channels, connections, http_limiter, settings));
    if let Some(changes) = node.backend.app_changes() {
        Task::AppChanges.spawn(apps::watch_changes(node.apps.clone(), node.connections.clone(), changes));
    }
    let webhooks = webhook::start(node.clone());
    Ok(Started { node, backend: if config.redis.is_some() { "redis" } else { "memory" }, webhooks })
}

async fn connect(
    config: &Config,
    events: BackendEvents,
    step: &watch::Sender<String>,
) -> Result<Backend, ConnectError> {
    let Some(url) = &config.redis else {
        return Ok(Backend::Memory(Box::new(Memory::new(events, config.history_age))));
    };
    let on_error = |error: &dyn Display| {
        let failed = format!("connecting to Redis: {error}");
        // Each reason once, not each attempt.
        if *step.borrow() != failed {
            tracing::warn!(reason = %error, "Redis is not reachable yet");
            step.send_replace(failed);
        }
    };
    let (file, prefix, times) = (&config.redis_file, &config.redis_prefix, config.detection_times);
    let redis = Redis::connect(url, file.clone(), prefix, events, times, |error| on_error(error)).await?;
    Ok(Backend::Redis(Box::new(redis)))
}

/// Applies the apps of each reload, until the task is dropped.
async fn apply_reloads(node: &Node, mut reloads: mpsc::Receiver<Reload>) {
    while let Some(Reload { apps, applied }) = reloads.recv().await {
        node.apps.configure(apps, &node.connections).await;
        let _ = applied.send(());
    }
    std::future::pending::<()>().await;
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    listener::bind(address).map_err(|error| ServeError::Listen { address, error })
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a bound listener has an address")
}

/// The limits of connections, for a process that may have `files_max` open files.
fn http_limiter(config: &Config, files_max: u64, connections: Arc<Connections>) -> Arc<HttpLimiter> {
    let size = |count: u64| usize::try_from(count).unwrap_or(usize::MAX);
    let reserved = files::reserved(files_max);
    let bounds = HttpBounds {
        connections_max: config.http_connections_max,
        per_address_max: config.http_connections_per_address_max,
        files_max: size(files_max - reserved),
        reserve_max: size((reserved / 4).min(limits::RESERVE_CONNECTIONS_MAX)),
    };
    HttpLimiter::new(bounds, config.trusted_proxies.clone(), connections)
}

/// Logs when the node becomes ready or unready, and keeps the metric.
async fn watch_readiness(node: Node) {
    let mut interval = tokio::time::interval(limits::READINESS_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Option<Option<Cow<'static, str>>> = None;
    loop {
        interval.tick().await;
        let unready = node.unready();
        if known.as_ref() == Some(&unready) {
            continue;
        }
        metrics::metrics().ready.set(if unready.is_none() { 1.0 } else { 0.0 });
        match &unready {
            None => tracing::info!("ready"),
            Some(reason) => tracing::warn!(%reason, "not ready"),
        }
        known = Some(unready);
    }
}

/// Removes expired state of this node.
async fn remove_expired(node: Node) {
    let mut interval = tokio::time::interval(limits::EXPIRY_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        while node.backend.remove_expired() {
            tokio::task::yield_now().await;
        }
        node.apps.remove_expired().await;
        node.connection_limiter.remove_unused();
        node.http_limiter.remove_expired();
    }
}

/// Drains the node (design.md 5, protocol.md 6). It is not ready for `delay`, so that the load
/// balancer stops sending new connections. Then it closes its connections with 4200, spread
/// over `window`, because clients reconnect immediately.
async fn drain(node: &Node, (delay, window): (Duration, Duration)) {
    tracing::info!(sockets = node.connections.len(), "draining");
    node.drain();
    tokio::time::sleep(delay).await;
    const STEPS: u32 = 50;
    for steps_left in (1..=STEPS).rev() {
        let open = node.connections.open();
        if open.is_empty() {
            break;
        }
        close_all(&open[..open.len().div_ceil(steps_left as usize)]);
        tokio::time::sleep(window / STEPS).await;
    }
    close_all(&node.connections.open());
    // Waits for the last close frames. Memberships end with their connections.
    let _ = tokio::time::timeout(limits::CLOSE_TIMEOUT, async {
        while !node.connections.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn close_all(write_buffers: &[Arc<WriteBuffer>]) {
    for write_buffer in write_buffers {
        write_buffer.close(Close::Draining);
    }
}
