//! Thousands of subscribers that cost little: each is a small task that counts
//! the frames it is sent, and looks into none.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use memchr::memmem;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::Outcome;
use super::frames::{FrameCounter, masked_text};

/// Connects under way at once.
const CONNECTS_MAX: usize = 64;
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);
const BATCH_PATIENCE: Duration = Duration::from_secs(60);

/// What the sockets say when they have connected.
#[derive(Debug, Clone)]
pub enum Hello {
    /// Nothing: the other side is the floor.
    Nothing,
    Subscribe {
        key: &'static str,
        channel: String,
        deltas: bool,
    },
}

#[derive(Debug)]
pub struct Crowd {
    tally: Arc<Tally>,
    /// Ends, and closes the sockets, with the value.
    _tasks: JoinSet<()>,
}

/// What all sockets have been sent, together.
#[derive(Debug)]
struct Tally {
    sockets: u32,
    frames_per_batch: u64,
    /// Sockets that have the batch, and when the last of them had it.
    batches: Vec<(AtomicU32, OnceLock<Instant>)>,
    bytes: AtomicU64,
    excess: AtomicU64,
    gone: AtomicU32,
    changed: Notify,
}

impl Crowd {
    /// Connects and subscribes `sockets` sockets, in turn to each of `addresses`,
    /// where `batches` batches are to come.
    pub async fn gather(
        addresses: &[SocketAddr],
        sockets: u32,
        hello: &Hello,
        batches: u32,
        frames_per_batch: u64,
    ) -> Outcome<Crowd> {
        let mut crowd = Crowd {
            tally: Arc::new(Tally {
                sockets,
                frames_per_batch,
                batches: (0..batches).map(|_| Default::default()).collect(),
                bytes: AtomicU64::new(0),
                excess: AtomicU64::new(0),
                gone: AtomicU32::new(0),
                changed: Notify::new(),
            }),
            _tasks: JoinSet::new(),
        };
        let (door, mut connects) = (Arc::new(Semaphore::new(CONNECTS_MAX)), JoinSet::new());
        for address in addresses.iter().copied().cycle().take(sockets as usize) {
            let (door, hello) = (door.clone(), hello.clone());
            connects.spawn(async move {
                let _permit = door.acquire().await?;
                tokio::time::timeout(CONNECT_PATIENCE, connect(address, &hello)).await?
            });
        }
        while let Some(connected) = connects.join_next().await {
            let (stream, tally) = (connected??, crowd.tally.clone());
            crowd._tasks.spawn(count(stream, tally));
        }
        Ok(crowd)
    }

    /// When the last socket had `batch`.
    pub async fn has(&self, batch: u32) -> Outcome<Instant> {
        let wait = async {
            loop {
                let changed = self.tally.changed.notified();
                if let Some(last) = self.tally.batches[batch as usize].1.get() {
                    return *last;
                }
                changed.await;
            }
        };
        let last = tokio::time::timeout(BATCH_PATIENCE, wait).await;
        last.map_err(|_| {
            let have = self.tally.batches[batch as usize].0.load(Ordering::Acquire);
            let gone = self.tally.gone.load(Ordering::Acquire);
            format!("batch {batch} reached {have} of {} sockets; {gone} are closed", self.tally.sockets)
                .into()
        })
    }

    /// Bytes that all sockets have read.
    pub fn bytes(&self) -> u64 {
        self.tally.bytes.load(Ordering::Acquire)
    }

    /// Everybody is still here, and nobody was sent more than was published.
    pub fn check(&self) -> Outcome<()> {
        let (excess, gone) =
            (self.tally.excess.load(Ordering::Acquire), self.tally.gone.load(Ordering::Acquire));
        match (excess, gone) {
            (0, 0) => Ok(()),
            _ => Err(format!("{excess} frames too many, {gone} sockets closed").into()),
        }
    }
}

impl Tally {
    fn add(&self, frames_before: u64, frames: u64, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::AcqRel);
        for batch in frames_before / self.frames_per_batch..frames / self.frames_per_batch {
            let Some((sockets, last)) = self.batches.get(batch as usize) else {
                self.excess.fetch_add(self.frames_per_batch, Ordering::AcqRel);
                continue;
            };
            if sockets.fetch_add(1, Ordering::AcqRel) + 1 == self.sockets {
                let _ = last.set(Instant::now());
                self.changed.notify_waiters();
            }
        }
    }
}

async fn count(mut stream: TcpStream, tally: Arc<Tally>) {
    let mut counter = FrameCounter::default();
    std::future::poll_fn(|context| poll_count(&mut stream, &mut counter, &tally, context)).await;
    tally.gone.fetch_add(1, Ordering::AcqRel);
}

/// Ready when the socket is closed.
fn poll_count(
    stream: &mut TcpStream,
    counter: &mut FrameCounter,
    tally: &Tally,
    context: &mut Context<'_>,
) -> Poll<()> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
    }
    BUFFER.with_borrow_mut(|buffer| {
        loop {
            let mut read = ReadBuf::new(buffer);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {
                    let before = counter.frames;
                    counter.pass(read.filled());
                    tally.add(before, counter.frames, read.filled().len());
                }
                _ => return Poll::Ready(()),
            }
        }
    })
}

/// A socket that has read everything that comes before the first event.
async fn connect(address: SocketAddr, hello: &Hello) -> Outcome<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    let Hello::Subscribe { key, channel, deltas } = hello else { return Ok(stream) };
    stream.set_nodelay(true)?;
    let request = format!(
        "GET /app/{key}?protocol=7&client=js&version=8.4.0&flash=false HTTP/1.1\r\nHost: {address}\r\n\
         Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut read = Vec::new();
    let head = loop {
        if let Some(end) = memmem::find(&read, b"\r\n\r\n") {
            break end + 4;
        }
        more(&mut stream, &mut read).await?;
    };
    let mut said = Vec::new();
    if *deltas {
        said.extend(masked_text(br#"{"event":"pusher:enable_delta_compression","data":{}}"#));
    }
    let subscribe = format!(r#"{{"event":"pusher:subscribe","data":{{"channel":"{channel}"}}}}"#);
    said.extend(masked_text(subscribe.as_bytes()));
    stream.write_all(&said).await?;
    let frames_expected = if *deltas { 3 } else { 2 };
    loop {
        let mut counter = FrameCounter::default();
        counter.pass(&read[head..]);
        if counter.frames == frames_expected {
            break;
        }
        more(&mut stream, &mut read).await?;
    }
    match memmem::find(&read, b"pusher_internal:subscription_succeeded") {
        Some(_) => Ok(stream),
        None => Err(format!("not subscribed: {}", String::from_utf8_lossy(&read)).into()),
    }
}

async fn more(stream: &mut TcpStream, read: &mut Vec<u8>) -> Outcome<()> {
    match stream.read_buf(read).await? {
        0 => Err(format!("closed while joining: {}", String::from_utf8_lossy(read)).into()),
        _ => Ok(()),
    }
}
