//! The server process: construction of the parts, serving, drain.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tower_service::Service;

use crate::apps::{self, Apps};
use crate::backend::Backend;
use crate::backend::memory::Memory;
use crate::backend::redis::{ConnectError, Redis};
use crate::backend_events::{BackendEvents, backend_events};
use crate::config::Config;
use crate::http::keep_alive::{HttpStream, Phase};
use crate::http::peer::Peer;
use crate::http::places::Reserve;
use crate::metrics;
use crate::node::{Node, NodeState, Settings};
use crate::sockets::http_limit::{HttpBounds, HttpLimitReached, HttpLimiter, HttpPermit};
use crate::sockets::write_buffer::WriteBuffer;
use crate::task::{self, Task};
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

/// Serves until `shutdown` resolves and the node is drained. Calls `ready` with the bound
/// address, whose port the system chooses if the configured one is 0.
pub async fn run(
    config: Config,
    ready: impl FnOnce(SocketAddr),
    shutdown: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    metrics::install();
    let files_max = files::raise_limit();
    config.test_panic.into_iter().for_each(task::inject_panic);
    let mut shutdown = pin!(shutdown);
    let listener = bind(config.listen)?;
    let metrics_listener = bind(config.metrics_listen)?;
    let (listen, metrics_listen) = (local(&listener), local(&metrics_listener));
    let (events, receiver) = backend_events();
    let backend = tokio::select! {
        backend = connect(&config, events) => Arc::new(backend?),
        () = shutdown.as_mut() => return Ok(()),
        task = task::panicked() => return Err(ServeError::Panicked(task)),
    };
    let channels = channels::start(receiver, backend.clone(), config.delta.clone(), config.detection_times);
    let apps = Arc::new(Apps::new(config.apps, backend.clone()));
    let settings = Settings {
        delta: config.delta,
        tag_filtering: config.tag_filtering,
        activity_timeout: config.activity_timeout,
        path_prefix: config.path_prefix,
        trusted_proxies: config.trusted_proxies,
        http_bounds: HttpBounds {
            connections_max: config.http_connections_max,
            per_address_max: config.http_connections_per_address_max,
            files_max: size(files_max - files::reserved(files_max)),
            reserve_max: size((files::reserved(files_max) / 4).min(limits::RESERVE_CONNECTIONS_MAX)),
        },
    };
    let node: Node = Arc::new(NodeState::new(apps, backend, channels, settings));
    if let Some(changes) = node.backend.app_changes() {
        Task::AppChanges.spawn(apps::watch_changes(node.apps.clone(), node.connections.clone(), changes));
    }
    tracing::info!(
        %listen,
        %metrics_listen,
        backend = if config.redis.is_some() { "redis" } else { "memory" },
        files_max,
        "listening"
    );
    ready(listen);
    Task::Readiness.spawn(watch_readiness(node.clone()));
    let webhooks = webhook::start(node.clone());
    // Every HTTP connection holds a receiver. It signals the shutdown to the connection, and
    // `closed` waits until every connection has dropped its receiver.
    let (ending, connections) = watch::channel(());
    let serving = Serving {
        router: http::router(node.clone()),
        limiter: node.http_limiter.clone(),
        keep_alive: config.keep_alive_timeout,
        ending: connections,
    };
    let metrics = Serving { router: http::metrics_router(), ..serving.clone() };
    // Dropped, with its receivers, when the select below ends.
    let serve = async move {
        tokio::join!(
            accept(listener, &serving, |peer| serving.limiter.accept(peer)),
            accept(metrics_listener, &metrics, |_| metrics.limiter.accept_metrics())
        );
    };
    // Both listeners keep serving during the drain: the load balancer polls `/ready`, and sends
    // requests until it has seen the 503.
    tokio::select! {
        () = serve => {}
        task = task::panicked() => return Err(ServeError::Panicked(task)),
        () = async {
            shutdown.as_mut().await;
            drain(&node, config.drain_delay, config.drain_window).await;
        } => {}
    }
    // Requests in progress still receive their response.
    let _ = ending.send(());
    let _ = tokio::time::timeout(limits::SCRIPT_DEADLINE, ending.closed()).await;
    // After the connections: their end causes webhook events too.
    webhooks.stop().await;
    node.backend.leave().await;
    tracing::info!("drained");
    Ok(())
}

async fn connect(config: &Config, events: BackendEvents) -> Result<Backend, ConnectError> {
    let Some(url) = &config.redis else { return Ok(Backend::Memory(Box::new(Memory::new(events)))) };
    let redis = Redis::connect(url, &config.redis_prefix, events, config.detection_times).await?;
    Ok(Backend::Redis(Box::new(redis)))
}

fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    let bound = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // Allows a restart while connections of the previous process are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(limits::ACCEPT_QUEUE_MAX)
    };
    bound().map_err(|error| ServeError::Listen { address, error })
}

fn local(listener: &TcpListener) -> SocketAddr {
    listener.local_addr().expect("a bound listener has an address")
}

/// The parts that every HTTP connection of a listener needs.
#[derive(Clone)]
struct Serving {
    router: Router,
    limiter: Arc<HttpLimiter>,
    keep_alive: Duration,
    ending: watch::Receiver<()>,
}

async fn accept(
    listener: TcpListener,
    serving: &Serving,
    admit: impl Fn(IpAddr) -> Result<HttpPermit, HttpLimitReached>,
) {
    let mut shortage = Shortage::default();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match admit(peer.ip()) {
                Ok(permit) => {
                    shortage.update(permit.reserve());
                    tokio::spawn(serve_connection(stream, Peer(peer), serving.clone(), permit));
                }
                Err(reached) => {
                    shortage.update(Some(reached));
                    refuse(&stream, reached);
                }
            },
            Err(error) => {
                // Usually out of file descriptors. Waiting connections stay in the accept queue
                // until some are free again.
                metrics::metrics().accepts_failed.increment(1);
                shortage.set(Some(&error.to_string()));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Sends the reason, if the kernel takes it at once. The drop of the stream closes it.
fn refuse(stream: &TcpStream, reached: HttpLimitReached) {
    let _ = SockRef::from(stream).send(&http::places::refusal(reached));
}

/// Logs when a listener has no place for connections, and when it has again, at most once in a
/// second.
#[derive(Default)]
struct Shortage {
    is_logged: bool,
    logged_at: Option<Instant>,
}

impl Shortage {
    /// After the admission of a connection, with the limit that was reached.
    fn update(&mut self, reached: Option<HttpLimitReached>) {
        match reached {
            None => self.set(None),
            Some(HttpLimitReached::Node) => self.set(Some("all places for connections are taken")),
            // Concerns one address only; the limiter logs it.
            Some(HttpLimitReached::Address) => {}
        }
    }

    fn set(&mut self, reason: Option<&str>) {
        let is_recent = self.logged_at.is_some_and(|at| at.elapsed() < limits::SHORTAGE_LOG_INTERVAL);
        if reason.is_some() == self.is_logged || is_recent {
            return;
        }
        (self.is_logged, self.logged_at) = (reason.is_some(), Some(Instant::now()));
        match reason {
            Some(reason) => tracing::warn!(
                reason,
                files_open = files::open(),
                files_max = files::limit(),
                "connections are refused, or served from the reserve"
            ),
            None => tracing::info!("connections are accepted again"),
        }
    }
}

async fn serve_connection(stream: TcpStream, peer: Peer, serving: Serving, permit: HttpPermit) {
    let Serving { router, limiter, keep_alive, mut ending } = serving;
    let _ = stream.set_nodelay(true);
    let phase = Phase::default();
    let reserve = permit.reserve();
    let is_reserve = reserve.is_some();
    let idle_max = if is_reserve { limits::RESERVE_IDLE_TIMEOUT } else { keep_alive };
    let stream = HttpStream::new(stream, phase.clone(), idle_max, permit);
    let service = service_fn(move |mut request: Request<Incoming>| {
        phase.begin_request();
        request.extensions_mut().insert(peer);
        if let Some(reached) = reserve {
            request.extensions_mut().insert(Reserve(reached));
        }
        let (phase, response) = (phase.clone(), router.clone().call(request));
        async move {
            let response = response.await;
            phase.end_request();
            response
        }
    });
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(limits::HTTP_HEAD_BYTES_MAX)
        .keep_alive(!is_reserve)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    // `hyper_util::server::graceful` does not accept HTTP/1 connections with upgrades, except
    // those of its `auto` builder, which needs HTTP/2.
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = has_no_place(&limiter, peer, is_reserve) => {
            if is_reserve {
                return;
            }
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        _ = ending.changed() => {
            // A request in progress receives its response, then the connection is closed.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "connection ended");
    }
}

/// Waits until the connection has to leave its place to others. Most become WebSockets, or are
/// closed, before.
async fn has_no_place(limiter: &Arc<HttpLimiter>, Peer(peer): Peer, is_reserve: bool) {
    if is_reserve {
        return tokio::time::sleep(limits::RESERVE_TIMEOUT).await;
    }
    tokio::time::sleep(limits::HTTP_SETTLE_TIME).await;
    if let Some(_permit) = limiter.settle(peer.ip()) {
        std::future::pending::<()>().await;
    }
}

fn size(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// Logs when the node becomes ready or unready, and keeps the metric.
async fn watch_readiness(node: Node) {
    let mut interval = tokio::time::interval(limits::READINESS_INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut known: Option<Option<&'static str>> = None;
    loop {
        interval.tick().await;
        let unready = node.unready();
        if known.replace(unready) == Some(unready) {
            continue;
        }
        metrics::metrics().ready.set(if unready.is_none() { 1.0 } else { 0.0 });
        match unready {
            None => tracing::info!("ready"),
            Some(reason) => tracing::warn!(reason, "not ready"),
        }
    }
}

/// Drains the node (design.md 5, protocol.md 6). It is not ready for `delay`, so that the load
/// balancer stops sending new connections. Then it closes its connections with 4200, spread
/// over `window`, because clients reconnect immediately.
async fn drain(node: &Node, delay: Duration, window: Duration) {
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
