//! The codes of the HTTP API's errors: the member `code` of an error body, and the status that
//! goes with it (protocol.md 1.2).

use axum::http::StatusCode;

/// What kind of error a response reports. Programs match on it; the text may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorCode {
    InvalidInput,
    LimitExceeded,
    AuthFailed,
    Forbidden,
    NotFound,
    AppNotFound,
    MethodNotAllowed,
    RequestTimeout,
    PayloadTooLarge,
    UnsupportedEncoding,
    UpgradeRequired,
    RateLimited,
    TooManyConnections,
    InternalError,
    ServiceUnavailable,
    OutcomeUnknown,
    Backpressure,
    OverCapacity,
    Draining,
}

impl ErrorCode {
    pub const ALL: [ErrorCode; 19] = [
        ErrorCode::InvalidInput,
        ErrorCode::LimitExceeded,
        ErrorCode::AuthFailed,
        ErrorCode::Forbidden,
        ErrorCode::NotFound,
        ErrorCode::AppNotFound,
        ErrorCode::MethodNotAllowed,
        ErrorCode::RequestTimeout,
        ErrorCode::PayloadTooLarge,
        ErrorCode::UnsupportedEncoding,
        ErrorCode::UpgradeRequired,
        ErrorCode::RateLimited,
        ErrorCode::TooManyConnections,
        ErrorCode::InternalError,
        ErrorCode::ServiceUnavailable,
        ErrorCode::OutcomeUnknown,
        ErrorCode::Backpressure,
        ErrorCode::OverCapacity,
        ErrorCode::Draining,
    ];

    pub const fn status(self) -> StatusCode {
        match self {
            ErrorCode::InvalidInput | ErrorCode::LimitExceeded => StatusCode::BAD_REQUEST,
            ErrorCode::AuthFailed => StatusCode::UNAUTHORIZED,
            ErrorCode::Forbidden => StatusCode::FORBIDDEN,
            ErrorCode::NotFound | ErrorCode::AppNotFound => StatusCode::NOT_FOUND,
            ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            ErrorCode::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            ErrorCode::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            ErrorCode::UnsupportedEncoding => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            ErrorCode::UpgradeRequired => StatusCode::UPGRADE_REQUIRED,
            ErrorCode::RateLimited | ErrorCode::TooManyConnections => StatusCode::TOO_MANY_REQUESTS,
            ErrorCode::InternalError => StatusCode::INTERNAL_SERVER_ERROR,
            ErrorCode::ServiceUnavailable
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Backpressure
            | ErrorCode::OverCapacity
            | ErrorCode::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// As in the body.
    pub const fn name(self) -> &'static str {
        match self {
            ErrorCode::InvalidInput => "invalid_input",
            ErrorCode::LimitExceeded => "limit_exceeded",
            ErrorCode::AuthFailed => "auth_failed",
            ErrorCode::Forbidden => "forbidden",
            ErrorCode::NotFound => "not_found",
            ErrorCode::AppNotFound => "app_not_found",
            ErrorCode::MethodNotAllowed => "method_not_allowed",
            ErrorCode::RequestTimeout => "request_timeout",
            ErrorCode::PayloadTooLarge => "payload_too_large",
            ErrorCode::UnsupportedEncoding => "unsupported_encoding",
            ErrorCode::UpgradeRequired => "upgrade_required",
            ErrorCode::RateLimited => "rate_limited",
            ErrorCode::TooManyConnections => "too_many_connections",
            ErrorCode::InternalError => "internal_error",
            ErrorCode::ServiceUnavailable => "service_unavailable",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
            ErrorCode::Backpressure => "backpressure",
            ErrorCode::OverCapacity => "over_capacity",
            ErrorCode::Draining => "draining",
        }
    }

    /// For the reference page: the cause and the remedy.
    pub const fn help(self) -> &'static str {
        match self {
            ErrorCode::InvalidInput => {
                "A field has the wrong type or value; `index` and `field` name it. Nothing was published."
            }
            ErrorCode::LimitExceeded => "A count is above a limit of the app. Nothing was published.",
            ErrorCode::AuthFailed => "The key, timestamp, signature or `body_md5` is missing or wrong.",
            ErrorCode::Forbidden => "The app is disabled.",
            ErrorCode::NotFound => "Nothing is served at this path.",
            ErrorCode::AppNotFound => "No app has the id in the path.",
            ErrorCode::MethodNotAllowed => "The path exists, with another method.",
            ErrorCode::RequestTimeout => "The body was not received within 30 s.",
            ErrorCode::PayloadTooLarge => "The body, an event's `data` or its `tags` are above a limit.",
            ErrorCode::UnsupportedEncoding => "The body has a `Content-Encoding`: send it without.",
            ErrorCode::UpgradeRequired => {
                "The path is for WebSockets. The text names what the proxy in front has to forward."
            }
            ErrorCode::RateLimited => "The app has exceeded a rate limit: retry after `Retry-After` seconds.",
            ErrorCode::TooManyConnections => {
                "The client's address has too many HTTP connections, or requests behind trusted proxies."
            }
            ErrorCode::InternalError => "A defect, or a Redis that refuses a script: the log has the cause.",
            ErrorCode::ServiceUnavailable => {
                "Redis is unavailable, or the node is starting; nothing was published. Retry."
            }
            ErrorCode::OutcomeUnknown => {
                "Redis did not reply in time: the batch may have been published. A retry may publish it twice."
            }
            ErrorCode::Backpressure => {
                "Redis is out of memory, or earlier batches of the app take too long; nothing was published. Retry \
                 later."
            }
            ErrorCode::OverCapacity => {
                "The node has no place for further connections: connect to another one, or retry."
            }
            ErrorCode::Draining => "The node is shutting down: connect to another one.",
        }
    }
}
