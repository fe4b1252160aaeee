//! A child process: pinned to cores, with its output lines, CPU time and memory.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::time::ClockId;
use nix::unistd::Pid;
use tokio::sync::mpsc;

use crate::Outcome;
use crate::machine::field;

/// A child process. Dropping it kills the process and its children.
#[derive(Debug)]
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

/// Time for a process to print the line that it is ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// Capacity of the queue of output lines. Further lines are dropped.
const LINES_MAX: usize = 20_000;

/// CPU time in seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cpu {
    pub user: f64,
    pub kernel: f64,
}

impl Process {
    /// Starts `program`, pinned to `cores` if given. Lines of standard output and standard error
    /// are queued for [`Process::wait_for_line`] and [`Process::next_line`].
    pub fn start(program: &Path, arguments: &[&str], cores: Option<&str>) -> Outcome<Process> {
        let mut command = match cores {
            Some(cores) => {
                let mut command = Command::new("taskset");
                command.args(["-c", cores]).arg(program);
                command
            }
            None => Command::new(program),
        };
        // The server must not inherit settings from the environment of the benchmark.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("FANFARE_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let (queue, lines) = mpsc::channel(LINES_MAX);
        queue_lines(child.stdout.take(), queue.clone());
        queue_lines(child.stderr.take(), queue);
        Ok(Process { child, lines })
    }

    /// Waits for the first line for which `find` returns a value, and returns that value.
    pub async fn wait_for_line<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Outcome<T> {
        let mut other_lines = String::new();
        let wait = async {
            while let Some(line) = self.lines.recv().await {
                if let Some(found) = find(&line) {
                    return Some(found);
                }
                other_lines = other_lines.clone() + &line + "\n";
            }
            None
        };
        let found = tokio::time::timeout(READY_TIMEOUT, wait).await.ok().flatten();
        found.ok_or_else(|| {
            format!("a process ended or did not print the expected line:\n{other_lines}").into()
        })
    }

    /// The next line. `None` after `timeout`, or at the end of the process.
    pub async fn next_line(&mut self, timeout: Duration) -> Option<String> {
        tokio::time::timeout(timeout, self.lines.recv()).await.ok().flatten()
    }

    pub fn stdin(&mut self) -> Outcome<&mut ChildStdin> {
        self.child.stdin.as_mut().ok_or_else(|| "standard input is closed".into())
    }

    /// CPU time so far of the process and its children.
    pub fn cpu(&self) -> Outcome<Cpu> {
        self.tree()?.iter().map(|pid| cpu_of(pid)).sum()
    }

    /// CPU seconds of the first thread, with a resolution of 1 ns.
    pub fn first_thread_cpu(&self) -> Outcome<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        let ns: f64 = stat.split(' ').next().unwrap_or_default().parse()?;
        Ok(ns / 1e9)
    }

    /// Proportional set size (Pss) of the process and its children, in bytes. Shared pages count
    /// once, divided among the processes.
    pub fn resident_bytes(&self) -> Outcome<f64> {
        self.tree()?.iter().map(|pid| resident_bytes_of(pid)).sum()
    }

    fn tree(&self) -> Outcome<Vec<String>> {
        let pid = self.child.id().to_string();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(std::iter::once(pid).chain(children.split_whitespace().map(str::to_owned)).collect())
    }
}

/// CPU time so far of a process, with all of its threads. The sum has a resolution of 1 ns; only
/// its division into user and kernel time is that of the kernel, in ticks of 10 ms.
pub fn cpu_of(pid: &str) -> Outcome<Cpu> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid.parse()?))?;
    let seconds = Duration::from(clock.now()?).as_secs_f64();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // `utime` and `stime`, fields 14 and 15. Field 2, in parentheses, may contain spaces.
    let after_name = stat.rsplit(')').next().unwrap_or_default();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks =
        |at: usize| -> Outcome<f64> { Ok(fields.get(at).ok_or("/proc/PID/stat is short")?.parse::<f64>()?) };
    let (user, kernel) = (ticks(11)?, ticks(12)?);
    let user = seconds * user / (user + kernel).max(1.0);
    Ok(Cpu { user, kernel: seconds - user })
}

/// From `smaps_rollup`, which is exact. The counters in `/proc/PID/status` lag behind.
fn resident_bytes_of(pid: &str) -> Outcome<f64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let pss = field(&rollup, "Pss").and_then(|pss| pss.strip_suffix(" kB"));
    Ok(pss.ok_or("/proc/PID/smaps_rollup has no Pss")?.parse::<f64>()? * 1024.0)
}

impl Drop for Process {
    fn drop(&mut self) {
        // The children must be read before the kill, which re-parents them. An error means that
        // the process has already exited.
        let tree = self.tree().unwrap_or_default();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The workers of nginx do not exit with their master.
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

/// Starts a thread that reads `stream` to its end, so that the child never blocks on a full
/// pipe. Lines that do not fit the queue are dropped.
fn queue_lines(stream: Option<impl Read + Send + 'static>, queue: mpsc::Sender<String>) {
    let Some(stream) = stream else { return };
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let _ = queue.try_send(line);
        }
    });
}
