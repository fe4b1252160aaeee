//! The kernel floor: a program without protocol, queues or tasks that writes as many bytes to
//! as many sockets as a server, in one write per batch and socket or in one per event. It
//! measures the cost of the kernel alone. It runs as a subcommand of this program.

use std::io::{BufRead, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::Node;
use crate::Outcome;
use crate::frames;
use crate::process::Process;

/// A batch for the subscribers of `batch_channels` channels from number `first`: `frames`
/// frames per socket, of `bytes` bytes in total. Socket `n` is subscribed to channel
/// `n % channels`.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    pub channels: usize,
    pub first: usize,
    pub batch_channels: usize,
    pub frames: usize,
    pub bytes: usize,
    /// Write calls per socket.
    pub writes: usize,
}

pub async fn start(cores: Option<&str>) -> Outcome<Node> {
    let mut process = Process::start(&std::env::current_exe()?, &["floor"], cores)?;
    let address: SocketAddr =
        process.wait_for_line(|line| line.strip_prefix("listening ")?.parse().ok()).await?;
    Ok(Node { address, process, metrics: None, _directory: None })
}

/// Requests that the floor accepts `sockets` connections. [`accepted`] waits for the last.
pub fn accept(process: &mut Process, sockets: u32) -> Outcome<()> {
    Ok(writeln!(process.stdin()?, "accept {sockets}")?)
}

/// Completes when the floor has accepted all connections.
pub async fn accepted(process: &mut Process) -> Outcome<()> {
    process.wait_for_line(|line| (line == "done").then_some(())).await
}

/// Writes a batch. Completes when all sockets have been written to.
pub async fn write(process: &mut Process, batch: Batch) -> Outcome<()> {
    let Batch { channels, first, batch_channels, frames, bytes, writes } = batch;
    writeln!(process.stdin()?, "write {channels} {first} {batch_channels} {frames} {bytes} {writes}")?;
    process.wait_for_line(|line| (line == "done").then_some(())).await
}

/// Runs the floor. It exits at the end of its standard input.
pub fn run() -> Outcome<()> {
    let listener = listener()?;
    let (mut out, mut sockets, mut buffers) = (std::io::stdout(), Vec::new(), Buffers::default());
    writeln!(out, "listening {}", listener.local_addr()?)?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split(' ');
        let command = words.next().unwrap_or_default();
        let numbers: Vec<usize> = words.map(str::parse).collect::<Result<_, _>>()?;
        match (command, numbers.as_slice()) {
            ("accept", [count]) => sockets = accept_all(&listener, *count)?,
            ("write", [channels, first, batch_channels, frames, bytes, writes]) => {
                buffers.fill(*frames, *bytes, *writes);
                for channel in *first..first + batch_channels {
                    for socket in sockets.iter_mut().skip(channel).step_by(*channels) {
                        for buffer in &buffers.all {
                            socket.write_all(buffer)?;
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

/// A listener with a backlog for the concurrent connects of the load generator.
fn listener() -> Outcome<TcpListener> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let _entered = runtime.enter();
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let listener = socket.listen(4_096)?.into_std()?;
    listener.set_nonblocking(false)?;
    Ok(listener)
}

/// Accepts `count` connections, sorted by the number that each of them sends first.
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

/// The buffers written to a socket for a batch, cached until the shape of batches changes.
#[derive(Default)]
struct Buffers {
    /// Frames, bytes and writes.
    shape: (usize, usize, usize),
    all: Vec<Vec<u8>>,
}

impl Buffers {
    fn fill(&mut self, count: usize, bytes: usize, writes: usize) {
        if self.shape == (count, bytes, writes) {
            return;
        }
        let (mut frames, mut left) = (Vec::new(), bytes);
        for at in 0..count {
            let size = left / (count - at);
            let header = frames::text(&vec![b' '; size]).len() - size;
            frames.push(frames::text(&vec![b' '; size.saturating_sub(header)]));
            left -= size.min(left);
        }
        let per_write = count.div_ceil(writes);
        self.all = frames.chunks(per_write).map(<[Vec<u8>]>::concat).collect();
        self.shape = (count, bytes, writes);
    }
}
