//! Every error of the API becomes a status and a body here, and only here:
//! `{"error":text,"code":slug,"status":int}`, with `index` and `field` where
//! they apply (protocol.md 1.2).

use axum::extract::rejection::PathRejection;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::backend::BackendError;
use crate::batch::{BatchError, Problem};
use crate::channel::ChannelNameError;
use crate::metrics::metrics;

#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    error: String,
    index: Option<usize>,
    field: Option<&'static str>,
    /// Seconds after which a retry makes sense.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> ApiError {
        ApiError { status, code, error: error.into(), index: None, field: None, retry_after: None }
    }

    fn in_field(self, field: &'static str) -> ApiError {
        ApiError { field: Some(field), ..self }
    }

    fn retry_after(self, secs: u64) -> ApiError {
        ApiError { retry_after: Some(secs), ..self }
    }

    pub(super) fn unknown_route() -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "not_found", "There is nothing at this path")
    }

    pub(super) fn method_not_allowed() -> ApiError {
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "This path has other methods")
    }

    pub(super) fn upgrade_required() -> ApiError {
        let error = "This path is for WebSockets: the request must be an upgrade, version 13";
        ApiError::new(StatusCode::UPGRADE_REQUIRED, "upgrade_required", error)
    }

    pub(super) fn draining() -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "The node is being stopped").retry_after(1)
    }

    pub(super) fn unknown_app(id: &str) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, "app_not_found", format!("There is no app with the id {id:?}"))
    }

    pub(super) fn app_disabled() -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, "forbidden", "The app is disabled")
    }

    pub(super) fn unauthorized(error: impl Into<String>) -> ApiError {
        metrics().auth_failures.increment(1);
        ApiError::new(StatusCode::UNAUTHORIZED, "auth_failed", error)
    }

    pub(super) fn content_encoding(encoding: &str) -> ApiError {
        let error = format!("Content-Encoding {encoding:?} is not supported: send the body as it is");
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_encoding", error)
    }

    pub(super) fn body_too_large(bytes_max: usize) -> ApiError {
        let error =
            format!("The body is larger than {bytes_max} bytes, the most that this app's limits allow");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", error)
    }

    pub(super) fn body_timeout() -> ApiError {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", "The body did not arrive in time")
    }

    pub(super) fn body_broken() -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_input", "The body did not arrive whole")
    }

    pub(super) fn invalid_path(rejection: &PathRejection) -> ApiError {
        let error = ApiError::invalid_query(rejection.body_text());
        match rejection.body_text().contains("`channel`") {
            true => error.in_field("channel"),
            false => error,
        }
    }

    pub(super) fn invalid_query(error: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_input", error)
    }

    pub(super) fn invalid_info(error: impl Into<String>) -> ApiError {
        ApiError::invalid_query(error).in_field("info")
    }
}

impl From<BatchError> for ApiError {
    fn from(error: BatchError) -> ApiError {
        let (status, code) = match error.problem {
            Problem::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large"),
            Problem::TooMany { .. } => (StatusCode::BAD_REQUEST, "limit_exceeded"),
            _ => (StatusCode::BAD_REQUEST, "invalid_input"),
        };
        let text = error.to_string();
        ApiError { index: error.index, field: error.field, ..ApiError::new(status, code, text) }
    }
}

impl From<ChannelNameError> for ApiError {
    fn from(error: ChannelNameError) -> ApiError {
        ApiError::invalid_query(error.to_string()).in_field("channel")
    }
}

impl From<BackendError> for ApiError {
    fn from(error: BackendError) -> ApiError {
        let code = match error {
            BackendError::Unavailable => {
                metrics().redis_unavailable.increment(1);
                "service_unavailable"
            }
            BackendError::OutcomeUnknown => {
                metrics().redis_unknown.increment(1);
                "outcome_unknown"
            }
            BackendError::OutOfMemory => "backpressure",
            BackendError::RateLimited(state) => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let secs = state.reset.as_secs_f64().ceil() as u64;
                return ApiError::new(status, "rate_limited", error.to_string()).retry_after(secs.max(1));
            }
            BackendError::Refused(_) => {
                tracing::error!(%error, "the backend refused an operation");
                let error = "The server could not do this; its log says why";
                return ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", error);
            }
        };
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, code, error.to_string()).retry_after(1)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut body = json!({ "error": self.error, "code": self.code, "status": self.status.as_u16() });
        if let Some(index) = self.index {
            body["index"] = index.into();
        }
        if let Some(field) = self.field {
            body["field"] = field.into();
        }
        let json = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (self.status, json, body.to_string()).into_response();
        if let Some(secs) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, secs.into());
        }
        response
    }
}
