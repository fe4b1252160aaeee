//! HTTP at the limits of connections (protocol.md 1.10): the refusal of a connection whose
//! request is not read, and the limit of requests behind trusted proxies.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Version;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::ApiError;
use super::peer::{self, Peer};
use crate::node::Node;
use crate::sockets::http_limit::HttpLimitReached;

/// Extension of a request whose connection is served from the reserve, with the reason.
#[derive(Debug, Clone, Copy)]
pub struct Reserve(pub HttpLimitReached);

/// The response to a connection that is closed before its request is read.
pub fn refusal(reached: HttpLimitReached) -> Vec<u8> {
    let error = ApiError::from(reached);
    let (status, body) = (error.status(), error.body());
    let (version, length) = (Version::HTTP_11, body.len());
    format!(
        "{version:?} {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nretry-after: 1\r\n\
         connection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// Middleware that counts a request from a trusted proxy for the address of its client.
pub(super) async fn limit_forwarded(State(node): State<Node>, mut request: Request, next: Next) -> Response {
    let is_forwarded = |Peer(peer): &Peer| node.http_limiter.is_trusted(peer.ip());
    let client = request.extensions().get().filter(|peer| is_forwarded(peer));
    let client = client.and_then(|_| peer::client(&node, request.extensions(), request.headers()));
    let Some(client) = client else { return next.run(request).await };
    match node.http_limiter.forwarded(client) {
        Ok(permit) => {
            // A WebSocket keeps it until an app has admitted it.
            let permit = Arc::new(permit);
            request.extensions_mut().insert(permit.clone());
            next.run(request).await
        }
        Err(reached) => ApiError::from(reached).into_response(),
    }
}
