//! Stage 1 of the pipeline: an extractor that authenticates a request and reads its body
//! (protocol.md 1.2). A [`SignedRequest`] that exists is signed and within the limits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{FromRequest, OriginalUri, Request};
use axum::http::{HeaderMap, Method, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;

use super::path::{below, signed_paths};
use super::query::{Query, decode};
use super::unsigned::Verified;
use super::{ApiError, RequestApp, peer};
use crate::app::{App, AppLimits, Secret};
use crate::auth;
use crate::limits;
use crate::node::Node;

/// An authenticated request: its sender has a secret of the app.
#[derive(Debug)]
pub(super) struct SignedRequest {
    pub app: Arc<App>,
    /// The complete body, whose MD5 is part of the signed text. Not verified for a GET.
    pub body: Bytes,
    /// The percent-decoded query, arrays joined, without the `auth_…` parameters.
    pub query: HashMap<String, String>,
    pub headers: HeaderMap,
}

impl FromRequest<Node> for SignedRequest {
    type Rejection = ApiError;

    /// The signature covers the MD5 of the body, not the body. It is verified before any of the
    /// body is read, so that unauthenticated senders cannot make the server buffer bodies.
    async fn from_request(request: Request, node: &Node) -> Result<SignedRequest, ApiError> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path();
        let app_id = decode(below(path, &node.path_prefix).split('/').nth(2).unwrap_or_default());
        let app = node.apps.by_id(&app_id).await?.ok_or_else(|| ApiError::unknown_app(&app_id))?;
        if let Some(RequestApp(request_app)) = parts.extensions.get() {
            let _ = request_app.set(app.metrics.clone());
        }
        let query = Query::parse(parts.uri.query().unwrap_or_default())?;
        // The client signed the path before `path::normalize`.
        let received = parts.extensions.get::<OriginalUri>().map_or(path, |OriginalUri(uri)| uri.path());
        let presented = PresentedSignature { method: &parts.method, path: received, query: &query };
        let body_md5 = presented.verify(&app, &node.path_prefix).inspect_err(|error| {
            let client = peer::client(node, &parts.extensions, &parts.headers).map(tracing::field::display);
            tracing::debug!(app = %app.id, client, %error, "request refused");
        })?;
        parts.extensions.get().inspect(|verified: &&Verified| verified.set());
        query.check_unambiguous()?;
        if !app.enabled {
            return Err(ApiError::app_disabled());
        }
        check_encoding(&parts.headers)?;
        let body = read_body(body, body_bytes_max(path, &app.limits)).await?;
        check_md5(&parts.method, &body, body_md5.as_deref())?;
        let mut query = query.with_joined_arrays().unwrap_or(query).into_map();
        query.retain(|name, _| !name.starts_with("auth_"));
        Ok(SignedRequest { app, body, query, headers: parts.headers })
    }
}

/// The maximum size of a body. It follows from the limits of the app: those of a batch for
/// `batch_events`, those of one event for any other request.
fn body_bytes_max(path: &str, app: &AppLimits) -> usize {
    let events = if path.ends_with("/batch_events") { app.batch_events_max } else { 1 };
    app.body_bytes_max(events)
}

/// The parts of a request that its signature covers, and the signature.
struct PresentedSignature<'a> {
    method: &'a Method,
    path: &'a str,
    query: &'a Query,
}

impl PresentedSignature<'_> {
    /// Verifies key, timestamp, version and signature, in this order. Returns the signed
    /// `body_md5`.
    fn verify(&self, app: &App, prefix: &str) -> Result<Option<String>, ApiError> {
        if self.required("auth_key")? != app.key {
            return Err(ApiError::unauthorized("`auth_key` is not the key of this app"));
        }
        check_timestamp(self.required("auth_timestamp")?)?;
        if self.required("auth_version")? != "1.0" {
            return Err(ApiError::unauthorized("`auth_version` must be 1.0"));
        }
        let signature = self.required("auth_signature")?;
        if !self.is_valid(signature, &app.secrets, prefix) {
            // The signed text helps to debug a client. The signature is not logged: with it, a
            // reader of the log could replay the request.
            let text = auth::request_text(self.method.as_str(), self.path, self.query.pairs());
            let text = text.replace('\n', "\\n");
            tracing::debug!(app = %app.id, signed = %text, "signature refused");
            return Err(ApiError::unauthorized(
                "`auth_signature` is wrong: it must be the HMAC SHA256 hex digest of method, path and sorted query, \
                 joined by newlines, under the app's secret",
            ));
        }
        Ok(self.query.find("body_md5").map(str::to_owned))
    }

    fn required(&self, name: &str) -> Result<&str, ApiError> {
        let missing = || ApiError::unauthorized(format!("The query parameter `{name}` is missing"));
        self.query.find(name).ok_or_else(missing)
    }

    /// Whether `signature` is valid over one of the texts that the client may have signed: the
    /// received path or one of its variants, with the arrays of the query as received or with each
    /// array joined into one parameter (protocol.md 1.2).
    fn is_valid(&self, signature: &str, secrets: &[Secret], prefix: &str) -> bool {
        let queries = [Some(self.query), self.query.with_joined_arrays().as_ref()]
            .map(|query| query.map(|query| auth::query_text(query.pairs())));
        // The variants of the path are built only if the received one fails.
        let variants = std::iter::once_with(|| signed_paths(self.path, prefix)).flatten().skip(1);
        let paths = std::iter::once(self.path.to_owned()).chain(variants);
        let mut bytes = 0;
        for path in paths {
            for query in queries.iter().flatten() {
                let text = [self.method.as_str(), &path, query].join("\n");
                bytes += text.len();
                if bytes > limits::SIGNED_TEXT_BYTES_MAX {
                    return false;
                }
                if auth::verify(secrets, &text, signature) {
                    return true;
                }
            }
        }
        false
    }
}

fn check_timestamp(text: &str) -> Result<(), ApiError> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match text.parse::<u64>() {
        Ok(given) if given.abs_diff(now) <= limits::TIMESTAMP_SKEW_SECS_MAX => Ok(()),
        Ok(given) => Err(ApiError::unauthorized(format!(
            "`auth_timestamp` {given} is not within {}s of server time {now}",
            limits::TIMESTAMP_SKEW_SECS_MAX
        ))),
        Err(_) => Err(ApiError::unauthorized("`auth_timestamp` must be a number of seconds")),
    }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    match headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?")) {
        None => Ok(()),
        Some(encoding) if encoding.eq_ignore_ascii_case("identity") => Ok(()),
        Some(encoding) => Err(ApiError::content_encoding(encoding)),
    }
}

/// Compares `body_md5` with the body. Not for a GET: one library sends the MD5 of an empty body
/// with every GET. There it is part of the signed text only (protocol.md 1.2).
fn check_md5(method: &Method, body: &[u8], body_md5: Option<&str>) -> Result<(), ApiError> {
    if method == Method::GET {
        return Ok(());
    }
    match body_md5 {
        Some(md5) if md5.eq_ignore_ascii_case(&auth::body_md5(body)) => Ok(()),
        Some(_) => Err(ApiError::unauthorized("`body_md5` is not the MD5 of the received body")),
        None if body.is_empty() => Ok(()),
        None => Err(ApiError::unauthorized("The query parameter `body_md5` is missing")),
    }
}

/// Reads a body of up to `bytes_max` bytes. The rest of a larger body is read and discarded, up
/// to [`limits::BODY_DRAIN_BYTES_MAX`], before the request is refused: with unread data the
/// connection would be reset, and the client would not receive the response.
async fn read_body(mut body: Body, bytes_max: usize) -> Result<Bytes, ApiError> {
    let read = async {
        // Most bodies arrive in one frame, which is not copied.
        let (mut first, mut all) = (Bytes::new(), BytesMut::new());
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame.map_err(|_| ApiError::body_broken())?.into_data() else { continue };
            read += data.len();
            if read <= bytes_max {
                if first.is_empty() {
                    first = data;
                    continue;
                }
                if all.is_empty() {
                    all.extend_from_slice(&first);
                }
                all.extend_from_slice(&data);
            } else if read > bytes_max + limits::BODY_DRAIN_BYTES_MAX {
                break;
            }
        }
        match read <= bytes_max {
            true if all.is_empty() => Ok(first),
            true => Ok(all.freeze()),
            false => Err(ApiError::body_too_large(bytes_max)),
        }
    };
    tokio::time::timeout(limits::HTTP_BODY_TIMEOUT, read).await.unwrap_or(Err(ApiError::body_timeout()))
}
