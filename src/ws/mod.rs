//! The edge where browsers speak to us: `/app/{key}` becomes a WebSocket, and a
//! [`connection`] takes it over (protocol.md 2.1).

pub mod client;
pub mod connection;
pub mod connections;
mod subscribe;
mod writer;

use std::collections::HashMap;

use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use crate::http::ApiError;
use crate::limits;
use crate::node::Node;

use client::Client;

/// The socket as the connection reads it; what it writes goes past the library,
/// straight to the stream.
pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Accepts every upgrade: a client that is to be turned away is told in a close
/// frame, for an HTTP status would look to a browser like a lost connection.
pub async fn upgrade(
    State(node): State<Node>,
    Path(key): Path<String>,
    Query(query): Query<HashMap<String, String>>,
    mut request: Request,
) -> Response {
    if node.is_draining() {
        return ApiError::draining().into_response();
    }
    let Some(accept) = accept_key(request.headers()) else {
        return ApiError::upgrade_required().into_response();
    };
    let client = Client::new(key, query);
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => connection::run(node, socket(upgraded).await, client).await,
            Err(error) => tracing::debug!(%error, "upgrade not completed"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let has = |name, token: &str| {
        let value = headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        value.is_some_and(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    let is_upgrade = has(header::CONNECTION, "upgrade")
        && has(header::UPGRADE, "websocket")
        && has(header::SEC_WEBSOCKET_VERSION, "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_upgrade)?;
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

/// The raw TCP stream, freed of hyper's buffers, with what the client has sent
/// already.
async fn socket(upgraded: Upgraded) -> Socket {
    let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("server.rs serves TCP streams");
    let config = WebSocketConfig::default()
        .read_buffer_size(limits::SOCKET_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(limits::MESSAGE_BYTES_MAX)
        .max_message_size(Some(limits::MESSAGE_BYTES_MAX))
        .max_frame_size(Some(limits::MESSAGE_BYTES_MAX));
    let stream = parts.io.into_inner();
    WebSocketStream::from_partially_read(stream, parts.read_buf.to_vec(), Role::Server, Some(config)).await
}
