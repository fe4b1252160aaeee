//! The rate of requests without a valid signature, for each client address (protocol.md 1.10).
//!
//! Anybody can send them, and pipeline them. Above the rate their responses wait, and a connection
//! reads no further request until its response is sent. No response waits for longer than
//! [`limits::UNSIGNED_DELAY_MAX`]: the health checks of a load balancer that is not in
//! `trusted_proxies` share their address with all of its clients.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::capacity::Shrink;
use crate::limits;

/// Time in which one request is forgotten.
const INTERVAL: Duration = Duration::from_nanos(1_000_000_000 / limits::UNSIGNED_REQUESTS_PER_SEC as u64);
/// Time in which a whole burst is forgotten.
const BURST_TIME: Duration = INTERVAL.saturating_mul(limits::UNSIGNED_REQUESTS_BURST);

/// A token bucket for each address, as the time at which it is full.
#[derive(Debug, Default)]
pub(super) struct UnsignedRequests {
    full_at: HashMap<IpAddr, Instant>,
}

impl UnsignedRequests {
    /// Counts a request. Returns the time for which its response has to wait.
    pub(super) fn count(&mut self, address: IpAddr, now: Instant) -> Duration {
        let is_known = self.full_at.contains_key(&address);
        if !is_known && self.full_at.len() >= limits::UNSIGNED_ADDRESSES_MAX {
            return Duration::ZERO;
        }
        let full_at = self.full_at.entry(address).or_insert(now);
        let (free, latest) = (now + BURST_TIME, now + BURST_TIME + limits::UNSIGNED_DELAY_MAX);
        *full_at = ((*full_at).max(now) + INTERVAL).min(latest);
        full_at.saturating_duration_since(free)
    }

    /// Forgets the addresses that may send a whole burst again.
    pub(super) fn remove_expired(&mut self, now: Instant) {
        self.full_at.retain(|_, full_at| *full_at > now);
        self.full_at.shrink_if_sparse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    #[test]
    fn requests_above_the_burst_wait_in_turn_up_to_the_longest_delay() {
        let (mut requests, now) = (UnsignedRequests::default(), Instant::now());
        for _ in 0..limits::UNSIGNED_REQUESTS_BURST {
            assert_eq!(requests.count(ADDRESS, now), Duration::ZERO);
        }
        assert_eq!(requests.count(ADDRESS, now), INTERVAL);
        assert_eq!(requests.count(ADDRESS, now), 2 * INTERVAL);
        let delays = (0..1_000).map(|_| requests.count(ADDRESS, now));
        assert_eq!(delays.max(), Some(limits::UNSIGNED_DELAY_MAX));
        assert_eq!(requests.count([192, 0, 2, 2].into(), now), Duration::ZERO);
        let later = now + limits::UNSIGNED_DELAY_MAX + 10 * INTERVAL;
        assert!((0..10).all(|_| requests.count(ADDRESS, later).is_zero()));
        assert_eq!(requests.count(ADDRESS, later), INTERVAL);
    }

    #[test]
    fn addresses_are_bounded_and_forgotten() {
        let (mut requests, now) = (UnsignedRequests::default(), Instant::now());
        let max = u32::try_from(limits::UNSIGNED_ADDRESSES_MAX).unwrap();
        for address in 0..max + 10 {
            requests.count(std::net::Ipv4Addr::from(address).into(), now);
        }
        assert_eq!(requests.full_at.len(), limits::UNSIGNED_ADDRESSES_MAX);
        requests.count(ADDRESS, now);
        requests.remove_expired(now);
        assert_eq!(requests.full_at.len(), limits::UNSIGNED_ADDRESSES_MAX);
        requests.remove_expired(now + INTERVAL);
        assert_eq!(requests.full_at.len(), 0);
        assert!(requests.full_at.capacity() < 1_000);
    }
}
