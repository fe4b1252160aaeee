//! The writer pool: threads that flush many connections after a large fan-out.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::write_buffer::WriteBuffer;
use crate::capacity::Shrink;
use crate::limits;
use crate::metrics::metrics;

/// Writes for the channels actor, which must not be blocked by thousands of writes.
#[derive(Debug, Clone)]
pub struct WriterPool {
    work: Arc<Mutex<Work>>,
    threads_max: usize,
}

#[derive(Debug, Default)]
struct Work {
    /// Bounded by the number of connections: each is queued at most once.
    portions: VecDeque<Vec<Arc<WriteBuffer>>>,
    sockets: usize,
    threads: usize,
}

impl Work {
    fn put(&mut self, portion: Vec<Arc<WriteBuffer>>) {
        self.sockets += portion.len();
        self.portions.push_back(portion);
    }

    fn take(&mut self) -> Option<Vec<Arc<WriteBuffer>>> {
        let portion = self.portions.pop_front();
        self.portions.shrink_if_sparse();
        self.sockets -= portion.as_ref().map_or(0, Vec::len);
        metrics().connections_awaiting_writer.set(self.sockets as f64);
        portion
    }
}

impl WriterPool {
    /// Creates a pool with half as many threads as the runtime has workers, so that a
    /// large fan-out leaves cores for everything else.
    pub fn for_runtime() -> WriterPool {
        let threads_max = tokio::runtime::Handle::current().metrics().num_workers().div_ceil(2);
        WriterPool { work: Arc::default(), threads_max }
    }

    /// Flushes the connections of a round. Up to [`limits::ROUND_WRITES_MAX`] are
    /// written at once, which is cheaper than to wake a thread; more are written by the
    /// pool's threads. On a worker of the runtime these writes would delay all its
    /// other tasks, while the kernel can preempt a thread.
    pub fn flush(&self, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        if to_flush.len() <= limits::ROUND_WRITES_MAX {
            return to_flush.drain(..).for_each(|write_buffer| write_buffer.flush());
        }
        let mut work = self.work.lock();
        let mut to_flush = to_flush.drain(..).peekable();
        while to_flush.peek().is_some() {
            work.put(to_flush.by_ref().take(limits::ROUND_WRITES_MAX).collect());
        }
        let idle = self.threads_max.saturating_sub(work.threads).min(work.portions.len());
        work.threads += idle;
        drop(work);
        for _ in 0..idle {
            let writers = self.clone();
            tokio::task::spawn_blocking(move || writers.write());
        }
    }

    fn write(&self) {
        while let Some(portion) = self.next() {
            portion.iter().for_each(|write_buffer| write_buffer.flush());
        }
    }

    fn next(&self) -> Option<Vec<Arc<WriteBuffer>>> {
        let mut work = self.work.lock();
        let portion = work.take();
        work.threads -= usize::from(portion.is_none());
        portion
    }
}
