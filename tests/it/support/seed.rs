//! Repeatable randomness: `FANFARE_TEST_SEED=… cargo test name`.

use rand::SeedableRng;
use rand::rngs::StdRng;

pub struct Seed(pub u64);

impl Seed {
    /// The seed of the environment, or a new one. Printed: `cargo test` shows it
    /// with a failure, and always with `--nocapture`.
    pub fn new() -> Seed {
        let seed = match std::env::var("FANFARE_TEST_SEED") {
            Ok(text) => text.parse().expect("FANFARE_TEST_SEED is a number"),
            Err(_) => rand::random(),
        };
        println!("repeat with FANFARE_TEST_SEED={seed}");
        Seed(seed)
    }

    pub fn rng(&self) -> StdRng {
        StdRng::seed_from_u64(self.0)
    }

    /// A generator for one of several tasks, independent of the draws of the
    /// others.
    pub fn rng_of(&self, task: u64) -> StdRng {
        StdRng::seed_from_u64(self.0 ^ task.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}
