//! A counter for increments on every write to a socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use metrics::Counter;

/// Each thread adds to a cache line of its own. On a shared one, every write of a worker
/// would contend with the writes of all others.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "the handle has no state to show")]
pub struct Striped {
    stripes: Arc<[Stripe; STRIPES]>,
    total: Counter,
}

/// Above this number, threads share stripes.
const STRIPES: usize = 16;

/// Aligned to two cache lines: processors prefetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Stripe(AtomicU64);

impl Striped {
    pub(super) fn new(total: Counter) -> Striped {
        Striped { stripes: Arc::default(), total }
    }

    pub fn increment(&self, value: u64) {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static STRIPE: usize = THREADS.fetch_add(1, Ordering::Relaxed) % STRIPES;
        }
        STRIPE.with(|stripe| self.stripes[*stripe].0.fetch_add(value, Ordering::Relaxed));
    }

    /// Sets the exported counter to the sum of the stripes.
    pub(super) fn gather(&self) {
        self.total.absolute(self.sum());
    }

    fn sum(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn striped_counter_with_more_threads_than_stripes_loses_no_increment() {
        let striped = Striped::new(Counter::noop());
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| striped.increment(2)));
            }
        });
        assert_eq!(striped.sum(), 2 * STRIPES as u64 * 2000);
        let used = striped.stripes.iter().filter(|stripe| stripe.0.load(Ordering::Relaxed) > 0);
        assert!(used.count() > 1, "threads use different stripes");
    }
}
