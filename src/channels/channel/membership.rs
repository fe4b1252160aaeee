//! The membership of this node in a channel, as last reported to the cluster.

use std::time::Instant;

use crate::backend::MembershipRules;

#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The app's rules for membership updates.
    pub(super) rules: MembershipRules,
    /// The last acknowledged number of subscriptions.
    pub(super) reported: Option<u64>,
    /// To be reported again, even if the number is the same.
    pub(super) is_stale: bool,
    /// An unanswered update may still be executed until this time. Until then the
    /// channel is kept, so that its number can be reported again.
    pub(super) uncertain_until: Option<Instant>,
}

impl Membership {
    /// An unanswered update may still be executed.
    pub(super) fn is_uncertain(&self, now: Instant) -> bool {
        self.uncertain_until.is_some_and(|until| now < until)
    }
}
