//! The webhook events that this node has read and not yet removed from the outbox, by
//! partition. No IO.

use std::collections::{BTreeMap, HashMap};

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::WebhookEventId;

#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<Partition, PartitionState>);

/// The in-flight events of one partition.
#[derive(Debug, Default)]
struct PartitionState {
    /// Events read and still in the outbox, with the number of webhooks that have not
    /// received them yet.
    open: BTreeMap<WebhookEventId, usize>,
    /// Events that no webhook waits for any more, to be removed.
    settled: Vec<WebhookEventId>,
    removal: Removal,
    /// Whether the outbox may contain events above [`limits::WEBHOOK_PENDING_MAX`].
    has_more: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    Idle,
    InProgress,
    /// Retried after [`InFlight::retry_removals`].
    Failed,
}

impl InFlight {
    /// Start and size of the next read: the last event in flight and the free capacity.
    /// Derived from the events in flight only, so that an outbox which was lost and
    /// started again is read from its start.
    pub(super) fn next_read(&self, partition: Partition) -> (Option<WebhookEventId>, usize) {
        let Some(state) = self.0.get(&partition) else { return (None, limits::WEBHOOK_PENDING_MAX) };
        let after = state.open.last_key_value().map(|(id, _)| id.clone());
        (after, limits::WEBHOOK_PENDING_MAX.saturating_sub(state.open.len()))
    }

    /// Records a confirmed claim. With `has_more`, [`InFlight::removed`] returns true when
    /// there is capacity again.
    pub(super) fn claimed(&mut self, partition: Partition, has_more: bool) {
        self.0.entry(partition).or_default().has_more = has_more;
    }

    /// Adds an event for this number of webhooks. Returns false if it is present already.
    pub(super) fn insert(&mut self, partition: Partition, id: &WebhookEventId, webhooks: usize) -> bool {
        let state = self.0.entry(partition).or_default();
        if state.open.contains_key(id) {
            return false;
        }
        state.open.insert(id.clone(), webhooks);
        if webhooks == 0 {
            state.settled.push(id.clone());
        }
        true
    }

    /// Records that one webhook needs no further delivery of this event.
    pub(super) fn settle(&mut self, partition: Partition, id: &WebhookEventId) {
        let Some(state) = self.0.get_mut(&partition) else { return };
        // The partition may have been released in between.
        let Some(open @ 1..) = state.open.get_mut(id) else { return };
        *open -= 1;
        if *open == 0 {
            state.settled.push(id.clone());
        }
    }

    /// Starts the removals from the outboxes: at most one at a time per partition.
    pub(super) fn removals(&mut self) -> Vec<(Partition, Vec<WebhookEventId>)> {
        let ready = self.0.iter_mut().filter(|(_, it)| it.removal == Removal::Idle && !it.settled.is_empty());
        let begin = |(partition, state): (&Partition, &mut PartitionState)| {
            state.removal = Removal::InProgress;
            (*partition, std::mem::take(&mut state.settled))
        };
        ready.map(begin).collect()
    }

    /// Records that the events are removed from the outbox. Returns whether it may contain
    /// events that exceeded the capacity before.
    pub(super) fn removed(&mut self, partition: Partition, ids: &[WebhookEventId]) -> bool {
        let Some(state) = self.0.get_mut(&partition) else { return false };
        state.removal = Removal::Idle;
        for id in ids {
            state.open.remove(id);
        }
        std::mem::take(&mut state.has_more)
    }

    /// Records a failed removal: the events may still be in the outbox.
    pub(super) fn not_removed(&mut self, partition: Partition, ids: Vec<WebhookEventId>) {
        let Some(state) = self.0.get_mut(&partition) else { return };
        state.removal = Removal::Failed;
        let open = &state.open;
        state.settled.extend(ids.into_iter().filter(|id| open.get(id) == Some(&0)));
    }

    /// Allows retries of failed removals.
    pub(super) fn retry_removals(&mut self) {
        let failed = self.0.values_mut().filter(|state| state.removal == Removal::Failed);
        failed.for_each(|state| state.removal = Removal::Idle);
    }

    /// Drops the state of a partition. Returns whether it had events in flight.
    pub(super) fn release(&mut self, partition: Partition) -> bool {
        self.0.remove(&partition).is_some_and(|state| !state.open.is_empty())
    }

    /// The partitions that are claimed and not released.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.0.keys().copied().collect()
    }

    /// Whether events of this partition wait for their removal from the outbox.
    pub(super) fn has_pending_removals(&self, partition: Partition) -> bool {
        let has_pending =
            |state: &PartitionState| state.removal != Removal::Idle || !state.settled.is_empty();
        self.0.get(&partition).is_some_and(has_pending)
    }

    /// Number of events in flight, over all partitions.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|state| state.open.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(3);

    fn id(number: u64) -> WebhookEventId {
        WebhookEventId { time_ms: 9, number }
    }

    #[test]
    fn event_is_removed_when_no_webhook_waits_for_it() {
        let mut in_flight = InFlight::default();
        assert_eq!(in_flight.next_read(P), (None, limits::WEBHOOK_PENDING_MAX));
        for (number, webhooks) in [(1, 2), (2, 0), (3, 1)] {
            assert!(in_flight.insert(P, &id(number), webhooks));
        }
        assert!(!in_flight.insert(P, &id(3), 1), "a second insert has no effect");
        assert_eq!(in_flight.next_read(P), (Some(id(3)), limits::WEBHOOK_PENDING_MAX - 3));
        assert_eq!(in_flight.removals(), [(P, vec![id(2)])]);
        in_flight.settle(P, &id(1));
        in_flight.settle(P, &id(3));
        assert_eq!(in_flight.removals(), [], "one removal is in progress");
        in_flight.removed(P, &[id(2)]);
        assert_eq!(in_flight.removals(), [(P, vec![id(3)])]);
        in_flight.settle(P, &id(1));
        in_flight.removed(P, &[id(3)]);
        assert_eq!(in_flight.removals(), [(P, vec![id(1)])]);
        assert!(in_flight.has_pending_removals(P));
        in_flight.removed(P, &[id(1)]);
        assert!(!in_flight.has_pending_removals(P) && in_flight.len() == 0);
        assert_eq!(in_flight.next_read(P).0, None, "an empty outbox is read from its start");
    }

    #[test]
    fn failed_removal_is_retried_after_retry_removals() {
        let mut in_flight = InFlight::default();
        in_flight.insert(P, &id(1), 0);
        let (_, ids) = in_flight.removals().remove(0);
        in_flight.not_removed(P, ids);
        assert_eq!(in_flight.removals(), []);
        in_flight.retry_removals();
        assert_eq!(in_flight.removals(), [(P, vec![id(1)])]);
    }

    #[test]
    fn released_event_is_not_settled() {
        let mut in_flight = InFlight::default();
        in_flight.insert(P, &id(1), 1);
        assert!(in_flight.release(P) && !in_flight.release(P));
        in_flight.settle(P, &id(1));
        in_flight.insert(P, &id(1), 2);
        in_flight.settle(P, &id(1));
        assert_eq!(in_flight.removals(), []);
    }

    #[test]
    fn removal_after_full_capacity_requests_another_read() {
        let mut in_flight = InFlight::default();
        for number in 0..limits::WEBHOOK_PENDING_MAX as u64 {
            in_flight.insert(P, &id(number), 0);
        }
        assert_eq!(in_flight.next_read(P).1, 0);
        in_flight.claimed(P, true);
        let (_, ids) = in_flight.removals().remove(0);
        assert!(in_flight.removed(P, &ids) && !in_flight.removed(P, &ids));
    }
}
