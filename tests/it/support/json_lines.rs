//! A client of `tests/clients`: real libraries, driven by one JSON value per line
//! in each direction.

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

use super::STEP_TIMEOUT;

/// Capacity of the report queue. A client with more unread reports blocks; a test
/// that reads nothing has another problem.
const REPORTS_MAX: usize = 200_000;
/// Lines of the client's output that a failure prints.
const OUTPUT_LINES_MAX: usize = 40;

/// Timeout for a client that opens a browser: a cold start among other tests is
/// slow.
pub const BROWSER_TIMEOUT: Duration = Duration::from_secs(60);

/// How a client is started.
pub struct Launch {
    name: String,
    command: Command,
    timeout: Duration,
}

pub struct Client {
    name: String,
    /// Timeout of each report.
    timeout: Duration,
    child: Child,
    stdin: ChildStdin,
    reports: mpsc::Receiver<Value>,
    /// Reports that arrived while another one was awaited.
    kept: VecDeque<Value>,
    output_lines: Arc<Mutex<VecDeque<String>>>,
}

impl Launch {
    /// A script for Node, such as `pusher_js.js`.
    pub fn node(script: &str) -> Launch {
        let dir = clients();
        require(&dir.join("node_modules"), "the npm packages of the real clients");
        let mut command = Command::new("node");
        command.arg(dir.join(script));
        Launch { name: script.into(), command, timeout: STEP_TIMEOUT }
    }

    pub fn python(script: &str) -> Launch {
        let dir = clients();
        let python = dir.join(".venv/bin/python");
        require(&python, "the Python packages of the real clients");
        let mut command = Command::new(python);
        command.arg(dir.join(script));
        Launch { name: script.into(), command, timeout: STEP_TIMEOUT }
    }

    pub fn arg(mut self, arg: &str) -> Launch {
        self.command.arg(arg);
        self
    }

    /// Passes the host and port to connect to.
    pub fn addr(self, addr: SocketAddr) -> Launch {
        self.arg(&addr.ip().to_string()).arg(&addr.port().to_string())
    }

    pub fn env(mut self, name: &str, value: &str) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Sets the timeout of each report.
    pub fn timeout(mut self, timeout: Duration) -> Launch {
        self.timeout = timeout;
        self
    }

    pub fn start(mut self) -> Client {
        let (name, timeout) = (self.name, self.timeout);
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: run scripts/setup"));
        let (sender, reports) = mpsc::channel(REPORTS_MAX);
        let output_lines = Arc::new(Mutex::new(VecDeque::new()));
        let stdin = child.stdin.take().unwrap();
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let report = move |line: &str| sender.blocking_send(parse(line)).is_ok();
        read_lines(format!("{name} out"), stdout, output_lines.clone(), report);
        read_lines(format!("{name} err"), stderr, output_lines.clone(), |_| true);
        Client { name, timeout, child, stdin, reports, kept: VecDeque::new(), output_lines }
    }
}

impl Client {
    pub fn send(&mut self, command: &Value) {
        // Small lines to a client that reads them at once: the pipe never fills.
        let written = writeln!(self.stdin, "{command}").and_then(|()| self.stdin.flush());
        written.unwrap_or_else(|error| panic!("{}: {error} at {command}", self.name));
    }

    /// For the server libraries: each command has one response, in order.
    pub async fn request(&mut self, command: &Value) -> Value {
        self.send(command);
        self.next().await
    }

    /// The next report of any kind.
    pub async fn next(&mut self) -> Value {
        match self.kept.pop_front() {
            Some(report) => report,
            None => self.receive("anything").await,
        }
    }

    /// A report that has arrived already.
    pub fn try_next(&mut self) -> Option<Value> {
        let report = self.kept.pop_front().or_else(|| self.reports.try_recv().ok())?;
        self.check(&report);
        Some(report)
    }

    /// The first report that `matches`; keeps the others for later.
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
        let report = match tokio::time::timeout(self.timeout, self.reports.recv()).await {
            Ok(Some(report)) => report,
            Ok(None) => panic!("{} ended while {what} was awaited", self.name),
            Err(_) => panic!("{}: no {what} within {:?}; kept: {:?}", self.name, self.timeout, self.kept),
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
        // An error means that the process has exited by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.output_lines.lock().iter().for_each(|line| eprintln!("{line}"));
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

/// A thread, since the server's tokio features do not include `process`.
fn read_lines(
    stream: String,
    from: impl Read + Send + 'static,
    output_lines: Arc<Mutex<VecDeque<String>>>,
    take: impl Fn(&str) -> bool + Send + 'static,
) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(bytes) = line else { return };
            let text = String::from_utf8_lossy(&bytes);
            let mut last = output_lines.lock();
            last.push_back(format!("{stream}| {text}"));
            let surplus = last.len().saturating_sub(OUTPUT_LINES_MAX);
            last.drain(..surplus);
            drop(last);
            if !take(&text) {
                return;
            }
        }
    });
}
