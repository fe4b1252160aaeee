//! Liveness, readiness and metrics (protocol.md 1.1).

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::handshake::Handshake;
use super::reply::Reply;
use super::{ApiError, socket};

use crate::metrics;
use crate::node::Node;

/// Returns the name and version of the server. A WebSocket handshake is closed with 4005, as on
/// any other unknown path.
pub(super) async fn root(State(node): State<Node>, request: Request) -> Result<Response, ApiError> {
    if Handshake::read(&request).is_ok() {
        return socket::refuse_path(&node, request, ApiError::unknown_route());
    }
    let body = json!({ "name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION") });
    Ok(Reply::json(&body).into_response())
}

/// Returns 200 as long as the process serves. Never depends on Redis.
pub(super) async fn live() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"live"}"#)
}

/// Returns 503 while the node drains, while Redis is unavailable or refuses writes, while messages
/// from its topics do not arrive, and while its lease is not renewed.
pub(super) async fn ready(State(node): State<Node>) -> impl IntoResponse {
    match node.unready() {
        None => match node.backend.warning() {
            None => Reply::json(&json!({ "status": "ready" })).into_response(),
            Some(warning) => Reply::json(&json!({ "status": "ready", "warning": warning })).into_response(),
        },
        Some(reason) => unready(&reason).into_response(),
    }
}

/// The 503 of a node that is not ready.
pub(super) fn unready(reason: &str) -> impl IntoResponse + use<> {
    let body = json!({ "status": "unready", "reason": reason });
    (StatusCode::SERVICE_UNAVAILABLE, [(header::CONTENT_TYPE, "application/json")], body.to_string())
}

/// Returns the metrics in the Prometheus text format.
pub(super) async fn metrics() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render())
}
