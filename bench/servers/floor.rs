//! What the kernel takes: a program that has no protocol, no queues and no tasks,
//! and writes as many bytes to the same sockets, in one write per batch and socket
//! or in one per event. This program, started anew, is it.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::Node;
use crate::Outcome;
use crate::frames;
use crate::process::Process;

/// To the subscribers of `channels`, which are some of `of`, by number: `frames`
/// frames, of `bytes` bytes together.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub of: usize,
    pub first: usize,
    pub channels: usize,
    pub frames: usize,
    pub bytes: usize,
    /// Writes that this takes for each of them.
    pub writes: usize,
}

pub async fn start(cores: Option<&str>) -> Outcome<Node> {
    let mut process = Process::start(&std::env::current_exe()?, &["floor"], cores)?;
    let address: SocketAddr = process.said(|line| line.strip_prefix("listening ")?.parse().ok()).await?;
    Ok(Node { address, process, metrics: None, _directory: None })
}

/// It is about to accept `sockets` sockets.
pub fn accept(process: &mut Process, sockets: u32) -> Outcome<()> {
    Ok(writeln!(process.stdin()?, "accept {sockets}")?)
}

pub async fn accepted(process: &mut Process) -> Outcome<()> {
    process.said(|line| (line == "done").then_some(())).await
}

pub async fn write(process: &mut Process, batch: Batch) -> Outcome<()> {
    let Batch { of, first, channels, frames, bytes, writes } = batch;
    writeln!(process.stdin()?, "write {of} {first} {channels} {frames} {bytes} {writes}")?;
    process.said(|line| (line == "done").then_some(())).await
}

/// The program. It ends with its standard input.
pub fn run() -> Outcome<()> {
    let listener = listener()?;
    let (mut out, mut sockets, mut pieces) = (std::io::stdout(), Vec::new(), Pieces::default());
    writeln!(out, "listening {}", listener.local_addr()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let numbers: Vec<usize> = words.map(str::parse).collect::<Result<_, _>>()?;
        match (command, numbers.as_slice()) {
            ("accept", [count]) => sockets = accept_all(&listener, *count)?,
            ("write", [of, first, channels, frames, bytes, writes]) => {
                pieces.make(*frames, *bytes, *writes);
                for channel in *first..first + channels {
                    for socket in sockets.iter_mut().skip(channel).step_by(*of) {
                        for piece in &pieces.all {
                            socket.write_all(piece)?;
                        }
                    }
                }
            }
            _ => return Err(format!("unknown: {line}").into()),
        }
        writeln!(out, "done")?;
    }
    Ok(())
}

/// With room for everyone who comes at once.
fn listener() -> Outcome<TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(4_096)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// In the order of the numbers that they say.
fn accept_all(listener: &TcpListener, count: usize) -> Outcome<Vec<TcpStream>> {
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count {
        let (mut socket, _) = listener.accept()?;
        socket.set_nodelay(true)?;
        let mut number = [0; 4];
        socket.read_exact(&mut number)?;
        sockets.push((u32::from_le_bytes(number), socket));
    }
    sockets.sort_unstable_by_key(|(number, _)| *number);
    Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
}

/// What is written to a socket for a batch; the same until another is asked for.
#[derive(Default)]
struct Pieces {
    shape: (usize, usize, usize),
    all: Vec<Vec<u8>>,
}

impl Pieces {
    fn make(&mut self, count: usize, bytes: usize, writes: usize) {
        if self.shape == (count, bytes, writes) {
            return;
        }
        let (mut frames, mut left) = (Vec::new(), bytes);
        for at in 0..count {
            let room = left / (count - at);
            let header = frames::text(&vec![b' '; room]).len() - room;
            frames.push(frames::text(&vec![b' '; room.saturating_sub(header)]));
            left -= room.min(left);
        }
        let per_write = count.div_ceil(writes);
        self.all = frames.chunks(per_write).map(<[Vec<u8>]>::concat).collect();
        self.shape = (count, bytes, writes);
    }
}
