//! The HTTP API for app backends (protocol.md 1), and stage 1 of the pipeline. This module
//! contains the table of routes; `signed` verifies a request, `events` publishes its batch.

mod channels;
mod error;
pub mod error_code;
mod events;
mod handshake;
mod health;
mod info;
pub mod keep_alive;
mod path;
pub mod peer;
pub mod places;
mod query;
mod rates;
mod reply;
mod signed;
mod socket;
mod starting;
mod unread;
mod unsigned;
mod users;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};

use crate::metrics::apps::AppMetrics;
use crate::metrics::metrics;
use crate::node::Node;

use error::ApiError;

pub use starting::{StartStep, starting_router};

/// The routes of the HTTP API, the WebSocket endpoint and the health checks. With a path prefix
/// they exist at the root and below the prefix, because a proxy may strip or keep it.
pub fn router(node: Node) -> Router {
    let mut router = api(Router::new(), "");
    if !node.path_prefix.is_empty() {
        router = api(router, &node.path_prefix);
    }
    let unknown_path = async |State(node): State<Node>, request: Request| {
        socket::refuse_path(&node, request, ApiError::unknown_route())
    };
    let other_method = async |State(node): State<Node>, request: Request| {
        socket::refuse_path(&node, request, ApiError::method_not_allowed())
    };
    let mut routes =
        router.route("/", get(health::root)).fallback(unknown_path).method_not_allowed_fallback(other_method);
    if !node.trusted_proxies.is_empty() {
        routes = routes.layer(middleware::from_fn_with_state(node.clone(), places::limit_forwarded));
    }
    let delay_unsigned = middleware::from_fn_with_state(node.clone(), unsigned::delay_unsigned);
    layered(routes.with_state(node)).layer(delay_unsigned)
}

/// A router around the routes, so that routing uses the normalised path.
fn layered(routes: Router) -> Router {
    Router::new()
        .fallback_service(routes)
        .layer(middleware::map_request(path::normalize))
        .layer(middleware::from_fn(unread::close_unread))
        .layer(middleware::from_fn(count_failures))
}

fn api(router: Router<Node>, prefix: &str) -> Router<Node> {
    let at = |path: &str| [prefix, path].concat();
    router
        .route(&at("/apps/{app_id}/events"), post(events::post_event))
        .route(&at("/apps/{app_id}/batch_events"), post(events::post_batch))
        .route(&at("/apps/{app_id}/channels"), get(channels::get_channels))
        .route(&at("/apps/{app_id}/channels/{channel}"), get(channels::get_channel))
        .route(&at("/apps/{app_id}/channels/{channel}/users"), get(channels::get_users))
        .route(&at("/apps/{app_id}/users/{user_id}/terminate_connections"), post(users::post_terminate))
        .route(&at("/app/{key}"), get(socket::get_socket))
        .route(&at("/live"), get(health::live))
        .route(&at("/ready"), get(health::ready))
        .route(&at("/up"), get(health::ready))
}

/// `GET /metrics`, on a port of its own, which must not be reachable from the internet.
pub fn metrics_router() -> Router {
    Router::new()
        .route("/metrics", get(health::metrics))
        .fallback(async || ApiError::unknown_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
}

/// The metrics of the app that a request concerns, as soon as it is known: an extension of the
/// request.
#[derive(Debug, Clone, Default)]
struct RequestApp(Arc<OnceLock<Arc<AppMetrics>>>);

/// Counts responses with an error status.
async fn count_failures(mut request: Request, next: Next) -> Response {
    let app = RequestApp::default();
    request.extensions_mut().insert(app.clone());
    let response = next.run(request).await;
    let (status, app) = (response.status(), app.0.get());
    if status.is_server_error() {
        metrics().requests_failed.increment(1);
        app.inspect(|app| app.requests_failed.increment(1));
    } else if status.is_client_error() {
        metrics().requests_refused.increment(1);
        app.inspect(|app| app.requests_refused.increment(1));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        app.inspect(|app| app.requests_rate_limited.increment(1));
    }
    response
}
