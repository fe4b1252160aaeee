//! The server and the app of a command.

use std::net::SocketAddr;

use super::error::CliError;
use crate::app::Secret;
use crate::config::{DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET, DEV_LISTEN, Environment};

/// Options of all commands that connect to a server. Defaults are those of `--dev`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server and app")]
pub struct Target {
    /// URL of the server, http or https
    /// [default: http://127.0.0.1:6001, or the address of FANFARE_LISTEN]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Id of the app [env: FANFARE_APP_ID] [default: that of --dev]
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,
    /// Key of the app [env: FANFARE_APP_KEY] [default: that of --dev]
    #[arg(long)]
    key: Option<String>,
    /// Secret of the app [env: FANFARE_APP_SECRET or FANFARE_APP_SECRET_FILE] [default: that of --dev]
    #[arg(long, value_parser = |text: &str| Ok::<_, std::convert::Infallible>(Secret::new(text)))]
    secret: Option<Secret>,
}

/// Id, key and secret of an app: they authorise to publish.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    pub(super) app_id: String,
    pub(super) key: String,
    pub(super) secret: Secret,
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Server {
    /// `HOST:PORT`
    pub(super) authority: String,
    is_tls: bool,
}

impl Server {
    pub(super) fn http_url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.is_tls { "https" } else { "http" }, self.authority)
    }

    pub(super) fn websocket_url(&self, path: &str) -> String {
        format!("{}://{}{path}", if self.is_tls { "wss" } else { "ws" }, self.authority)
    }

    fn parse(url: &str) -> Result<Server, CliError> {
        let bad = || CliError::BadUrl { url: url.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (is_tls, default_port) = match scheme {
            "http" | "ws" => (false, 80),
            "https" | "wss" => (true, 443),
            _ => return Err(bad()),
        };
        let authority: hyper::http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| bad())?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(bad());
        }
        let port = authority.port_u16().unwrap_or(default_port);
        Ok(Server { authority: format!("{}:{port}", authority.host()), is_tls })
    }
}

impl Target {
    pub(super) fn server(&self, environment: &Environment) -> Result<Server, CliError> {
        let Some(url) = &self.url else {
            let authority = environment.get("FANFARE_LISTEN").and_then(reachable);
            return Ok(Server { authority: authority.unwrap_or(DEV_LISTEN.to_owned()), is_tls: false });
        };
        Server::parse(url)
    }

    pub(super) fn credentials(&self, environment: &Environment) -> Result<Credentials, CliError> {
        let or = |given: &Option<String>, name: &str, default: &str| {
            given.as_deref().or(environment.get(name)).unwrap_or(default).to_owned()
        };
        Ok(Credentials {
            app_id: or(&self.app_id, "FANFARE_APP_ID", DEV_APP_ID),
            key: or(&self.key, "FANFARE_APP_KEY", DEV_APP_KEY),
            secret: match &self.secret {
                Some(secret) => secret.clone(),
                None => secret_of(environment)?,
            },
        })
    }
}

fn secret_of(environment: &Environment) -> Result<Secret, CliError> {
    if let Some(secret) = environment.get("FANFARE_APP_SECRET") {
        return Ok(Secret::new(secret));
    }
    let Some(path) = environment.get("FANFARE_APP_SECRET_FILE") else {
        return Ok(Secret::new(DEV_APP_SECRET));
    };
    let text = std::fs::read_to_string(path).map_err(|error| CliError::File { path: path.into(), error })?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// The address at which a client on this machine reaches a server that listens on
/// `listen`: loopback if that is all addresses. So `fanfare healthcheck` in a container
/// needs no option.
fn reachable(listen: &str) -> Option<String> {
    let address: SocketAddr = listen.parse().ok()?;
    let port = address.port();
    match address {
        SocketAddr::V4(it) if it.ip().is_unspecified() => Some(format!("127.0.0.1:{port}")),
        SocketAddr::V6(it) if it.ip().is_unspecified() => Some(format!("[::1]:{port}")),
        _ => Some(address.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { url: None, app_id: None, key: None, secret: None }
    }

    #[test]
    fn credentials_come_from_flags_environment_or_dev() {
        let environment: Environment =
            [("FANFARE_APP_ID", "7"), ("FANFARE_APP_KEY", "k")].into_iter().collect();
        let given = Target { key: Some("flag".into()), ..target() };
        let app = given.credentials(&environment).expect("credentials");
        assert_eq!((app.app_id.as_str(), app.key.as_str()), ("7", "flag"));
        assert_eq!(app.secret.reveal(), DEV_APP_SECRET.as_bytes());
    }

    #[test]
    fn server_comes_from_flag_environment_or_dev() {
        let at = |listen: &str| {
            let environment = [("FANFARE_LISTEN", listen)].into_iter().collect();
            target().server(&environment).expect("a server").http_url("/x")
        };
        let dev = target().server(&Environment::default()).expect("a server");
        assert_eq!(dev.http_url("/x"), "http://127.0.0.1:6001/x");
        assert_eq!(at("0.0.0.0:7001"), "http://127.0.0.1:7001/x");
        assert_eq!(at("[::]:7001"), "http://[::1]:7001/x");
        assert_eq!(at("10.1.2.3:7001"), "http://10.1.2.3:7001/x");
    }

    #[test]
    fn url_has_a_scheme_and_an_authority_only() {
        let check = |url: &str, http: &str, websocket: &str| {
            let server = Server::parse(url).expect("a server");
            assert_eq!((server.http_url("").as_str(), server.websocket_url("").as_str()), (http, websocket));
        };
        check("http://[::1]:6001/", "http://[::1]:6001", "ws://[::1]:6001");
        check("ws://node.example", "http://node.example:80", "ws://node.example:80");
        check("https://node.example", "https://node.example:443", "wss://node.example:443");
        check("wss://node.example:8443", "https://node.example:8443", "wss://node.example:8443");
        for url in ["node:6001", "http://", "http://a/b", "http://u:p@a", "ftp://a"] {
            assert!(matches!(Server::parse(url), Err(CliError::BadUrl { .. })), "{url}");
        }
    }
}
