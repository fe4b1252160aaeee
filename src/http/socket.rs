//! `GET /app/{key}`: the upgrade of a request to a WebSocket (protocol.md 2.1).

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::handshake::Handshake;
use super::keep_alive::HttpStream;
use super::path::PathParams;
use super::places::Reserve;
use super::query::Query;
use super::{ApiError, peer};
use crate::node::Node;
use crate::sockets::http_limit::HttpPermit;
use crate::wire::close::Close;
use crate::ws::{self, client::Client};

/// Accepts every valid upgrade. A refused client receives the reason in a close frame, because a
/// browser reports any HTTP status as a lost connection.
pub(super) async fn get_socket(
    State(node): State<Node>,
    PathParams(key): PathParams<String>,
    request: Request,
) -> Result<Response, ApiError> {
    let handshake = handshake(&node, &request)?;
    let client = client(&node, key, &handshake, &request)?;
    Ok(upgrade(request, handshake, client, |stream, read, client| ws::serve(node, stream, read, client)))
}

/// Refuses a request for an unknown path or method: with `error`, or for a WebSocket handshake
/// with a close frame that contains the path.
pub(super) fn refuse_path(node: &Node, request: Request, error: ApiError) -> Result<Response, ApiError> {
    let Ok(handshake) = Handshake::read(&request) else { return Err(error) };
    if node.is_draining() {
        return Err(ApiError::draining());
    }
    check_reserve(&request)?;
    let path = request.uri().path();
    let reason = format!("{}: {path}", Close::UnknownPath.reason());
    let client = client(node, String::new(), &handshake, &request)?;
    if node.unknown_paths_log.admits(path) {
        let address = client.address.map(tracing::field::display);
        tracing::info!(path, client = address, "upgrade refused: unknown path");
    }
    Ok(upgrade(request, handshake, client, async move |stream, read, client| {
        ws::refuse(stream, read, &client, Close::UnknownPath, &reason).await;
    }))
}

fn handshake(node: &Node, request: &Request) -> Result<Handshake, ApiError> {
    if node.is_draining() {
        return Err(ApiError::draining());
    }
    check_reserve(request)?;
    Handshake::read(request).map_err(|error| {
        if error.is_caused_by_proxy() && node.broken_upgrades_log.admits(&error.to_string()) {
            let client = peer::client(node, request.extensions(), request.headers());
            tracing::warn!(client = client.map(tracing::field::display), %error, "upgrade refused");
        }
        ApiError::upgrade_required(&error)
    })
}

/// A WebSocket would keep its place in the reserve.
fn check_reserve(request: &Request) -> Result<(), ApiError> {
    match request.extensions().get() {
        Some(Reserve(reached)) => Err((*reached).into()),
        None => Ok(()),
    }
}

fn client(
    node: &Node,
    key: String,
    handshake: &Handshake,
    request: &Request,
) -> Result<Box<Client>, ApiError> {
    let query = Query::parse(request.uri().query().unwrap_or_default())?;
    let mut client = Box::new(Client::new(key, query.into_map()));
    let origin = request.headers().get(header::ORIGIN);
    client.origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    client.address = peer::client(node, request.extensions(), request.headers());
    client.is_subprotocol_unsupported = handshake.is_subprotocol_unsupported();
    Ok(client)
}

/// Returns the 101 response. After the upgrade a task passes the stream to `serve`, with the bytes
/// that arrived after the request head.
fn upgrade<F: Future<Output = ()> + Send>(
    mut request: Request,
    handshake: Handshake,
    mut client: Box<Client>,
    serve: impl FnOnce(TcpStream, Bytes, Box<Client>) -> F + Send + 'static,
) -> Response {
    let upgrade = hyper::upgrade::on(&mut request);
    let forwarded = request.extensions_mut().remove::<Arc<HttpPermit>>();
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let parts =
                    upgraded.downcast::<TokioIo<HttpStream>>().expect("server.rs serves this kind of stream");
                let (stream, permit) = parts.io.into_inner().into_inner();
                client.http_permits = Some((permit, forwarded));
                serve(stream, parts.read_buf, client).await;
            }
            Err(error) => tracing::debug!(%error, "upgrade not completed"),
        }
    });
    (StatusCode::SWITCHING_PROTOCOLS, handshake.into_headers()).into_response()
}
