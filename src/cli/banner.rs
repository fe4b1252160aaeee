//! The banner that `--dev` prints when the server is ready: its address and example
//! commands.

use std::net::SocketAddr;

use crate::config::{Config, DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET, DEV_LISTEN};

/// Created before the server takes ownership of the configuration, printed when the
/// address is known.
#[derive(Debug)]
pub struct Banner {
    /// The name with which the program was started, so that the commands can be copied.
    program: String,
    app_id: String,
    app_key: String,
    demo: bool,
}

impl Banner {
    pub fn new(program: &str, config: &Config) -> Banner {
        // Without Redis, a valid configuration has at least one app.
        let (app_id, app_key, demo) =
            config.apps.first().map_or((DEV_APP_ID.into(), DEV_APP_KEY.into(), true), |app| {
                let demo = &*app.id == DEV_APP_ID
                    && app.key == DEV_APP_KEY
                    && app.secrets.iter().any(|it| it.reveal() == DEV_APP_SECRET.as_bytes());
                (app.id.to_string(), app.key.clone(), demo)
            });
        Banner { program: program.to_owned(), app_id, app_key, demo }
    }

    /// The text for a server that listens on `address`.
    pub fn text(&self, address: SocketAddr) -> String {
        let Banner { program, app_id, app_key, .. } = self;
        let (host, port) = (reachable_host(address), address.port());
        let url = format!("http://{host}:{port}");
        // The default address of the commands is that of `--dev`.
        let option =
            if format!("{host}:{port}") == DEV_LISTEN { String::new() } else { format!(" --url {url}") };
        let app = self.app_text();
        format!(
            "\
fanfare listens on {url}
{app}
Subscribe, in one terminal:
  {program} listen news{option}
Publish, in another:
  {program} trigger news greeting '{{\"hello\":\"world\"}}'{option}
The same with curl:
  BODY='{{\"name\":\"greeting\",\"channel\":\"news\",\"data\":\"hello\"}}'
  curl -d \"$BODY\" \"$({program} sign POST /apps/{app_id}/events --body \"$BODY\"{option})\"
Query the channel:
  {program} channel news --info subscription_count{option}
In a browser, with pusher-js:
  new Pusher('{app_key}', {{ wsHost: '{host}', wsPort: {port}, forceTLS: false, enabledTransports: ['ws'], cluster: '' }})
"
        )
    }

    fn app_text(&self) -> String {
        let Banner { app_id, app_key, .. } = self;
        if self.demo {
            return format!(
                "demo app: id {app_id}, key {app_key}, secret {DEV_APP_SECRET} (public: for tests only)\n"
            );
        }
        format!(
            "app: id {app_id}, key {app_key}; the commands below need, unless they are set already:\n  \
             export FANFARE_APP_ID={app_id} FANFARE_APP_KEY='{app_key}' FANFARE_APP_SECRET=…\n"
        )
    }
}

/// The host for clients on this machine: loopback if the server listens on all addresses.
fn reachable_host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(it) if it.ip().is_unspecified() => "127.0.0.1".to_owned(),
        SocketAddr::V6(it) if it.ip().is_unspecified() => "[::1]".to_owned(),
        SocketAddr::V4(it) => it.ip().to_string(),
        SocketAddr::V6(it) => format!("[{}]", it.ip()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags, load};

    fn text(variables: &[(&str, &str)], address: &str) -> String {
        let environment: Environment = variables.iter().copied().collect();
        let config = load(&Flags { dev: true, ..Flags::default() }, &environment).config.expect("valid");
        Banner::new("./fanfare", &config).text(address.parse().expect("an address"))
    }

    #[test]
    fn banner_commands_can_be_copied() {
        let text = text(&[], "127.0.0.1:6001");
        for command in [
            "fanfare listens on http://127.0.0.1:6001\n",
            "secret dev-secret",
            "  ./fanfare listen news\n",
            "  ./fanfare trigger news greeting '{\"hello\":\"world\"}'\n",
            "./fanfare sign POST /apps/1001/events --body \"$BODY\")\"\n",
            "  ./fanfare channel news --info subscription_count\n",
        ] {
            assert!(text.contains(command), "{command}\nnot in\n{text}");
        }
    }

    #[test]
    fn banner_of_another_app_has_address_and_id_but_no_secret() {
        let app = [("FANFARE_APP_ID", "7"), ("FANFARE_APP_KEY", "k"), ("FANFARE_APP_SECRET", "hush")];
        let text = text(&app, "[::]:7001");
        assert!(text.contains("./fanfare listen news --url http://[::1]:7001\n"), "{text}");
        assert!(text.contains("FANFARE_APP_ID=7") && !text.contains("hush"), "{text}");
    }
}
