//! One HTTP request to a server, over a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::error::CliError;

/// Limit of response bodies, in bytes: above any response of the HTTP API.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sends a request and returns the body of the response.
///
/// # Errors
///
/// [`CliError::Refused`] for a status of 400 or above, [`CliError::Timeout`] after
/// `time_limit`, or an error of the connection.
pub(super) async fn send(
    authority: &str,
    method: Method,
    target: &str,
    body: Vec<u8>,
    time_limit: Duration,
) -> Result<String, CliError> {
    let answered = timeout(time_limit, exchange(authority, method, target, body)).await;
    let late = |_| CliError::Timeout { authority: authority.to_owned(), after: time_limit };
    let (status, body) = answered.map_err(late)??;
    if status.as_u16() >= 400 { Err(CliError::Refused { status, body }) } else { Ok(body) }
}

pub(super) async fn connect(authority: &str) -> Result<TcpStream, CliError> {
    TcpStream::connect(authority)
        .await
        .map_err(|error| CliError::Connect { authority: authority.to_owned(), error })
}

async fn exchange(
    authority: &str,
    method: Method,
    target: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, String), CliError> {
    let broken = |error| CliError::Http { authority: authority.to_owned(), error };
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header(header::HOST, authority)
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| CliError::BadPath { path: target.to_owned() })?;
    let stream = TokioIo::new(connect(authority).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(broken)?;
    // The task ends with the response. `send_request` returns its errors too.
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.map_err(broken)?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| CliError::Answer { authority: authority.to_owned(), error })?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
