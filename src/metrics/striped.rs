//! A counter for what every write counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use metrics::Counter;

/// Each thread adds to a cache line of its own: on one for all of them, every worker
/// would wait for the others with every write.
#[derive(Clone)]
#[allow(missing_debug_implementations, reason = "the handle has nothing to show")]
pub struct Striped {
    stripes: Arc<[Stripe; STRIPES]>,
    total: Counter,
}

/// More threads than these share.
const STRIPES: usize = 16;

/// As long as two cache lines, which processors fetch in pairs.
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

    /// Brings the total up to date, which is shown.
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
    fn nothing_is_lost_however_many_threads_count() {
        let striped = Striped::new(Counter::noop());
        std::thread::scope(|scope| {
            for _ in 0..2 * STRIPES {
                scope.spawn(|| (0..1000).for_each(|_| striped.increment(2)));
            }
        });
        assert_eq!(striped.sum(), 2 * STRIPES as u64 * 2000);
        let used = striped.stripes.iter().filter(|stripe| stripe.0.load(Ordering::Relaxed) > 0);
        assert!(used.count() > 1, "threads count apart");
    }
}
