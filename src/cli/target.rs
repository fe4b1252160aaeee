//! The server and the app of a command.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::CliError;
use super::input::read_secret;
use crate::app::Secret;
use crate::config::{
    self, AppCredentials, DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET, Environment, ServerAddress, keys,
};

/// Options of all commands that connect to a server. Without them, the address and the app are those
/// of the server's configuration: of its file, of its environment, or else of `--dev`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server and app")]
pub struct Target {
    /// URL of the server, http or https, with a path if it has a prefix
    /// [default: that of the configuration, or http://127.0.0.1:6001]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Configuration file of the server, for its address and its apps [env: FANFARE_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Id of the app [env: FANFARE_APP_ID] [default: the only app of the configuration, or that of --dev]
    #[arg(long, value_name = "ID")]
    app_id: Option<String>,
    /// Key of the app [env: FANFARE_APP_KEY] [default: that of the configuration, or of --dev]
    #[arg(long)]
    key: Option<String>,
    /// File with the secret of the app; - is stdin
    /// [env: FANFARE_APP_SECRET or FANFARE_APP_SECRET_FILE]
    /// [default: that of the configuration, or of --dev]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
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
    /// Empty, or `/…` without a trailing slash.
    path_prefix: String,
}

impl Server {
    pub(super) fn http_url(&self, path: &str) -> String {
        self.url_of(if self.is_tls { "https" } else { "http" }, path)
    }

    pub(super) fn websocket_url(&self, path: &str) -> String {
        self.url_of(if self.is_tls { "wss" } else { "ws" }, path)
    }

    fn url_of(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://{}{}{path}", self.authority, self.path_prefix)
    }

    fn parse(url: &str) -> Result<Server, CliError> {
        let bad = || CliError::BadUrl { url: url.to_owned() };
        let (scheme, rest) = url.split_once("://").ok_or_else(bad)?;
        let (is_tls, default_port) = match scheme {
            "http" | "ws" => (false, 80),
            "https" | "wss" => (true, 443),
            _ => return Err(bad()),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let authority: hyper::http::uri::Authority = authority.parse().map_err(|_| bad())?;
        if path.contains(['?', '#']) || !path.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad());
        }
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(bad());
        }
        let port = authority.port_u16().unwrap_or(default_port);
        let path_prefix = path.trim_end_matches('/').to_owned();
        Ok(Server { authority: format!("{}:{port}", authority.host()), is_tls, path_prefix })
    }
}

impl Target {
    pub(super) fn server(&self, environment: &Environment) -> Result<Server, CliError> {
        if let Some(url) = &self.url {
            return Server::parse(url);
        }
        let ServerAddress { listen, path_prefix } =
            config::server_address(self.config.as_deref(), environment)?;
        Ok(Server { authority: reachable(listen), is_tls: false, path_prefix })
    }

    pub(super) fn credentials(&self, environment: &Environment) -> Result<Credentials, CliError> {
        let given = self.secret_file.as_deref().map(read_secret).transpose()?;
        let app = match (&self.app_id, &self.key, &given) {
            // Nothing is missing: mistakes in the configuration do not matter.
            (Some(_), Some(_), Some(_)) => AppCredentials::default(),
            _ => self.configured(environment)?,
        };
        let or = |given: &Option<String>, configured: String, default: &str| {
            let configured = Some(configured).filter(|it| !it.is_empty());
            given.clone().or(configured).unwrap_or_else(|| default.to_owned())
        };
        Ok(Credentials {
            app_id: or(&self.app_id, app.id, DEV_APP_ID),
            key: or(&self.key, app.key, DEV_APP_KEY),
            secret: given.or(app.secret).unwrap_or_else(|| Secret::new(DEV_APP_SECRET)),
        })
    }

    /// The app of the configuration that the options select. Without any app, it is that of `--dev`.
    fn configured(&self, environment: &Environment) -> Result<AppCredentials, CliError> {
        let mut apps = config::app_credentials(self.config.as_deref(), environment)?;
        let id = self.app_id.as_deref().or(environment.get(&keys::ID.variable()));
        match (id, apps.len()) {
            (_, 0) => Ok(AppCredentials::default()),
            (None, 1) => Ok(apps.remove(0)),
            (None, _) => Err(CliError::SeveralApps),
            (Some(id), _) => {
                // The environment may have the key and the secret of an app, and not its id.
                let is_wanted = |app: &AppCredentials| app.id == id || app.id.is_empty();
                apps.into_iter()
                    .find(is_wanted)
                    .ok_or_else(|| CliError::AppNotConfigured { id: id.to_owned() })
            }
        }
    }
}

/// The address at which a client on this machine reaches a server that listens on
/// `listen`: loopback if that is all addresses. So `fanfare healthcheck` in a container
/// needs no option.
fn reachable(listen: SocketAddr) -> String {
    let port = listen.port();
    match listen {
        SocketAddr::V4(it) if it.ip().is_unspecified() => format!("127.0.0.1:{port}"),
        SocketAddr::V6(it) if it.ip().is_unspecified() => format!("[::1]:{port}"),
        _ => listen.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target { url: None, config: None, app_id: None, key: None, secret_file: None }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("written");
        file
    }

    /// Id, key and secret.
    fn credentials(target: &Target, environment: &Environment) -> Result<[String; 3], CliError> {
        let Credentials { app_id, key, secret } = target.credentials(environment)?;
        Ok([app_id, key, String::from_utf8_lossy(secret.reveal()).into_owned()])
    }

    #[test]
    fn credentials_come_from_flags_environment_or_dev() {
        let environment: Environment =
            [("FANFARE_APP_ID", "7"), ("FANFARE_APP_KEY", "k")].into_iter().collect();
        let given = Target { key: Some("flag".into()), ..target() };
        assert_eq!(credentials(&given, &environment).expect("all"), ["7", "flag", DEV_APP_SECRET]);
        let secret = file("hush\n");
        let given = Target { secret_file: Some(secret.path().into()), ..given };
        assert_eq!(credentials(&given, &environment).expect("all"), ["7", "flag", "hush"]);
        let dev = credentials(&target(), &Environment::default()).expect("all");
        assert_eq!(dev, [DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET]);
    }

    #[test]
    fn credentials_come_from_the_file_of_the_server() {
        let app = |id: &str| format!("[[apps]]\nid = \"{id}\"\nkey = \"k{id}\"\nsecret = \"s{id}\"\n");
        let (one, two) = (file(&app("7")), file(&(app("7") + &app("8"))));
        let variable = |file: &tempfile::NamedTempFile| {
            [("FANFARE_CONFIG", file.path().display().to_string())].into_iter().collect::<Environment>()
        };
        assert_eq!(credentials(&target(), &variable(&one)).expect("all"), ["7", "k7", "s7"]);
        let by_flag = Target { config: Some(one.path().into()), ..target() };
        assert_eq!(credentials(&by_flag, &Environment::default()).expect("all"), ["7", "k7", "s7"]);
        let eight = Target { app_id: Some("8".into()), ..target() };
        assert_eq!(credentials(&eight, &variable(&two)).expect("all"), ["8", "k8", "s8"]);
        assert!(matches!(credentials(&target(), &variable(&two)), Err(CliError::SeveralApps)));
        assert!(matches!(credentials(&eight, &variable(&one)), Err(CliError::AppNotConfigured { .. })));
    }

    #[test]
    fn server_comes_from_flag_configuration_or_dev() {
        let at = |listen: &str| {
            let environment = [("FANFARE_LISTEN", listen)].into_iter().collect();
            target().server(&environment).map(|server| server.http_url("/x"))
        };
        let dev = target().server(&Environment::default()).expect("a server");
        assert_eq!(dev.http_url("/x"), "http://127.0.0.1:6001/x");
        for (listen, url) in [
            ("0.0.0.0:7001", "http://127.0.0.1:7001/x"),
            (" localhost:7001 ", "http://127.0.0.1:7001/x"),
            ("[::]:7001", "http://[::1]:7001/x"),
            ("10.1.2.3:7001", "http://10.1.2.3:7001/x"),
        ] {
            assert_eq!(at(listen).expect("a server"), url, "{listen}");
        }
        assert!(at("7001").expect_err("no address").to_string().contains("`listen`"));
        // Only settings of the address matter.
        let file = file("listen = \"127.0.0.1:7001\"\npath_prefix = \"/p\"\nredis = \"nonsense\"\n");
        let by_file = Target { config: Some(file.path().into()), ..target() };
        let server = by_file.server(&Environment::default()).expect("a server");
        assert_eq!(server.websocket_url("/x"), "ws://127.0.0.1:7001/p/x");
    }

    #[test]
    fn url_has_a_scheme_an_authority_and_perhaps_a_path() {
        let check = |url: &str, http: &str, websocket: &str| {
            let server = Server::parse(url).expect("a server");
            assert_eq!((server.http_url("").as_str(), server.websocket_url("").as_str()), (http, websocket));
        };
        check("http://[::1]:6001/", "http://[::1]:6001", "ws://[::1]:6001");
        check("ws://node.example", "http://node.example:80", "ws://node.example:80");
        check("https://node.example", "https://node.example:443", "wss://node.example:443");
        check("wss://node.example:8443", "https://node.example:8443", "wss://node.example:8443");
        check("http://node/a/b/", "http://node:80/a/b", "ws://node:80/a/b");
        for url in ["node:6001", "http://", "http:///a", "http://u:p@a", "ftp://a", "http://a/b?c"] {
            assert!(matches!(Server::parse(url), Err(CliError::BadUrl { .. })), "{url}");
        }
    }
}
