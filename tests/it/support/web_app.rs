//! A web application of a Fanfare user: `tests/clients/page_server.js`, with the
//! browser that has its page open.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::haproxy::Site;
use super::json_lines::{BROWSER_TIMEOUT, Client, Launch};

/// 32 bytes, as shared by applications and their backends.
const MASTER_KEY: &str = "ZmFuZmFyZS1mYW5mYXJlLWZhbmZhcmUtZmFuZmFyZSE=";

/// The results of every feature.
pub struct Run {
    /// One for each feature and library, in the order of the page.
    pub results: Vec<Value>,
    /// Output of the browser's console.
    pub console: Vec<String>,
}

pub struct WebApp {
    // Ends with this process, and with it its children.
    program: Client,
    chromium: Option<ProcessGroup>,
    profile: TempDir,
}

impl WebApp {
    pub fn start(site: &Site) -> WebApp {
        let app = site.app();
        let launch = Launch::node("page_server.js").addr(site.haproxy.addr());
        let launch = launch.arg(&app.id).arg(&app.key).arg(&app.secret);
        let program = launch.env("ENCRYPTION_MASTER_KEY", MASTER_KEY).timeout(BROWSER_TIMEOUT).start();
        WebApp { program, chromium: None, profile: TempDir::new().unwrap() }
    }

    /// Runs every feature in Node.
    pub async fn run_in_node(&mut self, expected: &Value) -> Run {
        self.program.send(&json!({ "cmd": "node", "expected": expected }));
        self.run().await
    }

    /// Runs every feature in the page, and saves a screenshot.
    pub async fn run_in_chromium(&mut self, expected: &Value, screenshot: &Path) -> Run {
        let profile = self.profile.path();
        self.program.send(&json!({
            "cmd": "chromium", "expected": expected, "profile": profile, "screenshot": screenshot,
        }));
        let chromium = self.program.find("start of Chromium", |report| report["type"] == "chromium").await;
        self.chromium = chromium["pid"].as_u64().map(ProcessGroup);
        let run = self.run().await;
        // Chromium has exited, and its pid may be reused.
        self.chromium = None;
        run
    }

    async fn run(&mut self) -> Run {
        let mut run = Run { results: Vec::new(), console: Vec::new() };
        loop {
            let report = self.program.next().await;
            match report["type"].as_str() {
                Some("result") => run.results.push(report),
                Some("console") => run.console.extend(report["text"].as_str().map(str::to_owned)),
                Some("done") => return run,
                _ => panic!("neither a result nor the end: {report}"),
            }
        }
    }
}

impl Drop for WebApp {
    /// Node ends its browser by itself, unless it is killed first.
    fn drop(&mut self) {
        if let Some(chromium) = self.chromium.take() {
            chromium.kill();
        }
    }
}

/// A browser is a dozen processes; one signal to the group reaches all.
pub struct ProcessGroup(pub u64);

impl ProcessGroup {
    /// Returns when the last process has exited, so that none writes into the
    /// profile while it is removed. The shell polls, because no process reports its
    /// exit. Where nothing reaps orphans, zombies remain: it polls for 2 s.
    pub fn kill(&self) {
        let kill = format!("kill -s KILL -- -{} 2>/dev/null", self.0);
        let script = format!("for _ in $(seq 100); do {kill} || exit; sleep 0.02; done");
        // An error means that there is no shell: then nothing else has started
        // either.
        let _ = Command::new("sh").args(["-c", &script]).status();
    }
}
