//! The rate of requests without a valid signature, such as health checks and requests for unknown
//! paths (protocol.md 1.10).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;

use super::peer;
use super::places::Reserve;
use crate::node::Node;

/// Whether the signature of a request is valid: an extension of the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Verified(Arc<AtomicBool>);

impl Verified {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Middleware that delays responses to requests without a valid signature, if their address has
/// sent too many. The connection reads no further request meanwhile. WebSockets have limits of
/// their own, and a connection that is served from the reserve has only one request.
pub(super) async fn delay_unsigned(State(node): State<Node>, mut request: Request, next: Next) -> Response {
    let client = peer::client(&node, request.extensions(), request.headers());
    let is_reserve = request.extensions().get::<Reserve>().is_some();
    let verified = Verified::default();
    request.extensions_mut().insert(verified.clone());
    let response = next.run(request).await;
    let is_free = is_reserve || verified.get() || response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if let (false, Some(client)) = (is_free, client) {
        let delay = node.http_limiter.count_unsigned(client);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
    response
}
