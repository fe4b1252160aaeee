//! Rate limits of an app, and the headers that report them (protocol.md 1.8).
//!
//! While Redis is unavailable, rate limits are not enforced: the requests that they limit fail
//! in any case.

use std::future::Future;
use std::pin::Pin;

use axum::http::HeaderName;
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

/// A response, and the state of the rate limit to which its request was charged.
#[derive(Debug)]
pub(super) struct Rated {
    pub(super) result: Result<Reply, ApiError>,
    /// `None` without a rate limit, without a charge, and if the state is unknown.
    pub(super) rate: Option<RateState>,
}

impl From<ApiError> for Rated {
    /// The response to a request that was refused before it was charged.
    fn from(error: ApiError) -> Rated {
        Rated { result: Err(error), rate: None }
    }
}

impl From<BackendError> for Rated {
    fn from(error: BackendError) -> Rated {
        let rate = match error {
            BackendError::RateLimited(state) => Some(state),
            _ => None,
        };
        Rated { result: Err(error.into()), rate }
    }
}

impl IntoResponse for Rated {
    fn into_response(self) -> Response {
        let mut response = self.result.into_response();
        if let Some(rate) = self.rate {
            let headers = response.headers_mut();
            headers.insert(LIMIT, rate.limit.into());
            headers.insert(REMAINING, rate.remaining.into());
            headers.insert(RESET, rate.reset_secs().into());
        }
        response
    }
}

/// Charges one query, then runs `work`, or returns 429 without running it. `work` is boxed,
/// because the state of its backend call would take memory in the handler's future three times.
pub(super) async fn read(
    node: &Node,
    app: &App,
    work: Pin<Box<impl Future<Output = Result<Reply, ApiError>>>>,
) -> Rated {
    match charge_read(node, app).await {
        Ok(rate) => Rated { result: work.await, rate },
        Err(error) => error.into(),
    }
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

/// Charges a query and returns the state of the window. `None` without a rate limit, and if the
/// backend cannot be reached.
async fn charge_read(node: &Node, app: &App) -> Result<Option<RateState>, BackendError> {
    let Some(rate) = app.rates.read_requests else { return Ok(None) };
    let charge = Charge { app: app.id.clone(), account: Account::ReadRequests, cost: 1, rate };
    match node.backend.charge(&charge).await {
        Ok(state) => Ok(Some(state)),
        Err(limited @ BackendError::RateLimited(_)) => Err(limited),
        Err(error) => {
            metrics().rate_limits_unenforced.increment(1);
            tracing::debug!(app = %app.id, %error, "rate limit not enforced");
            Ok(None)
        }
    }
}
