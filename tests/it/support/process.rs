//! A child process: its output lines as they arrive, signals by pid, and a
//! guaranteed end.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::sync::watch;

use super::STEP_TIMEOUT;

pub struct Process {
    name: String,
    child: Child,
    output: watch::Receiver<Output>,
}

/// The output of a process so far, on both of its streams.
#[derive(Default)]
struct Output {
    lines: Vec<Line>,
    streams_open: usize,
}

struct Line {
    stream: &'static str,
    text: String,
}

/// The signals that tests send.
#[derive(Debug, Clone, Copy)]
pub enum Signal {
    Stop,
    Continue,
    Terminate,
    Quit,
    HangUp,
    User1,
    Alarm,
}

impl Process {
    pub fn spawn(name: &str, command: &mut Command) -> Process {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let (sender, output) = watch::channel(Output { lines: Vec::new(), streams_open: 2 });
        listen("out", child.stdout.take().unwrap(), sender.clone());
        listen("err", child.stderr.take().unwrap(), sender);
        Process { name: name.into(), child, output }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the first line for which `find` returns `Some`; `None` if the
    /// process exited without one.
    pub async fn find<T>(&self, what: &str, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut output = self.output.clone();
        let found = |output: &Output| output.lines.iter().find_map(|line| find(&line.text));
        let wait = output.wait_for(|output| output.streams_open == 0 || found(output).is_some());
        match tokio::time::timeout(STEP_TIMEOUT, wait).await {
            Ok(output) => found(&output.expect("the sender lives as long as the streams")),
            Err(_) => panic!("{}: no {what} within {STEP_TIMEOUT:?}:\n{}", self.name, self.output()),
        }
    }

    /// Everything that the process has written, for failure messages and for
    /// `contains`.
    pub fn output(&self) -> String {
        let line = |line: &Line| format!("{} {}| {}\n", self.name, line.stream, line.text);
        self.output.borrow().lines.iter().map(line).collect()
    }

    /// Standard output alone.
    pub fn stdout(&self) -> String {
        let output = self.output.borrow();
        output.lines.iter().filter(|line| line.stream == "out").map(|line| line.text.clone() + "\n").collect()
    }

    /// Uses the shell's own `kill`: a minimal machine has no other, and `libc`
    /// would be a dependency for this alone.
    pub fn signal(&self, signal: Signal) {
        let name = match signal {
            Signal::Stop => "STOP",
            Signal::Continue => "CONT",
            Signal::Terminate => "TERM",
            Signal::Quit => "QUIT",
            Signal::HangUp => "HUP",
            Signal::User1 => "USR1",
            Signal::Alarm => "ALRM",
        };
        let line = format!("kill -s {name} {}", self.pid());
        let status = Command::new("sh").args(["-c", &line]).status().unwrap();
        assert!(status.success(), "{}: {line}: {status}", self.name);
    }

    /// Kills the process and reaps it.
    pub fn kill(&mut self) {
        // An error means that it has exited by itself and was reaped before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for the process to exit by itself: the exit closes its streams.
    pub async fn wait_exit(&mut self, within: Duration) -> ExitStatus {
        let mut output = self.output.clone();
        let ended = output.wait_for(|output| output.streams_open == 0);
        if tokio::time::timeout(within, ended).await.is_err() {
            panic!("{}: did not end within {within:?}:\n{}", self.name, self.output());
        }
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprint!("{}", self.output());
        }
    }
}

/// A thread, since the server's tokio features do not include `process`.
fn listen(stream: &'static str, from: impl Read + Send + 'static, sender: watch::Sender<Output>) {
    std::thread::spawn(move || {
        for line in BufReader::new(from).split(b'\n') {
            let Ok(bytes) = line else { break };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            sender.send_modify(|output| output.lines.push(Line { stream, text }));
        }
        sender.send_modify(|output| output.streams_open -= 1);
    });
}
