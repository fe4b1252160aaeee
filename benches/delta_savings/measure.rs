//! CPU time of this thread. The minimum of several rounds, because interference from other
//! processes only adds to it.

use rustix::time::{ClockId, clock_gettime};

const ROUNDS: usize = 25;

/// The minimum time of each function, in seconds. The functions run in turn, so that a change
/// of the machine affects all of them.
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
