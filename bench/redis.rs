//! The `redis-server` of a run.

use std::net::TcpListener;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Outcome;
use crate::machine::field;
use crate::process::Process;

#[derive(Debug)]
pub struct Redis {
    port: u16,
    pub process: Process,
}

/// Number of `EVALSHA` calls, and the time that Redis spent in them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scripts {
    pub calls: f64,
    pub usec: f64,
}

impl Redis {
    /// Starts Redis on the cores of the load generator, because its CPU time is a separate figure.
    pub async fn start() -> Outcome<Redis> {
        Redis::start_with(&[]).await
    }

    /// As [`Redis::start`], with further arguments.
    pub async fn start_with(arguments: &[&str]) -> Outcome<Redis> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let own =
            ["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", "/tmp"];
        let arguments = [&own, arguments].concat();
        let mut process = Process::start(Path::new("redis-server"), &arguments, None)?;
        process.wait_for_line(|line| line.contains("Ready to accept connections").then_some(())).await?;
        Ok(Redis { port: port.parse()?, process })
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn connect(&self) -> Outcome<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, read: Vec::new() })
    }

    pub async fn scripts(&self) -> Outcome<Scripts> {
        let info = self.info("commandstats").await?;
        let Some(stats) = field(&info, "cmdstat_evalsha") else { return Ok(Scripts::default()) };
        let number = |name: &str| -> Outcome<f64> {
            let value = stats.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
            Ok(value.ok_or("commandstats are not as expected")?.parse()?)
        };
        Ok(Scripts { calls: number("calls")?, usec: number("usec")? })
    }

    /// Bytes sent to all clients since the start.
    pub async fn sent_bytes(&self) -> Outcome<f64> {
        let info = self.info("stats").await?;
        Ok(field(&info, "total_net_output_bytes").ok_or("stats are not as expected")?.parse()?)
    }

    async fn info(&self, section: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.write_all(format!("INFO {section}\r\nQUIT\r\n").as_bytes()).await?;
        let mut info = String::new();
        stream.read_to_string(&mut info).await?;
        Ok(info)
    }
}

/// A connection for commands with single-line replies.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Sends inline commands and waits for `replies` replies. Fails if one of them is an error.
    pub async fn request(&mut self, commands: &str, replies: usize) -> Outcome<()> {
        self.stream.write_all(commands.as_bytes()).await?;
        self.read.clear();
        while memchr::memchr_iter(b'\n', &self.read).count() < replies {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err("Redis closed a connection".into());
            }
        }
        match self.read.contains(&b'-') {
            true => Err(String::from_utf8_lossy(&self.read).into()),
            false => Ok(()),
        }
    }
}

impl std::ops::Sub for Scripts {
    type Output = Scripts;

    fn sub(self, other: Scripts) -> Scripts {
        Scripts { calls: self.calls - other.calls, usec: self.usec - other.usec }
    }
}
