//! The server and the app of a command.

use std::net::SocketAddr;

use super::error::CliError;
use crate::app::Secret;
use crate::config::{DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET, DEV_LISTEN, Environment};

/// Options of all commands that connect to a server. Defaults are those of `--dev`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server and app")]
pub struct Target {
    /// URL of the server [default: http://127.0.0.1:6001, or the address of FANFARE_LISTEN]
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

impl Target {
    /// `HOST:PORT` of the server.
    pub(super) fn authority(&self, environment: &Environment) -> Result<String, CliError> {
        match &self.url {
            Some(url) => authority_of(url),
            None => {
                Ok(environment.get("FANFARE_LISTEN").and_then(reachable).unwrap_or(DEV_LISTEN.to_owned()))
            }
        }
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

fn authority_of(url: &str) -> Result<String, CliError> {
    let bad = || CliError::BadUrl { url: url.to_owned() };
    if url.starts_with("https://") || url.starts_with("wss://") {
        return Err(CliError::NotHttp { url: url.to_owned() });
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("ws://")).ok_or_else(bad)?;
    let authority: hyper::http::uri::Authority = rest.trim_end_matches('/').parse().map_err(|_| bad())?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(bad());
    }
    Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
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
    fn authority_comes_from_flag_environment_or_dev() {
        let at = |listen: &str| {
            target().authority(&[("FANFARE_LISTEN", listen)].into_iter().collect()).expect("good")
        };
        assert_eq!(target().authority(&Environment::default()).expect("good"), "127.0.0.1:6001");
        assert_eq!(at("0.0.0.0:7001"), "127.0.0.1:7001");
        assert_eq!(at("[::]:7001"), "[::1]:7001");
        assert_eq!(at("10.1.2.3:7001"), "10.1.2.3:7001");
        assert_eq!(authority_of("http://[::1]:6001/").expect("good"), "[::1]:6001");
        assert_eq!(authority_of("http://node.example").expect("good"), "node.example:80");
        for url in ["node:6001", "http://", "http://a/b", "http://u:p@a", "ftp://a"] {
            assert!(matches!(authority_of(url), Err(CliError::BadUrl { .. })), "{url}");
        }
        assert!(matches!(authority_of("https://a"), Err(CliError::NotHttp { .. })));
    }
}
