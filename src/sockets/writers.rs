//! Whoever writes to a crowd: threads of their own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::write_buffer::WriteBuffer;
use crate::limits;
use crate::metrics::metrics;

/// Writes for the inbox, which must not be kept from its work by a crowd.
#[derive(Debug, Clone)]
pub struct WriterPool {
    work: Arc<Mutex<Work>>,
    threads_max: usize,
}

#[derive(Debug, Default)]
struct Work {
    /// No longer than there are sockets: each waits once.
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
        self.sockets -= portion.as_ref().map_or(0, Vec::len);
        metrics().connections_awaiting_writer.set(self.sockets as f64);
        portion
    }
}

impl WriterPool {
    /// Half as many as the runtime has workers: while a crowd is written to, there
    /// are cores left for everything else.
    pub fn for_runtime() -> WriterPool {
        let threads_max = tokio::runtime::Handle::current().metrics().num_workers().div_ceil(2);
        WriterPool { work: Arc::default(), threads_max }
    }

    /// Writes to the sockets that a round has to_flush: to a few of them at once,
    /// which is cheaper than to wake somebody for it; to many in threads of their
    /// own. A worker of the runtime would let everything else wait meanwhile, and a
    /// thread is one that the kernel interrupts.
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
