//! The options of a subscription that determine its frames.

use crate::delta::Algorithm;
use crate::filter::AdmittedFilter;
use crate::wire::event_prefix::EventPrefix;

/// Subscribers with equal options receive the same frames, except for missing bases and
/// excluded events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DeliveryOptions {
    pub event_prefix: EventPrefix,
    /// Full events with markers, and deltas in this format if the client has the base.
    pub algorithm: Option<Algorithm>,
    /// Every event carries its sequence number, so that the client can resume
    /// (docs/resume.md).
    pub positions: bool,
    /// Only events that match the filter.
    pub filter: Option<AdmittedFilter>,
}

impl DeliveryOptions {
    /// Whether the client has enabled an extension, and may receive more than the
    /// Pusher protocol has.
    pub fn has_opted_in(&self) -> bool {
        self.algorithm.is_some() || self.positions || self.filter.is_some()
    }
}
