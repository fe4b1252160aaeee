//! The WebSocket handshake (RFC 6455, 4.2; protocol.md 2.1): the required headers of the
//! request, and the headers of the response.

use axum::extract::Request;
use axum::http::header::{self, HeaderName};
use axum::http::{HeaderMap, HeaderValue, Method, Version};
use thiserror::Error;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::ws::client::{is_pusher_subprotocol, is_supported_subprotocol};

/// The headers of both a 101 and a 426. A 101 is without the version.
pub(super) const UPGRADE_HEADERS: [(HeaderName, HeaderValue); 3] = [
    (header::CONNECTION, HeaderValue::from_static("Upgrade")),
    (header::UPGRADE, HeaderValue::from_static("websocket")),
    (header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")),
];

/// Why a request for a WebSocket path is not a valid upgrade; the text of a 426.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum HandshakeError {
    #[error("This path is for WebSockets: the request must be an upgrade, version 13")]
    NoUpgrade,
    #[error(
        "The WebSocket upgrade was sent over HTTP/1.0, which has no upgrades: the proxy in front must use HTTP/1.1 \
         (nginx: `proxy_http_version 1.1`)"
    )]
    Http10,
    #[error(
        "The request has `Sec-WebSocket-Key` but not `Upgrade: websocket` and `Connection: Upgrade`: the proxy in \
         front must forward them (nginx: `proxy_set_header Upgrade $http_upgrade` and \
         `proxy_set_header Connection \"upgrade\"`)"
    )]
    HeadersRemoved,
}

impl HandshakeError {
    /// Whether a misconfigured proxy is the cause. The operator needs a line in the log.
    pub(super) fn is_caused_by_proxy(self) -> bool {
        self != HandshakeError::NoUpgrade
    }
}

/// A valid WebSocket handshake.
#[derive(Debug)]
pub(super) struct Handshake {
    accept: HeaderValue,
    subprotocol: Subprotocol,
}

#[derive(Debug, PartialEq, Eq)]
enum Subprotocol {
    /// The client offers no Pusher subprotocol.
    NotOffered,
    /// The first supported one that the client offers.
    Chosen(HeaderValue),
    /// The client offers Pusher subprotocols, none of which is supported.
    Unsupported,
}

impl Subprotocol {
    fn choose(headers: &HeaderMap) -> Subprotocol {
        let mut offered =
            items(headers, header::SEC_WEBSOCKET_PROTOCOL).filter(|item| is_pusher_subprotocol(item));
        let Some(first) = offered.next() else { return Subprotocol::NotOffered };
        let supported = std::iter::once(first).chain(offered).find(|item| is_supported_subprotocol(item));
        let chosen = supported.and_then(|chosen| HeaderValue::from_str(chosen).ok());
        chosen.map_or(Subprotocol::Unsupported, Subprotocol::Chosen)
    }
}

impl Handshake {
    /// Validates the headers and the HTTP version of an upgrade.
    pub(super) fn read(request: &Request) -> Result<Handshake, HandshakeError> {
        let headers = request.headers();
        if request.method() != Method::GET {
            return Err(HandshakeError::NoUpgrade);
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY).ok_or(HandshakeError::NoUpgrade)?;
        if !has_item(headers, header::CONNECTION, "upgrade")
            || !has_item(headers, header::UPGRADE, "websocket")
        {
            return Err(HandshakeError::HeadersRemoved);
        }
        if request.version() < Version::HTTP_11 {
            return Err(HandshakeError::Http10);
        }
        let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok();
        let accept = accept.filter(|_| has_item(headers, header::SEC_WEBSOCKET_VERSION, "13"));
        Ok(Handshake {
            accept: accept.ok_or(HandshakeError::NoUpgrade)?,
            subprotocol: Subprotocol::choose(headers),
        })
    }

    /// Whether the client offers Pusher subprotocols, none of which is supported.
    pub(super) fn is_subprotocol_unsupported(&self) -> bool {
        self.subprotocol == Subprotocol::Unsupported
    }

    /// The headers of the 101 response.
    pub(super) fn into_headers(self) -> HeaderMap {
        let mut headers = HeaderMap::from_iter(UPGRADE_HEADERS);
        headers.remove(header::SEC_WEBSOCKET_VERSION);
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, self.accept);
        if let Subprotocol::Chosen(subprotocol) = self.subprotocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
        }
        headers
    }
}

/// The items of a list header, on one or several lines.
pub(super) fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|item| !item.is_empty())
}

fn has_item(headers: &HeaderMap, name: HeaderName, expected: &str) -> bool {
    items(headers, name).any(|item| item.eq_ignore_ascii_case(expected))
}
