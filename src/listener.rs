//! The listeners: from an accepted connection to the routes, within the limits of connections
//! (protocol.md 1.10).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tower_service::Service;

use crate::http::keep_alive::{HttpStream, Phase};
use crate::http::peer::Peer;
use crate::http::places::Reserve;
use crate::metrics::metrics;
use crate::sockets::http_limit::{HttpLimitReached, HttpLimiter, HttpPermit};
use crate::{files, http, limits};

/// Binds a listener.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Allows a restart while connections of the previous process are in TIME_WAIT.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(limits::ACCEPT_QUEUE_MAX)
}

/// The routes of a listener, which change when the node has started.
#[derive(Debug, Clone)]
pub struct Routes {
    starting: Router,
    node: Arc<OnceLock<Router>>,
}

impl Routes {
    pub fn new(starting: Router) -> Routes {
        Routes { starting, node: Arc::default() }
    }

    pub fn set(&self, node: Router) {
        let _ = self.node.set(node);
    }

    fn current(&self) -> Router {
        self.node.get().unwrap_or(&self.starting).clone()
    }
}

/// The parts that every HTTP connection of a listener needs.
#[derive(Debug, Clone)]
pub struct Serving {
    pub routes: Routes,
    pub limiter: Arc<HttpLimiter>,
    /// Time for which a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// Signals the shutdown. Its sender waits until every connection has dropped its receiver.
    pub ending: watch::Receiver<()>,
}

/// Serves the connections of a listener. `admit` decides by address.
pub async fn accept(
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
                metrics().accepts_failed.increment(1);
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
    let Serving { routes, limiter, keep_alive, mut ending } = serving;
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
        let (phase, response) = (phase.clone(), routes.current().call(request));
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
