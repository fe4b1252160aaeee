//! The delta toggle of one channel: this node's request to change it for the whole
//! cluster, by an entry (see [`crate::delta::policy`]).

use crate::delta::policy::Policy;

#[derive(Debug, Default)]
pub(super) struct DeltaToggle {
    /// The state of the toggle, and this node's measurements for it.
    pub(super) policy: Policy,
    /// The state that this node has requested, until a job has appended the entry.
    pub(super) requested: Option<bool>,
}

impl DeltaToggle {
    /// Whether this node's measurements call for a change that is not requested yet.
    pub(super) fn decides(&mut self) -> bool {
        let verdict = self.policy.verdict();
        if self.requested.is_some() {
            return false;
        }
        self.requested = verdict;
        verdict.is_some()
    }
}
