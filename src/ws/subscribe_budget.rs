//! The budget of a connection for subscribing (protocol.md 2.4).

use std::time::Duration;

use tokio::time::Instant;

use crate::limits;

/// Bytes that the subscriptions of a connection may cost before their first live event. Each
/// command costs [`limits::SUBSCRIBE_COST_BYTES`], and the frames that answer it their size, which
/// is known only afterwards: the budget can become negative, and then the next command waits.
#[derive(Debug)]
pub(super) struct SubscribeBudget {
    bytes: i64,
    refilled: Instant,
}

impl SubscribeBudget {
    pub(super) fn new(now: Instant) -> SubscribeBudget {
        SubscribeBudget { bytes: limits::SUBSCRIBE_BUDGET_BYTES, refilled: now }
    }

    /// Spends `bytes`. Returns the time at which the budget is not negative.
    pub(super) fn spend(&mut self, bytes: u64, now: Instant) -> Instant {
        let refill = now.saturating_duration_since(self.refilled).as_secs_f64()
            * limits::SUBSCRIBE_BUDGET_BYTES_PER_SEC as f64;
        self.bytes = self.bytes.saturating_add(refill as i64).min(limits::SUBSCRIBE_BUDGET_BYTES);
        self.refilled = now;
        self.bytes = self.bytes.saturating_sub_unsigned(bytes);
        let missing = self.bytes.min(0).unsigned_abs();
        now + Duration::from_secs_f64(missing as f64 / limits::SUBSCRIBE_BUDGET_BYTES_PER_SEC as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budget_that_is_spent_is_refilled_at_a_constant_rate() {
        let now = Instant::now();
        let mut budget = SubscribeBudget::new(now);
        let all = limits::SUBSCRIBE_BUDGET_BYTES as u64;
        assert_eq!(budget.spend(all, now), now, "all of it at once");
        let second = limits::SUBSCRIBE_BUDGET_BYTES_PER_SEC;
        assert_eq!(budget.spend(2 * second, now), now + Duration::from_secs(2));
        let later = now + Duration::from_secs(1);
        assert_eq!(budget.spend(0, later), later + Duration::from_secs(1), "a second is refilled");
        let long_after = now + Duration::from_secs(3_600);
        assert_eq!(budget.spend(all, long_after), long_after);
        assert!(budget.spend(1, long_after) > long_after, "the refill ends at the initial amount");
    }

    #[test]
    fn thousand_subscriptions_at_once_do_not_wait() {
        let now = Instant::now();
        let mut budget = SubscribeBudget::new(now);
        for _ in 0..limits::SOCKET_SUBSCRIPTIONS_MAX {
            assert_eq!(budget.spend(limits::SUBSCRIBE_COST_BYTES, now), now);
        }
    }
}
