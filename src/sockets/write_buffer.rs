//! The write buffer of one connection: a bounded queue of frames on their way to the
//! kernel.
//!
//! A push never waits. The producer of a chunk also writes it, as far as the kernel
//! takes it at once; only the rest is left to the connection's own task. Backpressure:
//! if the client reads too slowly, the full queue is cleared and the connection is
//! closed with 4100, so a slow client affects no other one.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::net::tcp::OwnedWriteHalf;

use super::write::{Chunks, try_write};
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::frame;

/// Shared by the connection's task and all producers of frames for it.
#[derive(Debug, Default)]
pub struct WriteBuffer {
    queue: Mutex<Queue>,
    /// Wakes the connection's task.
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: Chunks,
    /// 32 bits keep the buffer within two cache lines. The limit of a message bounds a
    /// chunk, and [`Queue::is_full`] the sum.
    bytes: u32,
    /// True from a push until the flush: a connection is written to once, however many
    /// pushes one round of the channels makes.
    is_waiting: bool,
    close: Option<Close>,
    /// Taken while a write is in progress, so that there is one writer at a time, and
    /// dropped when the connection has ended.
    stream: Option<OwnedWriteHalf>,
    /// The rest of the last write, which the kernel did not take. Only the connection's
    /// task continues it. Boxed, because it is rare.
    stalled: Option<Box<Chunks>>,
    is_lost: bool,
    has_ended: bool,
    /// Subscriptions that the connection's task has to drop. Boxed, because they are rare.
    /// Bounded by the commands of the connection that the channels have not answered.
    #[expect(clippy::box_collection)]
    rejections: Option<Box<Vec<Rejection>>>,
}

/// A subscription that the channels have rejected. The connection had accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub channel: Box<str>,
    /// The number of the connection's command. A later one may have been accepted.
    pub attempt: u32,
}

/// A state that the connection's task has to handle.
#[derive(Debug, PartialEq, Eq)]
pub enum WriteEvent {
    /// The kernel has not taken everything: wait until the socket is writable.
    Stalled,
    /// The queue is written: close the connection.
    Close(Close),
    /// A write failed: nothing more can be written.
    Lost,
}

impl WriteBuffer {
    pub fn new(stream: OwnedWriteHalf) -> Arc<WriteBuffer> {
        let queue = Queue { stream: Some(stream), ..Queue::default() };
        Arc::new(WriteBuffer { queue: Mutex::new(queue), ..WriteBuffer::default() })
    }

    /// Appends `chunk`, one or more whole frames. Returns true if the caller must have
    /// it written, with [`WriteBuffer::flush`].
    ///
    /// At [`limits::WRITE_BUFFER_BYTES_MAX`] or [`limits::WRITE_BUFFER_CHUNKS_MAX`] the
    /// queue is cleared and the connection closes with 4100. Below these limits a chunk
    /// of any size fits: the largest batch, and the largest roster, must reach a client
    /// that reads.
    #[must_use]
    pub fn push(&self, chunk: Bytes) -> bool {
        let mut queue = self.queue.lock();
        if queue.close.is_some() || queue.has_ended {
            return false;
        }
        if queue.is_full() {
            metrics().write_buffer_overflows.increment(1);
            queue.clear();
            queue.close = Some(Close::SlowClient);
            drop(queue);
            // The task waits for the kernel, and must close the connection now.
            self.waker.wake();
            return false;
        }
        queue.bytes += chunk.len() as u32;
        queue.chunks.push(chunk);
        !std::mem::replace(&mut queue.is_waiting, true)
    }

    /// Appends `chunk` and flushes: for a reply, which shares its write with no other
    /// push.
    pub fn send(&self, chunk: Bytes) {
        if self.push(chunk) {
            self.flush();
        }
    }

    /// Closes the connection with `close` once the queue is written. The first reason
    /// stays.
    pub fn close(&self, close: Close) {
        self.queue.lock().close.get_or_insert(close);
        self.waker.wake();
    }

    /// Reports a rejected subscription to the connection's task, for its next message.
    pub fn reject(&self, rejection: Rejection) {
        self.queue.lock().rejections.get_or_insert_default().push(rejection);
    }

    /// The subscriptions that were rejected since the last call.
    pub fn take_rejections(&self) -> Vec<Rejection> {
        self.queue.lock().rejections.take().map(|rejections| *rejections).unwrap_or_default()
    }

    /// Appends the close frame to the queue and flushes.
    pub fn send_close(&self, close: Close, reason: &str) {
        let mut queue = self.queue.lock();
        queue.close.get_or_insert(close);
        queue.chunks.push(frame::close(close.code(), reason));
        drop(queue);
        self.flush();
    }

    /// Ends all writing. The connection closes when its reading half is dropped too. What is
    /// queued is written first, as far as the kernel takes it: the last frame may be the reply
    /// to a close frame, behind frames whose producer has not flushed yet.
    pub fn end(&self) {
        self.flush();
        let mut queue = self.queue.lock();
        queue.has_ended = true;
        queue.stalled = None;
        // Without a stream, another writer is active: it writes the rest and drops the stream.
        if queue.stream.take().is_some() {
            queue.clear();
        }
    }

    pub fn is_closing(&self) -> bool {
        self.queue.lock().close.is_some()
    }

    /// Writes as much as the kernel takes without waiting, unless another writer is
    /// active.
    pub fn flush(&self) {
        let mut next = self.queue.lock().take();
        while let Some((stream, mut chunks)) = next {
            let written = try_write(&stream, &mut chunks);
            let mut queue = self.queue.lock();
            queue.put_back(stream, chunks, &written);
            let has_event = queue.event().is_some();
            next = queue.take();
            drop(queue);
            if has_event {
                self.waker.wake();
            }
        }
    }

    /// Continues a stalled write, for the connection's task when the socket is writable
    /// again. Returns true if nothing is left.
    pub fn resume(&self) -> io::Result<bool> {
        let Some((stream, mut chunks)) = self.queue.lock().take_stalled() else { return Ok(true) };
        let written = try_write(&stream, &mut chunks);
        self.queue.lock().put_back(stream, chunks, &written);
        if matches!(written, Ok(true)) {
            self.flush();
        }
        written.map(|_| !self.queue.lock().is_stalled())
    }

    pub fn poll_event(&self, context: &mut Context<'_>) -> Poll<WriteEvent> {
        self.waker.register(context.waker());
        self.queue.lock().event().map_or(Poll::Pending, Poll::Ready)
    }

    /// Ready when the queue has overflowed: the client does not read, and the task
    /// stops waiting for the write in progress.
    pub fn poll_overflow(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        match self.has_overflowed() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    pub fn has_overflowed(&self) -> bool {
        self.queue.lock().close == Some(Close::SlowClient)
    }

    /// Removes and returns the queued chunks.
    #[cfg(test)]
    pub fn queued(&self) -> Vec<Bytes> {
        let mut queue = self.queue.lock();
        (queue.bytes, queue.is_waiting) = (0, false);
        std::mem::take(&mut queue.chunks).into_vec()
    }
}

impl Queue {
    fn is_full(&self) -> bool {
        self.bytes as usize >= limits::WRITE_BUFFER_BYTES_MAX
            || self.chunks.len() >= limits::WRITE_BUFFER_CHUNKS_MAX
    }

    fn is_stalled(&self) -> bool {
        self.stalled.is_some()
    }

    /// Clears the queue. A write in progress continues, so that every frame is sent
    /// whole.
    fn clear(&mut self) {
        (self.chunks, self.bytes) = (Chunks::new(), 0);
    }

    /// Takes the next chunks to write, with the stream. An idle connection keeps no
    /// buffer.
    fn take(&mut self) -> Option<(OwnedWriteHalf, Chunks)> {
        // Later pushes return true again, and their callers flush.
        self.is_waiting = false;
        if self.chunks.is_empty() || self.is_stalled() || self.is_lost {
            return None;
        }
        let stream = self.stream.take()?;
        if self.chunks.len() <= limits::WRITE_CHUNKS_MAX {
            self.bytes = 0;
            return Some((stream, std::mem::take(&mut self.chunks)));
        }
        let chunks: Chunks = self.chunks.drain(..limits::WRITE_CHUNKS_MAX).collect();
        self.bytes -= chunks.iter().map(Bytes::len).sum::<usize>() as u32;
        Some((stream, chunks))
    }

    fn put_back(&mut self, stream: OwnedWriteHalf, rest: Chunks, written: &io::Result<bool>) {
        if self.has_ended && (self.chunks.is_empty() || !matches!(written, Ok(true))) {
            return self.clear();
        }
        self.stream = Some(stream);
        match written {
            // Its capacity may be for many chunks, where one mostly follows.
            Ok(true) => drop(rest),
            Ok(false) => self.stalled = Some(Box::new(rest)),
            Err(_) => {
                self.is_lost = true;
                self.clear();
            }
        }
    }

    fn take_stalled(&mut self) -> Option<(OwnedWriteHalf, Chunks)> {
        let stalled = self.stalled.take_if(|_| self.stream.is_some())?;
        Some((self.stream.take()?, *stalled))
    }

    fn event(&self) -> Option<WriteEvent> {
        let is_quiet = self.chunks.is_empty() && self.stream.is_some();
        match self.close {
            _ if self.is_lost => Some(WriteEvent::Lost),
            _ if self.is_stalled() => Some(WriteEvent::Stalled),
            Some(close) if is_quiet => Some(WriteEvent::Close(close)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn event(write_buffer: &WriteBuffer) -> Option<WriteEvent> {
        match write_buffer.poll_event(&mut Context::from_waker(&noop_waker())) {
            Poll::Ready(event) => Some(event),
            Poll::Pending => None,
        }
    }

    /// With the counts of an `Arc`, a write buffer fits in two cache lines, which are
    /// fetched as a pair, for each of thousands of connections in a round.
    #[test]
    fn write_buffer_fits_in_two_cache_lines() {
        assert!(size_of::<WriteBuffer>() + 2 * size_of::<usize>() <= 128, "{}", size_of::<WriteBuffer>());
    }

    #[test]
    fn pushes_of_one_round_are_flushed_once() {
        let write_buffer = WriteBuffer::default();
        assert!(write_buffer.push(Bytes::from_static(b"a")));
        assert!(!write_buffer.push(Bytes::from_static(b"b")));
        assert_eq!(write_buffer.queued(), ["a", "b"]);
        assert!(write_buffer.push(Bytes::from_static(b"c")));
    }

    #[test]
    fn full_write_buffer_is_cleared_and_closes_its_connection() {
        let write_buffer = WriteBuffer::default();
        let chunk = Bytes::from(vec![b'x'; limits::WRITE_BUFFER_BYTES_MAX + 1]);
        let _ = write_buffer.push(chunk.clone());
        assert!(!write_buffer.has_overflowed(), "one large chunk fits into an empty queue");
        let _ = write_buffer.push(chunk);
        assert!(write_buffer.has_overflowed());
        assert!(write_buffer.queued().is_empty());
    }

    #[test]
    fn write_buffer_bounds_the_number_of_chunks() {
        let write_buffer = WriteBuffer::default();
        for _ in 0..limits::WRITE_BUFFER_CHUNKS_MAX {
            let _ = write_buffer.push(Bytes::from_static(b"x"));
        }
        assert!(!write_buffer.has_overflowed());
        let _ = write_buffer.push(Bytes::from_static(b"x"));
        assert!(write_buffer.has_overflowed());
    }

    /// A connection over the loopback interface, with the client's end.
    async fn connected() -> (Arc<WriteBuffer>, tokio::net::TcpStream, tokio::net::tcp::OwnedReadHalf) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address");
        let client = tokio::net::TcpStream::connect(address).await.expect("a listening server");
        let (server, _) = listener.accept().await.expect("a client");
        server.writable().await.expect("a new connection");
        let (read, write) = server.into_split();
        (WriteBuffer::new(write), client, read)
    }

    async fn read(client: &mut tokio::net::TcpStream, bytes: usize) -> Vec<u8> {
        let mut into = vec![0; bytes];
        tokio::io::AsyncReadExt::read_exact(client, &mut into).await.expect("enough bytes");
        into
    }

    #[tokio::test]
    async fn queued_chunks_are_written_before_the_close_frame() {
        let (write_buffer, mut client, _read) = connected().await;
        write_buffer.send(Bytes::from_static(b"last"));
        write_buffer.close(Close::Draining);
        assert!(!write_buffer.push(Bytes::from_static(b"too late")));
        assert_eq!(event(&write_buffer), Some(WriteEvent::Close(Close::Draining)));
        write_buffer.send_close(Close::Draining, "restarting");
        let expected = [&b"last"[..], &frame::close(4200, "restarting")].concat();
        assert_eq!(read(&mut client, expected.len()).await, expected);
    }

    #[tokio::test]
    async fn queued_chunks_are_written_at_the_end() {
        let (write_buffer, mut client, read_half) = connected().await;
        assert!(write_buffer.push(Bytes::from_static(b"pushed")), "its producer has to flush");
        write_buffer.send(Bytes::from_static(b", sent"));
        write_buffer.end();
        drop(read_half);
        write_buffer.flush();
        assert_eq!(read(&mut client, 12).await, b"pushed, sent");
        let end = tokio::io::AsyncReadExt::read(&mut client, &mut [0]).await;
        assert_eq!(end.expect("an orderly end"), 0);
    }

    #[tokio::test]
    async fn stalled_write_is_continued_by_the_task_in_order() {
        let (write_buffer, mut client, stream) = connected().await;
        let mut sent = Vec::new();
        for letter in b'a'.. {
            let chunk = vec![letter; limits::WRITE_BUFFER_BYTES_MAX];
            sent.extend_from_slice(&chunk);
            write_buffer.send(chunk.into());
            if event(&write_buffer) == Some(WriteEvent::Stalled) {
                break;
            }
        }
        write_buffer.send(Bytes::from_static(b"queued later"));
        sent.extend_from_slice(b"queued later");
        let reading = tokio::spawn(async move { read(&mut client, sent.len()).await == sent });
        while !write_buffer.resume().expect("an open connection") {
            stream.as_ref().writable().await.expect("an open connection");
        }
        assert_eq!(event(&write_buffer), None);
        assert!(reading.await.expect("the reader task"));
    }
}
