//! What a subscriber has asked to be sent.

use std::sync::Arc;

use crate::delta::Algorithm;
use crate::filter::Filter;
use crate::wire::event_prefix::EventPrefix;

/// Subscribers with equal forms are sent the same frames, but for what some of
/// them do not hold or are excepted from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DeliveryOptions {
    pub event_prefix: EventPrefix,
    /// Marked frames, and deltas in this format where it holds the base.
    pub algorithm: Option<Algorithm>,
    /// Every event says its number, so that the client can resume
    /// (docs/resume.md).
    pub positions: bool,
    /// Only what passes.
    pub filter: Option<Arc<Filter>>,
}

impl DeliveryOptions {
    /// The client has asked for something that Pusher does not have, and may see
    /// what Pusher does not send.
    pub fn has_opted_in(&self) -> bool {
        self.algorithm.is_some() || self.positions || self.filter.is_some()
    }
}
