//! A real `redis-server` that belongs to the test, on a port of its own.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::clock;
use super::process::{Process, Signal};
use super::resp::{self, Reply};
use super::{Port, STEP_TIMEOUT};

pub struct Redis {
    /// Reserved also while Redis is down.
    port: Port,
    /// Keeps acknowledged writes across a restart.
    durable: bool,
    dir: TempDir,
    process: Process,
}

impl Redis {
    pub async fn start() -> Redis {
        Redis::start_as(false).await
    }

    /// Writes to disk before it acknowledges.
    pub async fn start_durable() -> Redis {
        Redis::start_as(true).await
    }

    async fn start_as(durable: bool) -> Redis {
        let (dir, port) = (TempDir::new().unwrap(), Port::hold());
        let process = launch(&dir, &port, durable, 0).await;
        Redis { port, durable, dir, process }
    }

    pub fn port(&self) -> u16 {
        self.port.addr().port()
    }

    pub fn url(&self) -> String {
        format!("redis://{}", self.port.addr())
    }

    /// Where Redis writes its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `kill -9`: Redis loses its data, unless it is durable.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// A new Redis at the same address: empty, unless it is durable.
    pub async fn restart(&mut self) {
        self.restart_with_clock(0).await;
    }

    /// The same on a machine whose clock is set forward by some seconds, or back.
    pub async fn restart_with_clock(&mut self, offset_secs: i64) {
        self.process.kill();
        self.process = launch(&self.dir, &self.port, self.durable, offset_secs).await;
    }

    /// Stops Redis, so that it accepts connections but does not answer, and
    /// continues it.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// One command on a connection of its own.
    pub async fn command(&self, words: &[&str]) -> Reply {
        let work = async {
            let mut stream = TcpStream::connect(self.port.addr()).await?;
            stream.write_all(&resp::command(words)).await?;
            let mut answer = Vec::new();
            loop {
                if stream.read_buf(&mut answer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((reply, _)) = resp::reply(&answer) {
                    return Ok(reply);
                }
            }
        };
        let reply: Result<Reply, std::io::Error> =
            tokio::time::timeout(STEP_TIMEOUT, work).await.expect("redis answers in time");
        match reply.unwrap_or_else(|error| panic!("redis {words:?}: {error}")) {
            Reply::Error(text) => panic!("redis {words:?}: {text}"),
            reply => reply,
        }
    }
}

async fn launch(dir: &TempDir, port: &Port, durable: bool, clock_offset_secs: i64) -> Process {
    let mut command = Command::new("redis-server");
    if clock_offset_secs != 0 {
        command.envs(clock::offset(clock_offset_secs));
    }
    command
        .args(["--port", &port.addr().port().to_string()])
        .args(["--bind", "127.0.0.1"])
        .args(["--save", ""])
        .args(["--appendonly", if durable { "yes" } else { "no" }])
        .args(["--appendfsync", "always"])
        .args(["--maxmemory-policy", "noeviction"])
        .arg("--dir")
        .arg(dir.path());
    let process = Process::spawn("redis", &mut command);
    let ready = |line: &str| line.contains("Ready to accept connections").then_some(());
    process.find("readiness", ready).await.expect("redis-server starts");
    process
}
