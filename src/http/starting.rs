//! The routes of a node that starts and waits for its backend (protocol.md 1.1): it is live, and not
//! ready.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::watch;

use super::{ApiError, health, layered};

/// The step of the start that is not done yet, as `/ready` reports it.
pub type StartStep = watch::Receiver<String>;

/// Serves health checks, at the root and below the prefix. Other requests, also upgrades, receive a
/// 503: a client or a load balancer retries, on this node or another one.
pub fn starting_router(step: StartStep, path_prefix: &str) -> Router {
    let mut router = health_routes(Router::new(), "");
    if !path_prefix.is_empty() {
        router = health_routes(router, path_prefix);
    }
    let other = async || ApiError::starting();
    layered(router.fallback(other).method_not_allowed_fallback(other).with_state(step))
}

fn health_routes(router: Router<StartStep>, prefix: &str) -> Router<StartStep> {
    let at = |path: &str| [prefix, path].concat();
    router
        .route(&at("/live"), get(health::live))
        .route(&at("/ready"), get(ready))
        .route(&at("/up"), get(ready))
}

async fn ready(State(step): State<StartStep>) -> Response {
    health::unready(&step.borrow()).into_response()
}
