//! The bounded queue of one socket: frames ready to be written.
//!
//! A push never waits. When the socket's client reads too slowly the queue fills
//! up, is let go, and the client is closed with 4100: it costs only itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use smallvec::SmallVec;

use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;

/// What is queued, or being written: mostly one chunk, which lies in the list itself.
/// What is allocated for a list is allocated by the inbox and let go by the socket's
/// task on another core, the most expensive way for an allocator.
pub type Chunks = SmallVec<[Bytes; 1]>;

/// Shared by the socket's task, which takes, and the inbox, which pushes.
#[derive(Debug, Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    waker: AtomicWaker,
    /// Set from a push until the socket's task takes: a socket is woken once,
    /// however many pushes one round of the inbox makes.
    waiting: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    chunks: Chunks,
    bytes: usize,
    close: Option<Close>,
}

/// What the socket's task finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    Chunks {
        /// There is more to take: nobody will wake the socket for it.
        more: bool,
    },
    Close(Close),
}

impl Outbox {
    pub fn new() -> Arc<Outbox> {
        Arc::default()
    }

    /// Appends `chunk`, one or more whole frames. Returns true if the socket has
    /// to be woken for it with [`Outbox::wake`].
    ///
    /// At [`limits::OUTBOX_BYTES_MAX`] or [`limits::OUTBOX_CHUNKS_MAX`] the queue
    /// is let go and the socket will be closed with 4100. A chunk into a queue that
    /// is not there yet always fits: the largest batch, and the largest roster,
    /// must reach a client that reads.
    #[must_use]
    pub fn push(&self, chunk: Bytes) -> bool {
        let mut queue = self.queue.lock();
        if queue.close.is_some() {
            return false;
        }
        if queue.bytes >= limits::OUTBOX_BYTES_MAX || queue.chunks.len() >= limits::OUTBOX_CHUNKS_MAX {
            metrics().outbox_overflows.increment(1);
            *queue = Queue { close: Some(Close::SlowClient), ..Queue::default() };
            // Its task may be waiting in a write: it has to know now.
            return true;
        }
        queue.bytes += chunk.len();
        queue.chunks.push(chunk);
        drop(queue);
        !self.waiting.swap(true, Ordering::AcqRel)
    }

    /// Appends `chunk` and wakes the socket: for a reply, where there is no
    /// round of pushes to share the waking with.
    pub fn send(&self, chunk: Bytes) {
        if self.push(chunk) {
            self.wake();
        }
    }

    /// Ends the connection after what is queued already, with `close`.
    pub fn close(&self, close: Close) {
        self.queue.lock().close.get_or_insert(close);
        self.waiting.store(true, Ordering::Release);
        self.wake();
    }

    pub fn is_closing(&self) -> bool {
        self.queue.lock().close.is_some()
    }

    pub fn wake(&self) {
        self.waker.wake();
    }

    /// Appends up to `chunks_max` chunks to `out`. Ready when there is something
    /// to write or the connection is to be closed.
    pub fn poll_take(&self, context: &mut Context<'_>, out: &mut Chunks, chunks_max: usize) -> Poll<Taken> {
        self.waker.register(context.waker());
        self.waiting.store(false, Ordering::Release);
        let mut queue = self.queue.lock();
        if queue.chunks.is_empty() {
            return match queue.close {
                Some(close) => Poll::Ready(Taken::Close(close)),
                None => Poll::Pending,
            };
        }
        let count = queue.chunks.len().min(chunks_max);
        let taken = out.len();
        out.extend(queue.chunks.drain(..count));
        queue.bytes -= out[taken..].iter().map(Bytes::len).sum::<usize>();
        if queue.chunks.is_empty() {
            // An idle socket keeps no buffer.
            queue.chunks = Chunks::new();
        }
        Poll::Ready(Taken::Chunks { more: !queue.chunks.is_empty() || queue.close.is_some() })
    }

    /// Ready when the queue has overflown: the client does not read, and what is
    /// being written to it will not be waited for much longer.
    pub fn poll_overflown(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker.register(context.waker());
        match self.queue.lock().close {
            Some(Close::SlowClient) => Poll::Ready(()),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::task::noop_waker;

    fn take(outbox: &Outbox) -> Option<(Taken, Vec<Bytes>)> {
        let mut out = Chunks::new();
        match outbox.poll_take(&mut Context::from_waker(&noop_waker()), &mut out, 8) {
            Poll::Ready(taken) => Some((taken, out.into_vec())),
            Poll::Pending => None,
        }
    }

    fn is_overflown(outbox: &Outbox) -> bool {
        outbox.poll_overflown(&mut Context::from_waker(&noop_waker())).is_ready()
    }

    #[test]
    fn a_round_of_pushes_wakes_once() {
        let outbox = Outbox::new();
        assert!(outbox.push(Bytes::from_static(b"a")));
        assert!(!outbox.push(Bytes::from_static(b"b")));
        assert_eq!(take(&outbox), Some((Taken::Chunks { more: false }, vec!["a".into(), "b".into()])));
        assert_eq!(take(&outbox), None);
        assert!(outbox.push(Bytes::from_static(b"c")));
    }

    #[test]
    fn who_takes_is_told_of_what_is_left() {
        let outbox = Outbox::new();
        for _ in 0..9 {
            outbox.send(Bytes::from_static(b"x"));
        }
        assert_eq!(take(&outbox), Some((Taken::Chunks { more: true }, vec!["x".into(); 8])));
        assert_eq!(take(&outbox), Some((Taken::Chunks { more: false }, vec!["x".into()])));
    }

    #[test]
    fn what_is_queued_goes_out_before_the_close() {
        let outbox = Outbox::new();
        outbox.send(Bytes::from_static(b"last"));
        outbox.close(Close::Draining);
        assert!(!outbox.push(Bytes::from_static(b"too late")));
        assert_eq!(take(&outbox), Some((Taken::Chunks { more: true }, vec!["last".into()])));
        assert_eq!(take(&outbox), Some((Taken::Close(Close::Draining), vec![])));
    }

    #[test]
    fn a_full_outbox_closes_its_socket_and_lets_go() {
        let outbox = Outbox::new();
        let chunk = Bytes::from(vec![b'x'; limits::OUTBOX_BYTES_MAX + 1]);
        let _ = outbox.push(chunk.clone());
        assert!(!is_overflown(&outbox), "one large chunk fits into an empty queue");
        let _ = outbox.push(chunk);
        assert!(is_overflown(&outbox));
        assert_eq!(take(&outbox), Some((Taken::Close(Close::SlowClient), vec![])));
    }

    #[test]
    fn chunks_are_bounded_too() {
        let outbox = Outbox::new();
        for _ in 0..limits::OUTBOX_CHUNKS_MAX {
            let _ = outbox.push(Bytes::from_static(b"x"));
        }
        assert!(!is_overflown(&outbox));
        let _ = outbox.push(Bytes::from_static(b"x"));
        assert!(is_overflown(&outbox));
    }
}
