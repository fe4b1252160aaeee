//! The edge where backends speak to us: the routes, as a table.

mod channels;
mod error;
mod events;
mod health;
mod path;
mod signed;
mod socket;

use axum::Router;
use axum::extract::Request;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use crate::metrics::metrics;
use crate::node::Node;

use error::ApiError;

/// Both APIs, and what tells whether this node is well.
pub fn router(node: Node) -> Router {
    Router::new()
        .route("/apps/{app_id}/events", post(events::post_event))
        .route("/apps/{app_id}/batch_events", post(events::post_batch))
        .route("/apps/{app_id}/channels/{channel}", get(channels::get_channel))
        .route("/app/{key}", get(socket::get_socket))
        .route("/live", get(health::live))
        .route("/ready", get(health::ready))
        .route("/up", get(health::ready))
        .fallback(async || ApiError::unknown_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn(count_failures))
        .with_state(node)
}

/// `GET /metrics`, on a port of its own: not for the internet.
pub fn metrics_router() -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .fallback(async || ApiError::unknown_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
}

async fn count_failures(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status().is_server_error() {
        metrics().requests_failed.increment(1);
    } else if response.status().is_client_error() {
        metrics().requests_refused.increment(1);
    }
    response
}
