//! Close codes (protocol.md 2.3). A client stops after 4000 to 4099, reconnects after a pause
//! from 4100 to 4199, and reconnects immediately from 4200 to 4299.

/// Why a connection ends: a close code and its reason. Never 4000, which makes a client retry
/// over TLS, and never 4300 or above, which makes pusher-js stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Close {
    /// The client closed first. The response repeats its code.
    Normal,
    /// A frame that RFC 6455 does not allow from a client.
    Garbage,
    NotUtf8,
    TooBig,
    UnknownApp,
    /// No WebSocket is served at the requested path. The reason contains the path.
    UnknownPath,
    AppDisabled,
    /// The connection limit of the app, over all nodes.
    OverConnectionQuota,
    InvalidVersion,
    UnsupportedProtocol,
    /// The message format in the query parameter `format` is not JSON.
    UnsupportedFormat,
    /// No pattern of `allowed_origins` matches the `Origin` header.
    OriginNotAllowed,
    /// A sign-in with a wrong signature.
    Unauthorized,
    /// Neither a sign-in nor an authorised subscription within `user_authentication_timeout`.
    AuthorizationTimeout,
    /// The app's backend has terminated all connections of this user.
    Terminated,
    /// A message above a rate limit with `terminate_on_limit`.
    RateLimited,
    /// The write buffer is full: the client reads more slowly than the server sends.
    SlowClient,
    /// A limit of the node is reached, or the app cannot be read from Redis.
    OverCapacity,
    Draining,
    PongTimeout,
}

impl Close {
    pub const ALL: [Close; 20] = [
        Close::Normal,
        Close::Garbage,
        Close::NotUtf8,
        Close::TooBig,
        Close::UnknownApp,
        Close::UnknownPath,
        Close::AppDisabled,
        Close::OverConnectionQuota,
        Close::InvalidVersion,
        Close::UnsupportedProtocol,
        Close::UnsupportedFormat,
        Close::OriginNotAllowed,
        Close::Unauthorized,
        Close::AuthorizationTimeout,
        Close::Terminated,
        Close::RateLimited,
        Close::SlowClient,
        Close::OverCapacity,
        Close::Draining,
        Close::PongTimeout,
    ];

    pub fn code(self) -> u16 {
        match self {
            Close::Normal => 1000,
            Close::Garbage => 1002,
            Close::NotUtf8 => 1007,
            Close::TooBig => 1009,
            Close::UnknownApp => 4001,
            Close::AppDisabled => 4003,
            Close::UnknownPath => 4005,
            Close::InvalidVersion => 4006,
            Close::UnsupportedProtocol | Close::UnsupportedFormat => 4007,
            Close::OverConnectionQuota => 4004,
            Close::OriginNotAllowed
            | Close::Unauthorized
            | Close::AuthorizationTimeout
            | Close::Terminated => 4009,
            Close::SlowClient | Close::OverCapacity | Close::RateLimited => 4100,
            Close::Draining => 4200,
            Close::PongTimeout => 4201,
        }
    }

    /// The reason in the close frame. [`Close::UnknownPath`] appends the path.
    pub fn reason(self) -> &'static str {
        match self {
            Close::Normal => "",
            Close::Garbage => "Invalid WebSocket frame",
            Close::NotUtf8 => "A text message must be UTF-8",
            Close::TooBig => "The message is larger than 64 KiB",
            Close::UnknownApp => "There is no app with this key",
            Close::UnknownPath => "There is no WebSocket at this path",
            Close::AppDisabled => "This app is disabled",
            Close::OverConnectionQuota => "The app has reached its connection limit",
            Close::InvalidVersion => "The protocol version must be a number",
            Close::UnsupportedProtocol => "This protocol version is not supported; use 7",
            Close::UnsupportedFormat => "This `format` is not supported; use json",
            Close::OriginNotAllowed => "This app does not allow connections from this origin",
            Close::Unauthorized => "The signature of the sign-in is wrong",
            Close::AuthorizationTimeout => "No sign-in and no authorised subscription in time",
            Close::Terminated => "You got disconnected by the app.",
            Close::RateLimited => "Rate limit exceeded, reconnect later",
            Close::SlowClient => "The client reads too slowly",
            Close::OverCapacity => "Over capacity, reconnect later",
            Close::Draining => "The server is restarting, reconnect now",
            Close::PongTimeout => "No frame was received after a ping",
        }
    }

    /// The label of this reason in the counter of closed connections.
    pub const fn label(self) -> &'static str {
        match self {
            Close::Normal => "client",
            Close::Garbage => "garbage",
            Close::NotUtf8 => "not_utf8",
            Close::TooBig => "too_big",
            Close::UnknownApp => "unknown_app",
            Close::UnknownPath => "unknown_path",
            Close::AppDisabled => "app_disabled",
            Close::InvalidVersion => "invalid_version",
            Close::UnsupportedProtocol => "unsupported_protocol",
            Close::UnsupportedFormat => "unsupported_format",
            Close::OverConnectionQuota => "over_connection_quota",
            Close::OriginNotAllowed => "origin_not_allowed",
            Close::Unauthorized => "unauthorized",
            Close::AuthorizationTimeout => "authorization_timeout",
            Close::Terminated => "terminated",
            Close::RateLimited => "rate_limited",
            Close::SlowClient => "slow_client",
            Close::OverCapacity => "over_capacity",
            Close::Draining => "draining",
            Close::PongTimeout => "pong_timeout",
        }
    }
}
