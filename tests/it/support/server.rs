//! A node: the real binary in a process of its own.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::browser::Browser;
use super::caller::Caller;
use super::http::{self, Answer};
use super::process::{Process, Signal};
use super::redis::Redis;
use super::websocket::pusher_path;

/// An app as in the configuration, with the credentials of its backend.
#[derive(Debug, Clone)]
pub struct AppSpec {
    pub id: String,
    pub key: String,
    pub secret: String,
    settings: Vec<String>,
}

impl AppSpec {
    /// App `7` has key `key7` and secret `secret7`.
    pub fn new(id: &str) -> AppSpec {
        let (key, secret) = (format!("key{id}"), format!("secret{id}"));
        AppSpec { id: id.into(), key, secret, settings: Vec::new() }
    }

    /// A configuration key and its value as TOML.
    pub fn set(mut self, key: &str, value: impl std::fmt::Display) -> AppSpec {
        self.settings.push(format!("{key} = {value}\n"));
        self
    }

    /// The apps of a server unless the test sets others: one with the defaults, one
    /// with large batches, one that is disabled.
    fn defaults() -> Vec<AppSpec> {
        vec![
            AppSpec::new("1"),
            AppSpec::new("2").set("max_event_batch_size", 1_000),
            AppSpec::new("3").set("enabled", false),
        ]
    }

    fn toml(&self) -> String {
        let AppSpec { id, key, secret, settings } = self;
        format!("[[apps]]\nid = \"{id}\"\nkey = \"{key}\"\nsecret = \"{secret}\"\n{}\n", settings.concat())
    }
}

/// The settings of a server to start.
#[derive(Debug, Clone)]
pub struct Builder {
    name: String,
    apps: Vec<AppSpec>,
    redis: Option<String>,
    config: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    files: Option<String>,
}

impl Builder {
    /// The prefix of its log lines in a failed test.
    pub fn name(mut self, name: &str) -> Builder {
        self.name = name.into();
        self
    }

    /// Adds an app, and replaces one with the same id.
    pub fn app(mut self, app: AppSpec) -> Builder {
        self.apps.retain(|other| other.id != app.id);
        self.apps.push(app);
        self
    }

    /// Without the default apps.
    pub fn without_apps(mut self) -> Builder {
        self.apps.clear();
        self
    }

    pub fn redis(self, redis: &Redis) -> Builder {
        self.redis_url(&redis.url())
    }

    /// Also accepts the URL of a [`super::Proxy`].
    pub fn redis_url(mut self, url: &str) -> Builder {
        self.redis = Some(url.into());
        self
    }

    /// Further lines of the configuration: top-level keys, then tables.
    pub fn config(mut self, toml: &str) -> Builder {
        self.config.push_str(toml);
        self.config.push('\n');
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Builder {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn arg(mut self, arg: &str) -> Builder {
        self.args.push(arg.into());
        self
    }

    /// Shell commands that set the limits of open files, such as `ulimit -n 200`.
    pub fn files(mut self, commands: &str) -> Builder {
        self.files = Some(commands.into());
        self
    }

    pub async fn start(self) -> Server {
        self.start_until("listening").await
    }

    /// Returns when the node waits for Redis.
    pub async fn start_waiting(self) -> Server {
        self.start_until("connecting to Redis").await
    }

    async fn start_until(self, message: &str) -> Server {
        let (process, dir) = self.launch();
        let Some(listening) = process.find(message, |line| listening(line, message)).await else {
            panic!("the server ended before {message:?}:\n{}", process.output());
        };
        Server { process, listening, apps: self.apps, may_panic: false, dir }
    }

    /// Starts a server that is expected to refuse its configuration. Returns its
    /// exit status and its whole output.
    pub async fn start_refused(self) -> (ExitStatus, String) {
        let (mut process, _dir) = self.launch();
        let status = process.wait_exit(super::STEP_TIMEOUT).await;
        (status, process.output())
    }

    fn launch(&self) -> (Process, TempDir) {
        let dir = TempDir::new().unwrap();
        let file = dir.path().join(CONFIG);
        std::fs::write(&file, self.toml()).unwrap();
        // It contains secrets.
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let binary = env!("CARGO_BIN_EXE_fanfare");
        let mut command = match &self.files {
            None => Command::new(binary),
            Some(limits) => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &format!("{limits}; exec \"$0\" \"$@\""), binary]);
                shell
            }
        };
        // The server must not inherit settings of the environment that runs the
        // tests.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FANFARE_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.arg("--config").arg(file).args(&self.args).envs(self.env.iter().cloned());
        (Process::spawn(&self.name, &mut command), dir)
    }

    /// Port 0: the system chooses the port, and the log contains it.
    fn toml(&self) -> String {
        let redis = self.redis.iter().map(|url| format!("redis = \"{url}\"\n")).collect::<String>();
        let apps = self.apps.iter().map(AppSpec::toml).collect::<String>();
        let listen = "listen = \"127.0.0.1:0\"\nmetrics_listen = \"127.0.0.1:0\"\n";
        [listen, &redis, &self.config, &apps].concat()
    }
}

#[derive(Clone, Copy)]
struct Listening {
    addr: SocketAddr,
    metrics: SocketAddr,
}

/// The configuration file of a server, in a directory of its own.
const CONFIG: &str = "fanfare.toml";

/// The addresses in the log line with this message (JSON, since standard error is not a terminal).
fn listening(line: &str, message: &str) -> Option<Listening> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    let addr = |name: &str| fields[name].as_str()?.parse::<SocketAddr>().ok();
    (fields["message"] == message).then_some(())?;
    Some(Listening { addr: addr("listen")?, metrics: addr("metrics_listen")? })
}

pub struct Server {
    process: Process,
    listening: Listening,
    apps: Vec<AppSpec>,
    may_panic: bool,
    /// Holds the configuration file.
    dir: TempDir,
}

impl Server {
    pub fn builder() -> Builder {
        Builder {
            name: "server".into(),
            apps: AppSpec::defaults(),
            redis: None,
            config: String::new(),
            env: Vec::new(),
            args: Vec::new(),
            files: None,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listening.addr
    }

    pub fn metrics_addr(&self) -> SocketAddr {
        self.listening.metrics
    }

    pub fn app(&self, id: &str) -> &AppSpec {
        self.apps.iter().find(|app| app.id == id).expect("the server was started with this app")
    }

    /// The backend of app `id`, which publishes through this node.
    pub fn caller(&self, id: &str) -> Caller {
        Caller::new(self.addr(), self.app(id).clone())
    }

    /// A browser that has connected with `key` and received its socket id.
    pub async fn browser(&self, key: &str) -> Browser {
        let mut browser = self.connect(&pusher_path(key)).await;
        browser.expect_greeting().await;
        browser
    }

    /// A WebSocket on `path`, before the server's first frame.
    pub async fn connect(&self, path: &str) -> Browser {
        self.try_connect(path).await.unwrap_or_else(|refusal| panic!("{path}: {refusal:?}"))
    }

    /// The same, or the HTTP response that refused the upgrade.
    pub async fn try_connect(&self, path: &str) -> Result<Browser, Box<Answer>> {
        let key = path.trim_start_matches("/app/").split('?').next().unwrap();
        let app = self.apps.iter().find(|app| app.key == key).cloned();
        Browser::connect(self.addr(), path, app).await
    }

    /// A browser that connects with `key` from a page of this origin.
    pub async fn connect_from(&self, key: &str, origin: Option<&str>) -> Browser {
        let path = format!("/app/{key}?protocol=7");
        let app = self.apps.iter().find(|app| app.key == key).cloned();
        let headers: Vec<_> = origin.map(|origin| ("origin", origin)).into_iter().collect();
        let connected = Browser::connect_with(self.addr(), &path, app, &headers).await;
        connected.unwrap_or_else(|refusal| panic!("{origin:?}: {refusal:?}"))
    }

    /// A plain, unsigned `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        http::get(self.addr(), path).await
    }

    /// Waits until `/ready` has this status, and returns the response.
    pub async fn ready_becomes(&self, status: u16, within: Duration) -> Answer {
        super::eventually(&format!("/ready {status}"), within, async || {
            let answer = self.get("/ready").await;
            if answer.status == status { Ok(answer) } else { Err(answer.text()) }
        })
        .await
    }

    pub async fn metrics(&self) -> Metrics {
        let answer = http::get(self.listening.metrics, "/metrics").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        Metrics::parse(&answer.text())
    }

    /// Changes the configuration file.
    pub fn edit_config(&self, edit: impl Fn(String) -> String) {
        let path = self.dir.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, edit(text)).unwrap();
    }

    /// Sends SIGHUP and waits until the server has reloaded its configuration, or has refused to.
    pub async fn reload(&self) {
        let reloads = async || self.metrics().await.sum("fanfare_config_reloads_total");
        let before = reloads().await;
        self.signal(Signal::HangUp);
        super::eventually("a reload", super::STEP_TIMEOUT, async || match reloads().await {
            now if now > before => Ok(()),
            _ => Err(self.log()),
        })
        .await;
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Waits for a line of the log.
    pub async fn logged(&self, what: &str) -> String {
        let find = |line: &str| line.contains(what).then(|| line.to_owned());
        let Some(line) = self.process.find(what, find).await else {
            panic!("the server ended without {what:?}:\n{}", self.log());
        };
        line
    }

    pub fn kill9(&mut self) {
        self.process.kill();
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Waits until a panic ends the server. Returns its exit status and its whole output.
    pub async fn ended_by_panic(mut self) -> (ExitStatus, String) {
        self.may_panic = true;
        let status = self.wait_exit(super::STEP_TIMEOUT).await;
        (status, self.log())
    }

    pub async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        self.process.wait_exit(within).await
    }
}

impl Drop for Server {
    /// No task of a server may panic in any test.
    fn drop(&mut self) {
        if !self.may_panic && !std::thread::panicking() {
            let log = self.log();
            assert!(!log.contains("panicked at"), "a server panicked:\n{log}");
        }
    }
}

/// One reading of `/metrics`: `name{labels}` → value.
#[derive(Debug, Clone)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let pair = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        };
        Metrics(lines.filter_map(pair).collect())
    }

    /// The sum of all series of a metric; 0 without any.
    pub fn sum(&self, name: &str) -> f64 {
        let of_name = |series: &str| series.split('{').next() == Some(name);
        self.0.iter().filter(|(series, _)| of_name(series)).map(|(_, value)| value).sum()
    }

    /// The value of a metric for one app; 0 without a series.
    pub fn of_app(&self, name: &str, app: &str) -> f64 {
        self.0.get(&format!("{name}{{app=\"{app}\"}}")).copied().unwrap_or(0.0)
    }
}
