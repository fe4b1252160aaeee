//! A client of `tests/clients`: real libraries, driven by one JSON value per
//! line in, and one per line out.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::PATIENCE;

/// Beyond, the client waits: a test that reads nothing has another problem.
const REPORTS_MAX: usize = 200_000;
/// What a failure shows of the client's last words.
const WORDS_MAX: usize = 40;

/// Of a client that opens a browser: a cold start among other tests takes its time.
pub const BROWSER_PATIENCE: Duration = Duration::from_secs(60);

/// How a client is started.
pub struct Launch {
    name: String,
    command: Command,
    patience: Duration,
}

pub struct Client {
    name: String,
    /// How long each report may take.
    patience: Duration,
    child: Child,
    stdin: ChildStdin,
    reports: mpsc::Receiver<Value>,
    /// Reports that came while another one was awaited.
    kept: VecDeque<Value>,
    words: Arc<Mutex<VecDeque<String>>>,
}

impl Launch {
    /// A script for Node, such as `pusher_js.js`.
    pub fn node(script: &str) -> Launch {
        let dir = clients();
        require(&dir.join("node_modules"), "the npm packages of the real clients");
        let mut command = Command::new("node");
        command.arg(dir.join(script));
        Launch { name: script.into(), command, patience: PATIENCE }
    }

    pub fn python(script: &str) -> Launch {
        let dir = clients();
        let python = dir.join(".venv/bin/python");
        require(&python, "the Python packages of the real clients");
        let mut command = Command::new(python);
        command.arg(dir.join(script));
        Launch { name: script.into(), command, patience: PATIENCE }
    }

    pub fn arg(mut self, arg: &str) -> Launch {
        self.command.arg(arg);
        self
    }

    /// Of whoever it is to connect to.
    pub fn addr(self, addr: SocketAddr) -> Launch {
        self.arg(&addr.ip().to_string()).arg(&addr.port().to_string())
    }

    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Each report may take so long.
    pub fn patience(mut self, patience: Duration) -> Launch {
        self.patience = patience;
        self
    }

    pub fn start(mut self) -> Client {
        let (name, patience) = (self.name, self.patience);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: run scripts/setup"));
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let stdin = child.stdin.take().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let report = move |line: &str| sender.blocking_send(parse(line)).is_ok();
        read_lines(format!("{name} out"), stdout, words.clone(), report);
        read_lines(format!("{name} err"), stderr, words.clone(), |_| true);
        Client { name, patience, child, stdin, reports, kept: VecDeque::new(), words }
    }
}

impl Client {
    pub fn tell(&mut self, command: &Value) {
        // Small lines to a client that reads them at once: the pipe never fills.
        let written = writeln!(self.stdin, "{command}").and_then(|()| self.stdin.flush());
        written.unwrap_or_else(|error| panic!("{}: {error} at {command}", self.name));
    }

    /// For the server libraries: each command has one answer, in order.
    pub async fn ask(&mut self, command: &Value) -> Value {
        self.tell(command);
        self.next().await
    }

    /// The next report, whatever it is.
    pub async fn next(&mut self) -> Value {
        match self.kept.pop_front() {
            Some(report) => report,
            None => self.receive("anything").await,
        }
    }

    /// A report that is here already.
    pub fn try_next(&mut self) -> Option<Value> {
        let report = self.kept.pop_front().or_else(|| self.reports.try_recv().ok())?;
        self.check(&report);
        Some(report)
    }

    /// The first report that `matches`; the others are kept for later.
    pub async fn find(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        if let Some(at) = self.kept.iter().position(&matches) {
            return self.kept.remove(at).unwrap();
        }
        loop {
            let report = self.receive(what).await;
            if matches(&report) {
                return report;
            }
            self.kept.push_back(report);
        }
    }

    async fn receive(&mut self, what: &str) -> Value {
        let report = match tokio::time::timeout(self.patience, self.reports.recv()).await {
            Ok(Some(report)) => report,
            Ok(None) => panic!("{} ended while {what} was awaited", self.name),
            Err(_) => panic!("{}: no {what} within {:?}; kept: {:?}", self.name, self.patience, self.kept),
        };
        self.check(&report);
        report
    }

    fn check(&self, report: &Value) {
        assert_ne!(report["type"], "bad_command", "{}: {report}", self.name);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.words.lock().iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

fn require(path: &Path, what: &str) {
    assert!(path.exists(), "{what} are not installed ({} is missing): run scripts/setup", path.display());
}

fn parse(line: &str) -> Value {
    serde_json::from_str(line).unwrap_or_else(|_| json!({ "type": "bad_command", "not_json": line }))
}

/// A thread, since tokio's `process` is not among the server's features.
fn read_lines(
    stream: String,
    from: impl Read + Send + 'static,
    words: Arc<Mutex<VecDeque<String>>>,
    take: impl Fn(&str) -> bool + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(bytes) = line else { return };
            let text = String::from_utf8_lossy(&bytes);
            let mut last = words.lock();
            last.push_back(format!("{stream}| {text}"));
            let surplus = last.len().saturating_sub(WORDS_MAX);
            last.drain(..surplus);
            drop(last);
            if !take(&text) {
                return;
            }
        }
    });
}
