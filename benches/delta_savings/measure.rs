//! The CPU time of this thread: the best of several rounds, since whatever else the
//! machine does only ever adds to it.

use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 25;

/// The best of each, in seconds. They take turns, so that a change of the machine
/// meets them all.
pub fn best_of_each(runs: &mut [Box<dyn FnMut() + '_>]) -> Vec<f64> {
    let mut best = vec![f64::INFINITY; runs.len()];
    for _ in 0..ROUNDS {
        for (run, best) in runs.iter_mut().zip(&mut best) {
            let start = cpu_seconds();
            run();
            *best = best.min(cpu_seconds() - start);
        }
    }
    best
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
