//! The timeouts of an HTTP connection (protocol.md 1.10). A request head has to arrive soon
//! after its first byte. An idle connection between two requests stays open for longer than
//! load balancers keep theirs. A client has to read its responses.
//!
//! hyper has a single timeout for the first two cases, and none for the third.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

use crate::limits;
use crate::metrics::metrics;
use crate::sockets::http_limit::HttpPermit;

/// No byte of a request has arrived.
const IDLE: u8 = 0;
/// The head of a request has begun to arrive.
const HEAD: u8 = 1;
/// A request is in progress. Its body and its response have timeouts of their own.
const BUSY: u8 = 2;

/// The phase of a connection, shared by its stream and the service of its requests.
#[derive(Debug, Clone, Default)]
pub struct Phase(Arc<AtomicU8>);

impl Phase {
    /// The head of a request is complete.
    pub fn begin_request(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// The response is ready, but not written yet.
    pub fn end_request(&self) {
        self.0.store(IDLE, Ordering::Relaxed);
    }

    fn begin_head(&self) -> bool {
        self.0.compare_exchange(IDLE, HEAD, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A TCP stream with timeouts. When it is idle for `keep_alive`, a read returns the end of the
/// stream, as if the client had closed it. When a request head takes longer than
/// [`limits::HTTP_HEAD_TIMEOUT`], a read fails. When the client reads nothing of its responses
/// for [`limits::HTTP_WRITE_TIMEOUT`], a write fails; until it reads on, its next requests stay
/// unread.
#[derive(Debug)]
pub struct HttpStream {
    stream: TcpStream,
    phase: Phase,
    keep_alive: Duration,
    /// The end of the phase, or of the stalled write.
    deadline: Pin<Box<Sleep>>,
    /// The kernel has not accepted all bytes of the last write.
    is_stalled: bool,
    permit: HttpPermit,
}

impl HttpStream {
    pub fn new(stream: TcpStream, phase: Phase, keep_alive: Duration, permit: HttpPermit) -> HttpStream {
        limit_unsent(&stream, limits::HTTP_UNSENT_BYTES_MAX);
        let deadline = Box::pin(tokio::time::sleep(keep_alive));
        HttpStream { stream, phase, keep_alive, deadline, is_stalled: false, permit }
    }

    /// The stream of a WebSocket, which has a write buffer with a limit of its own.
    pub fn into_inner(self) -> (TcpStream, HttpPermit) {
        limit_unsent(&self.stream, 0);
        (self.stream, self.permit)
    }

    fn on_written<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_pending() {
            return self.stall(context);
        }
        let was_stalled = std::mem::take(&mut self.is_stalled);
        if was_stalled {
            // hyper reads again only when it is woken.
            context.waker().wake_by_ref();
        }
        // A written response restarts the idle timer; after a stall, the deadline was its end.
        match self.phase.get() {
            IDLE => self.deadline.as_mut().reset(Instant::now() + self.keep_alive),
            HEAD if was_stalled => self.deadline.as_mut().reset(Instant::now() + limits::HTTP_HEAD_TIMEOUT),
            _ => return written,
        }
        // Registers the waker.
        let _ = self.deadline.as_mut().poll(context);
        written
    }

    fn stall<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if !std::mem::replace(&mut self.is_stalled, true) {
            self.deadline.as_mut().reset(Instant::now() + limits::HTTP_WRITE_TIMEOUT);
        }
        ready!(self.deadline.as_mut().poll(context));
        metrics().http_writes_timed_out.increment(1);
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

/// Limits the bytes that the kernel accepts and cannot send yet: a client that does not read
/// would otherwise fill the largest send buffer, mostly 4 MB. 0 is the system's default.
fn limit_unsent(stream: &TcpStream, bytes: u32) {
    // Without the option the buffer is larger. The timeout bounds it in time.
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(stream).set_tcp_notsent_lowat(bytes);
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_stalled {
            return Poll::Pending;
        }
        let filled = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(context, buffer) {
            if buffer.filled().len() > filled && self.phase.begin_head() {
                self.deadline.as_mut().reset(Instant::now() + limits::HTTP_HEAD_TIMEOUT);
            }
            return Poll::Ready(read);
        }
        let phase = self.phase.get();
        if phase == BUSY {
            return Poll::Pending;
        }
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(match phase {
            HEAD => Err(ErrorKind::TimedOut.into()),
            _ => Ok(()),
        })
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.on_written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.on_written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
