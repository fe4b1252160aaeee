//! `GET /app/{key}`: the request becomes a WebSocket (protocol.md 2.1).

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::path::InPath;
use super::signed::parse_query;
use super::{ApiError, peer};
use crate::node::Node;
use crate::ws::{self, client::Client};

/// Accepts every upgrade: a client that is to be turned away is told in a close
/// frame, for an HTTP status would look to a browser like a lost connection.
pub(super) async fn get_socket(
    State(node): State<Node>,
    InPath(key): InPath<String>,
    mut request: Request,
) -> Result<impl IntoResponse, ApiError> {
    if node.is_draining() {
        return Err(ApiError::draining());
    }
    let accept = accept_key(request.headers()).ok_or_else(ApiError::upgrade_required)?;
    let query = parse_query(request.uri().query().unwrap_or_default());
    let mut client = Box::new(Client::new(key, query.into_iter().collect()));
    let origin = request.headers().get(header::ORIGIN);
    client.origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    client.address = peer::client(&node, request.extensions(), request.headers());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let parts = upgraded.downcast::<TokioIo<TcpStream>>().expect("server.rs serves TCP streams");
                ws::serve(node, parts.io.into_inner(), parts.read_buf, client).await;
            }
            Err(error) => tracing::debug!(%error, "upgrade not completed"),
        }
    });
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("Upgrade")),
        (header::UPGRADE, HeaderValue::from_static("websocket")),
        (header::SEC_WEBSOCKET_ACCEPT, accept),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers))
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
