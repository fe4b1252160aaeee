//! A child process, on its cores, and what it has used so far.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::Outcome;
use crate::machine::{TICKS_PER_SEC, field};

/// Ends with the value.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// A line that says that a process is ready comes within this time.
const PATIENCE: Duration = Duration::from_secs(30);

/// Said and not yet taken; what is more is let go.
const LINES_MAX: usize = 20_000;

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
        let (said, lines) = mpsc::channel(LINES_MAX);
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

    /// The next line, if one comes in time.
    pub async fn line(&mut self, patience: Duration) -> Option<String> {
        tokio::time::timeout(patience, self.lines.recv()).await.ok().flatten()
    }

    pub fn stdin(&mut self) -> Outcome<&mut ChildStdin> {
        self.child.stdin.as_mut().ok_or_else(|| "standard input is closed".into())
    }

    /// Of the process and its children.
    pub fn cpu(&self) -> Outcome<Cpu> {
        self.tree()?.iter().map(|pid| cpu_of(pid)).sum()
    }

    /// Seconds of the first thread, to the nanosecond.
    pub fn first_thread_cpu(&self) -> Outcome<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let ns: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
        Ok(ns / 1e9)
    }

    /// Resident bytes of the process and its children; what they share is counted
    /// once, in parts.
    pub fn resident_bytes(&self) -> Outcome<f64> {
        self.tree()?.iter().map(|pid| resident_bytes_of(pid)).sum()
    }

    fn tree(&self) -> Outcome<Vec<String>> {
        let pid = self.child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(std::iter::once(pid).chain(children.split_whitespace().map(str::to_owned)).collect())
    }
}

/// What a process has used so far.
pub fn cpu_of(pid: &str) -> Outcome<Cpu> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Fields 14 and 15; the second, in parentheses, may have spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let seconds = |at: usize| -> Outcome<f64> {
        Ok(fields.get(at).ok_or("/proc/PID/stat is short")?.parse::<f64>()? / TICKS_PER_SEC)
    };
    Ok(Cpu { user: seconds(11)?, kernel: seconds(12)? })
}

/// Exact: the counters in `/proc/PID/status` lag behind.
fn resident_bytes_of(pid: &str) -> Outcome<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = field(&rollup, "Pss").and_then(|pss| pss.strip_suffix(" kB"));
    Ok(pss.ok_or("/proc/PID/smaps_rollup has no Pss")?.parse::<f64>()? * 1024.0)
}

impl Drop for Process {
    fn drop(&mut self) {
        // Read before the end of the process, which lets go of them. An error
        // means that it has ended by itself.
        let tree = self.tree().unwrap_or_default();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Workers of nginx would serve on without their master.
        for child in tree.iter().skip(1) {
            let _ = Command::new("kill").args(["-KILL", child]).status();
        }
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
