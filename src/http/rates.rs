//! How often an app may ask, and what every answer says of it (protocol.md 1.8).
//!
//! The limiter refuses, but it never fails: while Redis is away rates are not
//! enforced, because what they would limit is refused anyway.

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

/// Does `work` if the app may ask once more. It comes boxed: what a call to Redis
/// takes would lie in the handler three times over.
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

/// What came of a publish, which is charged where it is carried out. Where it was
/// not carried out, the app is told where it stands all the same.
pub(super) async fn published(
    node: &Node,
    app: &App,
    outcome: Result<(Reply, Option<RateState>), ApiError>,
) -> Response {
    let (response, rate) = match outcome {
        Ok((reply, rate)) => (reply.into_response(), rate),
        Err(error) if error.is_limited() => return error.into_response(),
        Err(error) => (error.into_response(), None),
    };
    // Where the server has failed, the question would not be answered either.
    if rate.is_some() || response.status().is_server_error() {
        return with_headers(response, rate);
    }
    let rate = match charge(node, app, Account::BackendEvents, 0).await {
        Ok(rate) => rate,
        Err(limited) => limited.rate(),
    };
    with_headers(response, rate)
}

/// A batch that no window can hold would be told to come back for ever.
pub(super) fn check_affordable(app: &App, batch: &Batch) -> Result<(), ApiError> {
    match app.rates.backend_events {
        Some(rate) if batch.cost() > rate.count => {
            Err(ApiError::unaffordable(batch.cost(), rate.count, rate.window))
        }
        _ => Ok(()),
    }
}

/// `None` where there is no limit, or nobody can say where the app stands.
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
            tracing::debug!(app = %app.id, %error, "rate not enforced");
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

/// Whole seconds, rounded up: whoever waits so long does not come too early.
pub(super) fn reset_secs(rate: RateState) -> u64 {
    rate.reset.as_secs() + u64::from(rate.reset.subsec_nanos() > 0)
}
