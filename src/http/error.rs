//! Errors of the HTTP API (protocol.md 1.2). Only this module chooses the status and the body:
//! `{"error":text,"code":slug,"status":int}`, with `index` and `field` if they apply.

use std::fmt;
use std::time::Duration;

use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::error_code::ErrorCode;
use super::handshake::{HandshakeError, UPGRADE_HEADERS};
use super::query::QueryError;
use crate::backend::{BackendError, RateState};
use crate::batch::{BatchError, BatchFault};
use crate::channel::{ChannelNameError, UserIdError};
use crate::metrics::metrics;
use crate::sockets::http_limit::HttpLimitReached;

#[derive(Debug)]
pub(super) struct ApiError {
    code: ErrorCode,
    error: String,
    index: Option<usize>,
    field: Option<&'static str>,
    /// The header `Retry-After`, in seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(code: ErrorCode, error: impl Into<String>) -> ApiError {
        ApiError { code, error: error.into(), index: None, field: None, retry_after: None }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.code.status()
    }

    pub(super) fn body(&self) -> String {
        let status = self.status().as_u16();
        let mut body = json!({ "error": self.error, "code": self.code.name(), "status": status });
        if let Some(index) = self.index {
            body["index"] = index.into();
        }
        if let Some(field) = self.field {
            body["field"] = field.into();
        }
        body.to_string()
    }

    fn in_field(self, field: &'static str) -> ApiError {
        ApiError { field: Some(field), ..self }
    }

    fn retry_after(self, secs: u64) -> ApiError {
        ApiError { retry_after: Some(secs), ..self }
    }

    pub(super) fn unknown_route() -> ApiError {
        ApiError::new(ErrorCode::NotFound, "Nothing is served at this path")
    }

    pub(super) fn method_not_allowed() -> ApiError {
        ApiError::new(ErrorCode::MethodNotAllowed, "Method not allowed at this path")
    }

    pub(super) fn upgrade_required(error: &HandshakeError) -> ApiError {
        ApiError::new(ErrorCode::UpgradeRequired, error.to_string())
    }

    pub(super) fn draining() -> ApiError {
        ApiError::new(ErrorCode::Draining, "The node is shutting down").retry_after(1)
    }

    pub(super) fn starting() -> ApiError {
        let error = "The node is starting: the operation was not executed";
        ApiError::new(ErrorCode::ServiceUnavailable, error).retry_after(1)
    }

    pub(super) fn unknown_app(id: &str) -> ApiError {
        ApiError::new(ErrorCode::AppNotFound, format!("There is no app with the id {id:?}"))
    }

    pub(super) fn app_disabled() -> ApiError {
        ApiError::new(ErrorCode::Forbidden, "The app is disabled")
    }

    pub(super) fn unauthorized(error: impl Into<String>) -> ApiError {
        metrics().auth_failures.increment(1);
        ApiError::new(ErrorCode::AuthFailed, error)
    }

    pub(super) fn content_encoding(encoding: &str) -> ApiError {
        let error = format!("Content-Encoding {encoding:?} is not supported: send the body as it is");
        ApiError::new(ErrorCode::UnsupportedEncoding, error)
    }

    pub(super) fn body_too_large(bytes_max: usize) -> ApiError {
        let error =
            format!("The body is larger than {bytes_max} bytes, the most that this app's limits allow");
        ApiError::new(ErrorCode::PayloadTooLarge, error)
    }

    pub(super) fn body_timeout() -> ApiError {
        ApiError::new(ErrorCode::RequestTimeout, "The body was not received in time")
    }

    pub(super) fn body_broken() -> ApiError {
        ApiError::new(ErrorCode::InvalidInput, "The connection ended before the body was complete")
    }

    pub(super) fn invalid_path(rejection: &PathRejection) -> ApiError {
        let text = rejection.body_text();
        let field = ["channel", "user_id"].into_iter().find(|field| text.contains(&format!("`{field}`")));
        ApiError { field, ..ApiError::invalid_query(text) }
    }

    pub(super) fn invalid_query(error: impl Into<String>) -> ApiError {
        ApiError::new(ErrorCode::InvalidInput, error)
    }

    pub(super) fn invalid_info(error: impl Into<String>) -> ApiError {
        ApiError::invalid_query(error).in_field("info")
    }

    pub(super) fn no_users() -> ApiError {
        ApiError::invalid_query("Only presence channels have users").in_field("channel")
    }

    pub(super) fn invalid_user(error: &UserIdError) -> ApiError {
        ApiError::invalid_query(format!("`user_id` is refused: {error}")).in_field("user_id")
    }

    pub(super) fn unaffordable(cost: u64, cost_max: u64, window: Duration) -> ApiError {
        let error = format!(
            "The batch costs {cost}, one for each event and channel (limit: {cost_max} in {} s)",
            window.as_secs_f64()
        );
        ApiError::new(ErrorCode::LimitExceeded, error).in_field("channels")
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> ApiError {
        let code = match error.fault {
            BatchFault::TooLarge { .. } | BatchFault::TooLargeOverall { .. } => ErrorCode::PayloadTooLarge,
            BatchFault::TooMany { .. } => ErrorCode::LimitExceeded,
            _ => ErrorCode::InvalidInput,
        };
        let text = error.to_string();
        ApiError { index: error.index, field: error.field, ..ApiError::new(code, text) }
    }
}

impl From<ChannelNameError> for ApiError {
    fn from(error: ChannelNameError) -> ApiError {
        ApiError::invalid_query(error.to_string()).in_field("channel")
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> ApiError {
        ApiError::invalid_query(error.to_string()).in_field("query")
    }
}

impl From<HttpLimitReached> for ApiError {
    fn from(reached: HttpLimitReached) -> ApiError {
        let (code, error) = match reached {
            HttpLimitReached::Address => {
                (ErrorCode::TooManyConnections, "Too many HTTP connections from this address")
            }
            HttpLimitReached::Node => {
                (ErrorCode::OverCapacity, "The node has no place for further connections")
            }
        };
        ApiError::new(code, error).retry_after(1)
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> ApiError {
        match error {
            BackendError::Unavailable => {
                metrics().redis_unavailable.increment(1);
                let error = "Redis is unavailable: the operation was not executed";
                ApiError::new(ErrorCode::ServiceUnavailable, error).retry_after(1)
            }
            BackendError::OutcomeUnknown => {
                metrics().redis_unknown.increment(1);
                let error = "No reply from Redis in time: the batch may have been published";
                ApiError::new(ErrorCode::OutcomeUnknown, error).retry_after(1)
            }
            BackendError::OutOfMemory => {
                let error = "Redis is out of memory: the operation was not executed";
                ApiError::new(ErrorCode::Backpressure, error).retry_after(1)
            }
            BackendError::Busy => {
                let error = "The app has too many batches in progress: the operation was not executed";
                ApiError::new(ErrorCode::Backpressure, error).retry_after(1)
            }
            BackendError::RateLimited(state) => {
                metrics().requests_rate_limited.increment(1);
                let RateState { limit, remaining, .. } = state;
                let error =
                    format!("Rate limit exceeded (limit: {limit} per window, remaining: {remaining})");
                ApiError::new(ErrorCode::RateLimited, error).retry_after(state.reset_secs().max(1))
            }
            BackendError::Refused(_) | BackendError::Unreadable(_) => {
                tracing::error!(%error, "backend operation failed");
                ApiError::new(ErrorCode::InternalError, "Internal error: see the log of the node")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status(), json, self.body()).into_response();
        if self.code == ErrorCode::UpgradeRequired {
            response.headers_mut().extend(UPGRADE_HEADERS);
        }
        if let Some(secs) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
        }
        response
    }
}
