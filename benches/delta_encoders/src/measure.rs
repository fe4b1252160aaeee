//! Time of one call. The minimum of several rounds, because interference from other processes
//! only adds to it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::events::Pair;

const ROUNDS: usize = 9;
const ROUND: Duration = Duration::from_millis(80);

/// Nanoseconds per call, over all pairs in turn.
pub(crate) fn nanos_each(pairs: &[Pair], encode: fn(&[u8], &[u8]) -> Vec<u8>) -> u128 {
    (0..ROUNDS).map(|_| round(pairs, encode)).min().unwrap_or_default()
}

fn round(pairs: &[Pair], encode: fn(&[u8], &[u8]) -> Vec<u8>) -> u128 {
    let (start, mut calls) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        for (base, target) in pairs {
            black_box(encode(black_box(base), black_box(target)));
        }
        calls += pairs.len() as u128;
    }
    start.elapsed().as_nanos() / calls
}
