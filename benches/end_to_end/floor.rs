//! What the kernel takes: a program that has no protocol, no queues and no
//! tasks, and writes the same bytes to the same number of sockets, one write per
//! batch and socket. This program, started a second time, is it.

use std::io::{BufRead, Write};
use std::net::{SocketAddr, TcpListener};

use super::Outcome;
use super::frames;
use super::process::Process;

#[derive(Debug)]
pub struct Floor {
    pub address: SocketAddr,
    pub process: Process,
}

impl Floor {
    pub async fn start(cores: Option<&str>) -> Outcome<Floor> {
        let mut process = Process::start(&std::env::current_exe()?, &["--floor"], cores)?;
        let address = process.said(|line| line.strip_prefix("listening ")?.parse().ok()).await?;
        Ok(Floor { address, process })
    }

    /// It has accepted `sockets` sockets.
    pub async fn accept(&mut self, sockets: u32) -> Outcome<()> {
        writeln!(self.process.stdin()?, "accept {sockets}")?;
        self.done().await
    }

    /// It has written `bytes` bytes in `frames` frames to each socket.
    pub async fn write(&mut self, bytes: usize, frames: u64) -> Outcome<()> {
        writeln!(self.process.stdin()?, "write {bytes} {frames}")?;
        self.done().await
    }

    async fn done(&mut self) -> Outcome<()> {
        self.process.said(|line| (line == "done").then_some(())).await
    }
}

/// The program. It ends with its standard input.
pub fn run() -> Outcome<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut out, mut sockets, mut batch) = (std::io::stdout(), Vec::new(), Vec::new());
    writeln!(out, "listening {}", listener.local_addr()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let numbers: Vec<usize> = words.map(str::parse).collect::<Result<_, _>>()?;
        match (command, numbers.as_slice()) {
            ("accept", [count]) => {
                for _ in 0..*count {
                    let (socket, _) = listener.accept()?;
                    socket.set_nodelay(true)?;
                    sockets.push(socket);
                }
            }
            ("write", [bytes, count]) => {
                if batch.len() != *bytes {
                    batch = frames_of(*bytes, *count);
                }
                for socket in &mut sockets {
                    socket.write_all(&batch)?;
                }
            }
            _ => return Err(format!("unknown: {line}").into()),
        }
        writeln!(out, "done")?;
    }
    Ok(())
}

/// `count` frames that take `bytes` bytes together.
fn frames_of(bytes: usize, count: usize) -> Vec<u8> {
    let mut all = Vec::with_capacity(bytes);
    for at in 0..count {
        let room = (bytes - all.len()) / (count - at);
        let header = frames::text(&vec![b' '; room]).len() - room;
        all.extend(frames::text(&vec![b' '; room - header]));
    }
    all
}
