//! HTTP requests to a server.

use std::error::Error;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use reqwest::{Body, Client, Method, StatusCode, header, redirect};
use tokio::time::timeout;

use super::error::CliError;
use super::target::Server;
use crate::tls;

/// Limit of response bodies, in bytes: above any response of the HTTP API.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Sends a request and returns the body of the response. `path` includes the query.
///
/// # Errors
///
/// [`CliError::Refused`] for a status other than 2xx, [`CliError::Timeout`] after `time_limit`,
/// or an error of the connection.
pub(super) async fn send(
    server: &Server,
    method: Method,
    path: &str,
    body: Vec<u8>,
    time_limit: Duration,
) -> Result<String, CliError> {
    let received = timeout(time_limit, exchange(server, method, path, body)).await;
    let late = |_| CliError::Timeout { authority: server.authority.clone(), after: time_limit };
    let (status, body) = received.map_err(late)??;
    if status.is_success() { Ok(body) } else { Err(CliError::Refused { status, body }) }
}

async fn exchange(
    server: &Server,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(StatusCode, String), CliError> {
    let authority = || server.authority.clone();
    let client = Client::builder()
        .tls_backend_preconfigured(tls::client_config())
        .redirect(redirect::Policy::none())
        .no_proxy()
        .build()
        .expect("the settings are constant, and the TLS configuration is complete");
    let request = client.request(method, server.http_url(path)).body(body);
    let response = request.header(header::CONTENT_TYPE, "application/json").send().await;
    let response = response.map_err(|error| match error.is_connect() {
        true => CliError::Connect { authority: authority(), cause: root_cause(&error) },
        false => CliError::Http { authority: authority(), cause: root_cause(&error) },
    })?;
    let status = response.status();
    let body = Limited::new(Body::from(response), RESPONSE_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| CliError::Response { authority: authority(), cause: root_cause(error.as_ref()) })?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// The innermost error: the outer ones of `reqwest` contain the URL with its signature.
fn root_cause(error: &(dyn Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| (*error).source()).last().unwrap_or(error).to_string()
}
