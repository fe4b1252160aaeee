//! Rate limits of an app, and the headers that report them (protocol.md 1.8).
//!
//! While Redis is unavailable, rate limits are not enforced: the requests that they limit fail
//! in any case.

use std::future::Future;
use std::pin::Pin;

use axum::http::{HeaderMap, HeaderName};
use axum::response::{IntoResponse, Response};

use super::ApiError;
use super::reply::Reply;
use crate::app::App;
use crate::backend::{Account, BackendError, Charge, RateState};
use crate::batch::Batch;
use crate::metrics::metrics;
use crate::node::Node;

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// Charges one request, then runs `work`, or returns 429 without running it. `work` is
/// boxed, because the state of its backend call would take memory in the handler's future three
/// times.
pub(super) async fn read(
    node: &Node,
    app: &App,
    work: Pin<Box<impl Future<Output = Result<Reply, ApiError>>>>,
) -> Response {
    match charge(node, app, Account::ReadRequests, 1).await {
        Err(limited) => limited.into_response(),
        Ok(rate) => with_headers(work.await.into_response(), rate),
    }
}

/// The response to a publish, with the rate limit headers. The publishing script charges the
/// rate limit. A publish that was refused before it reached the script has no state of the
/// window, so it is read with a charge of 0.
pub(super) async fn publish_response(
    node: &Node,
    app: &App,
    outcome: Result<(Reply, Option<RateState>), ApiError>,
) -> Response {
    let (response, rate) = match outcome {
        Ok((reply, rate)) => (reply.into_response(), rate),
        Err(error) if error.is_limited() => return error.into_response(),
        Err(error) => (error.into_response(), None),
    };
    // After a failure of the server, another call to the backend would fail too.
    if rate.is_some() || response.status().is_server_error() {
        return with_headers(response, rate);
    }
    let rate = match charge(node, app, Account::BackendEvents, 0).await {
        Ok(rate) => rate,
        Err(limited) => limited.rate(),
    };
    with_headers(response, rate)
}

/// Fails if a batch costs more than a whole window holds: with a 429 the client would retry for
/// ever.
pub(super) fn check_affordable(app: &App, batch: &Batch) -> Result<(), ApiError> {
    match app.rates.backend_events {
        Some(rate) if batch.cost() > rate.count => {
            Err(ApiError::unaffordable(batch.cost(), rate.count, rate.window))
        }
        _ => Ok(()),
    }
}

/// Charges a rate limit and returns the state of its window. `None` without a rate limit, and if
/// the backend cannot be reached.
async fn charge(node: &Node, app: &App, account: Account, cost: u64) -> Result<Option<RateState>, ApiError> {
    let rate = match account {
        Account::BackendEvents => app.rates.backend_events,
        Account::ReadRequests => app.rates.read_requests,
    };
    let Some(rate) = rate else { return Ok(None) };
    match node.backend.charge(&Charge { app: app.id.clone(), account, cost, rate }).await {
        Ok(state) => Ok(Some(state)),
        Err(limited @ BackendError::RateLimited(_)) => Err(limited.into()),
        Err(error) => {
            metrics().rate_limits_unenforced.increment(1);
            tracing::debug!(app = %app.id, %error, "rate limit not enforced");
            Ok(None)
        }
    }
}

fn with_headers(mut response: Response, rate: Option<RateState>) -> Response {
    if let Some(rate) = rate {
        write_headers(response.headers_mut(), rate);
    }
    response
}

pub(super) fn write_headers(headers: &mut HeaderMap, rate: RateState) {
    headers.insert(LIMIT, rate.limit.into());
    headers.insert(REMAINING, rate.remaining.into());
    headers.insert(RESET, reset_secs(rate).into());
}

/// Whole seconds to the end of the window, rounded up, so that a retry never comes too early.
pub(super) fn reset_secs(rate: RateState) -> u64 {
    rate.reset.as_secs() + u64::from(rate.reset.subsec_nanos() > 0)
}
