//! A child process, on its cores, and what it has used so far.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use super::Outcome;
use super::machine::field;

/// Ends with the value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// A line that says that a process is ready comes within this time.
const PATIENCE: Duration = Duration::from_secs(30);
/// `USER_HZ`, the unit of `/proc/PID/stat`, the same on every Linux.
const TICKS_PER_SEC: f64 = 100.0;

/// CPU time in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub kernel: f64,
}

impl Process {
    /// Runs `program` on `cores`, if any; what it says on either stream can be
    /// waited for.
    pub fn start(program: &Path, arguments: &[&str], cores: Option<&str>) -> Outcome<Process> {
        let mut command = match cores {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cores]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // The settings of whoever runs the benchmark are none of the server's.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FANFARE_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let (said, lines) = mpsc::channel(1_000);
        pass_lines(child.stdout.take(), said.clone());
        pass_lines(child.stderr.take(), said);
        Ok(Process { child, lines })
    }

    /// What `find` makes of the first line of which it makes something.
    pub async fn said<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Outcome<T> {
        let mut unlike = String::new();
        let wait = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = find(&line) {
                    return Some(found);
                }
                unlike = unlike.clone() + &line + "\n";
            }
            None
        };
        let found = tokio::time::timeout(PATIENCE, wait).await.ok().flatten();
        found.ok_or_else(|| format!("a process ended or said nothing of use:\n{unlike}").into())
    }

    pub fn stdin(&mut self) -> Outcome<&mut ChildStdin> {
        self.child.stdin.as_mut().ok_or_else(|| "standard input is closed".into())
    }

    pub fn cpu(&self) -> Outcome<Cpu> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields 14 and 15; the second, in parentheses, may have spaces.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        let seconds = |at: usize| -> Outcome<f64> {
            Ok(fields.get(at).ok_or("/proc/PID/stat is short")?.parse::<f64>()? / TICKS_PER_SEC)
        };
        Ok(Cpu { user: seconds(11)?, kernel: seconds(12)? })
    }

    /// Resident bytes, exact: the counters in `/proc/PID/status` lag behind.
    pub fn resident_bytes(&self) -> Outcome<f64> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let rss = field(&rollup, "Rss").and_then(|rss| rss.strip_suffix(" kB"));
        Ok(rss.ok_or("/proc/PID/smaps_rollup has no Rss")?.parse::<f64>()? * 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cpu {
    pub fn total(self) -> f64 {
        self.user + self.kernel
    }
}

impl std::ops::Sub for Cpu {
    type Output = Cpu;

    fn sub(self, other: Cpu) -> Cpu {
        Cpu { user: self.user - other.user, kernel: self.kernel - other.kernel }
    }
}

impl std::iter::Sum for Cpu {
    fn sum<I: Iterator<Item = Cpu>>(all: I) -> Cpu {
        all.fold(Cpu::default(), |a, b| Cpu { user: a.user + b.user, kernel: a.kernel + b.kernel })
    }
}

/// A thread that reads to the end, so that the child never waits for us; lines
/// that nobody takes are let go.
fn pass_lines(from: Option<impl Read + Send + 'static>, said: mpsc::Sender<String>) {
    let Some(from) = from else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            let _ = said.try_send(line);
        }
    });
}
