//! Whoever writes to a crowd: threads of their own.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::outbox::Outbox;
use crate::limits;
use crate::metrics::metrics;

/// Writes for the inbox, which must not be kept from its work by a crowd.
#[derive(Debug, Clone)]
pub struct Writers {
    work: Arc<Mutex<Work>>,
    threads_max: usize,
}

#[derive(Debug, Default)]
struct Work {
    /// No longer than there are sockets: each waits once.
    portions: VecDeque<Vec<Arc<Outbox>>>,
    sockets: usize,
    threads: usize,
}

impl Work {
    fn put(&mut self, portion: Vec<Arc<Outbox>>) {
        self.sockets += portion.len();
        self.portions.push_back(portion);
    }

    fn take(&mut self) -> Option<Vec<Arc<Outbox>>> {
        let portion = self.portions.pop_front();
        self.sockets -= portion.as_ref().map_or(0, Vec::len);
        metrics().sockets_waiting.set(self.sockets as f64);
        portion
    }
}

impl Writers {
    /// Half as many as the runtime has workers: while a crowd is written to, there
    /// are cores left for everything else.
    pub fn for_runtime() -> Writers {
        let threads_max = tokio::runtime::Handle::current().metrics().num_workers().div_ceil(2);
        Writers { work: Arc::default(), threads_max }
    }

    /// Writes to the sockets that a round has filled: to a few of them at once,
    /// which is cheaper than to wake somebody for it; to many in threads of their
    /// own. A worker of the runtime would let everything else wait meanwhile, and a
    /// thread is one that the kernel interrupts.
    pub fn flush(&self, filled: &mut Vec<Arc<Outbox>>) {
        if filled.len() <= limits::ROUND_WRITES_MAX {
            return filled.drain(..).for_each(|outbox| outbox.flush());
        }
        let mut work = self.work.lock();
        let mut filled = filled.drain(..).peekable();
        while filled.peek().is_some() {
            work.put(filled.by_ref().take(limits::ROUND_WRITES_MAX).collect());
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
            portion.iter().for_each(|outbox| outbox.flush());
        }
    }

    fn next(&self) -> Option<Vec<Arc<Outbox>>> {
        let mut work = self.work.lock();
        let portion = work.take();
        work.threads -= usize::from(portion.is_none());
        portion
    }
}
