//! One call to a receiver. The signature covers the exact body; of the response only the
//! status is used.

use std::error::Error as _;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use reqwest::{Client, Response, StatusCode, redirect};
use thiserror::Error;

use super::body;
use super::delivery_queues::Delivery;
use crate::app::{App, Webhook};
use crate::{auth, limits, tls};

/// The reason why a call failed and is retried.
#[derive(Debug, Error)]
pub(super) enum CallError {
    #[error("answered {0}")]
    Status(StatusCode),
    #[error("no answer within {} s", limits::WEBHOOK_TIMEOUT.as_secs())]
    Timeout,
    #[error("the host name has no address")]
    Dns,
    #[error("connection refused")]
    Refused,
    #[error("TLS handshake failed: {0}")]
    Tls(String),
    #[error("cannot connect")]
    Connect,
    #[error("the answer is not HTTP, or the URL cannot be called")]
    Http,
}

impl CallError {
    /// The value of the label `cause`.
    pub(super) fn cause(&self) -> &'static str {
        match self {
            CallError::Status(_) => "status",
            CallError::Timeout => "timeout",
            CallError::Dns => "dns",
            CallError::Refused => "refused",
            CallError::Tls(_) => "tls",
            CallError::Connect => "connect",
            CallError::Http => "http",
        }
    }

    fn of_connect(error: &reqwest::Error) -> CallError {
        let mut next = error.source();
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return CallError::Tls(tls.to_string());
            }
            let io = error.downcast_ref::<io::Error>();
            match io.map(io::Error::kind) {
                Some(io::ErrorKind::ConnectionRefused) => return CallError::Refused,
                // Before a request, only the handshake reads.
                Some(io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
                    return CallError::Tls("connection closed".to_owned());
                }
                _ => {}
            }
            // The source of an IO error is that of its inner error.
            next = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        CallError::Connect
    }
}

/// The HTTP client for all calls. It reuses connections. A system without root certificates can
/// call only `http` URLs.
pub(super) fn client() -> Client {
    Client::builder()
        .tls_backend_preconfigured(tls::client_config())
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(limits::WEBHOOK_TIMEOUT)
        .pool_max_idle_per_host(limits::WEBHOOK_ENDPOINT_CALLS_MAX)
        .build()
        .expect("the settings are constant, and the TLS configuration is complete")
}

/// Posts the events. Only a 2xx response is a success: a redirect is a failure, because
/// the configured receiver itself has to accept the events.
pub(super) async fn post(
    client: &Client,
    app: &App,
    endpoint: &Webhook,
    events: &[Delivery],
) -> Result<(), CallError> {
    let body = body::encode(unix_ms(), events);
    let headers = headers(app, endpoint, &body);
    let answer = client.post(&endpoint.url).headers(headers).body(body).send().await?;
    let status = answer.status();
    read_bounded(answer).await;
    match status.is_success() {
        true => Ok(()),
        false => Err(CallError::Status(status)),
    }
}

/// Reads a short response body, so that the connection can be reused.
async fn read_bounded(mut answer: Response) {
    let mut read = 0;
    while read < limits::WEBHOOK_ANSWER_BYTES_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => read += chunk.len(),
            Ok(None) | Err(_) => return,
        }
    }
}

/// Headers that determine the target or the length of a request. The configuration cannot
/// set them.
const RESERVED: [HeaderName; 5] = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, EXPECT];

/// The headers of a call. The server's own come last and replace custom ones of the same
/// name.
fn headers(app: &App, endpoint: &Webhook, body: &[u8]) -> HeaderMap {
    // During a rotation, only the oldest secret is deployed on every backend.
    let signature = auth::sign(app.secrets.last().expect("an app has a secret"), body);
    let owned = [
        ("content-type", "application/json"),
        ("user-agent", concat!("fanfare/", env!("CARGO_PKG_VERSION"))),
        ("x-pusher-key", &app.key),
        ("x-pusher-signature", &signature),
    ];
    let custom = endpoint.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut headers = HeaderMap::new();
    for (name, value) in custom.chain(owned) {
        // An invalid header is skipped: it would make every call fail.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    for name in RESERVED {
        headers.remove(name);
    }
    headers
}

impl From<reqwest::Error> for CallError {
    fn from(error: reqwest::Error) -> CallError {
        match error {
            error if error.is_dns() => CallError::Dns,
            error if error.is_timeout() => CallError::Timeout,
            error if error.is_connect() => CallError::of_connect(&error),
            _ => CallError::Http,
        }
    }
}

/// Milliseconds since 1970 by this node's clock.
pub(super) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::app::{AppFeatures, AppLimits, AppRates, HookedEvents, Secret};
    use crate::delta::channels::ChannelDeltas;

    fn app() -> App {
        App {
            id: "1".into(),
            key: "the key".into(),
            secrets: vec![Secret::new("new"), Secret::new("old")],
            enabled: true,
            limits: AppLimits::default(),
            rates: AppRates::default(),
            features: AppFeatures::default(),
            origins: Vec::new(),
            webhooks: Vec::new(),
            deltas: ChannelDeltas::default(),
            metrics: Arc::default(),
        }
    }

    #[test]
    fn custom_headers_are_added_but_replace_no_own_header() {
        let custom = [
            ("X-Custom", "yes"),
            ("x-PUSHER-signature", "forged"),
            ("X-Pusher-Key", "forged"),
            ("Content-Type", "text/plain"),
            ("User-Agent", "forged"),
            ("HOST", "elsewhere"),
            ("Content-Length", "3"),
            ("Transfer-Encoding", "chunked"),
            ("not a name", "x"),
            ("X-Bad", "two\r\nlines"),
        ];
        let endpoint = Webhook {
            url: "http://a".into(),
            events: HookedEvents::default(),
            headers: custom.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            channel_prefix: None,
            channel_suffix: None,
        };
        let sent = headers(&app(), &endpoint, b"the body");
        let mut sent: Vec<(&str, &str)> = sent
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("the value is a text")))
            .collect();
        sent.sort_unstable();
        let signature = auth::sign(&Secret::new("old"), "the body");
        let expected = [
            ("content-type", "application/json"),
            ("user-agent", concat!("fanfare/", env!("CARGO_PKG_VERSION"))),
            ("x-custom", "yes"),
            ("x-pusher-key", "the key"),
            ("x-pusher-signature", &signature),
        ];
        assert_eq!(sent, expected);
    }
}
