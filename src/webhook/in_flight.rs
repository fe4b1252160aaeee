//! The webhook events that this node has read and not yet removed from their outboxes. No IO.

use std::collections::{BTreeMap, BTreeSet};

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::{OutboxId, WebhookEventId};

#[derive(Debug, Default)]
pub(super) struct InFlight {
    outboxes: BTreeMap<OutboxId, OutboxState>,
    /// Outboxes with settled events, and no removal in progress.
    removable: BTreeSet<OutboxId>,
}

/// The in-flight events of one outbox.
#[derive(Debug, Default)]
struct OutboxState {
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
    /// Start and size of the next read: the last event in flight and the free capacity, at
    /// most [`limits::WEBHOOK_READ_MAX`]. Derived from the events in flight only, so that an
    /// outbox which was lost and started again is read from its start.
    pub(super) fn next_read(&self, outbox: &OutboxId) -> (Option<WebhookEventId>, usize) {
        let Some(state) = self.outboxes.get(outbox) else { return (None, limits::WEBHOOK_READ_MAX) };
        let after = state.open.last_key_value().map(|(id, _)| id.clone());
        let capacity = limits::WEBHOOK_PENDING_MAX.saturating_sub(state.open.len());
        (after, capacity.min(limits::WEBHOOK_READ_MAX))
    }

    /// Records that a read ended before the last event, because there is no capacity. Then
    /// [`InFlight::removed`] returns true.
    pub(super) fn has_more(&mut self, outbox: &OutboxId) {
        if let Some(state) = self.outboxes.get_mut(outbox) {
            state.has_more = true;
        }
    }

    /// Adds an event for this number of webhooks. Returns false if it is present already.
    pub(super) fn insert(&mut self, outbox: &OutboxId, id: &WebhookEventId, webhooks: usize) -> bool {
        let state = self.outboxes.entry(outbox.clone()).or_default();
        if state.open.contains_key(id) {
            return false;
        }
        state.open.insert(id.clone(), webhooks);
        if webhooks == 0 {
            self.push_settled(outbox, id.clone());
        }
        true
    }

    /// Records that one webhook needs no further delivery of this event.
    pub(super) fn settle(&mut self, outbox: &OutboxId, id: &WebhookEventId) {
        let Some(state) = self.outboxes.get_mut(outbox) else { return };
        // The partition may have been released in between.
        let Some(open @ 1..) = state.open.get_mut(id) else { return };
        *open -= 1;
        if *open == 0 {
            self.push_settled(outbox, id.clone());
        }
    }

    fn push_settled(&mut self, outbox: &OutboxId, id: WebhookEventId) {
        let Some(state) = self.outboxes.get_mut(outbox) else { return };
        state.settled.push(id);
        if state.removal == Removal::Idle {
            self.removable.insert(outbox.clone());
        }
    }

    /// Starts the removals from the outboxes: at most one at a time for each.
    pub(super) fn removals(&mut self) -> Vec<(OutboxId, Vec<WebhookEventId>)> {
        let mut removals = Vec::new();
        for outbox in std::mem::take(&mut self.removable) {
            if let Some(state) = self.outboxes.get_mut(&outbox) {
                state.removal = Removal::InProgress;
                removals.push((outbox, std::mem::take(&mut state.settled)));
            }
        }
        removals
    }

    /// Records that the events are removed. Returns whether the outbox is to be read again:
    /// it may contain events that exceeded the capacity before, or it is now empty and leaves
    /// the backend's index.
    pub(super) fn removed(&mut self, outbox: &OutboxId, ids: &[WebhookEventId]) -> bool {
        let Some(state) = self.outboxes.get_mut(outbox) else { return false };
        state.removal = Removal::Idle;
        for id in ids {
            state.open.remove(id);
        }
        let has_more = std::mem::take(&mut state.has_more);
        if state.open.is_empty() {
            self.outboxes.remove(outbox);
            return true;
        }
        if !state.settled.is_empty() {
            self.removable.insert(outbox.clone());
        }
        has_more
    }

    /// Records a failed removal: the events may still be in the outbox.
    pub(super) fn not_removed(&mut self, outbox: &OutboxId, ids: Vec<WebhookEventId>) {
        let Some(state) = self.outboxes.get_mut(outbox) else { return };
        state.removal = Removal::Failed;
        let open = &state.open;
        state.settled.extend(ids.into_iter().filter(|id| open.get(id) == Some(&0)));
    }

    /// Allows retries of failed removals.
    pub(super) fn retry_removals(&mut self) {
        for (outbox, state) in &mut self.outboxes {
            if state.removal == Removal::Failed {
                state.removal = Removal::Idle;
                self.removable.insert(outbox.clone());
            }
        }
    }

    /// Drops the state of a partition. Returns whether it had events in flight.
    pub(super) fn release(&mut self, partition: Partition) -> bool {
        let before = self.outboxes.len();
        self.outboxes.retain(|outbox, _| outbox.partition != partition);
        self.removable.retain(|outbox| outbox.partition != partition);
        self.outboxes.len() < before
    }

    /// Whether events of this partition wait for their removal from an outbox.
    pub(super) fn has_pending_removals(&self, partition: Partition) -> bool {
        self.outboxes.iter().any(|(outbox, state)| {
            outbox.partition == partition && (state.removal != Removal::Idle || !state.settled.is_empty())
        })
    }

    /// Number of events in flight, over all outboxes.
    pub(super) fn len(&self) -> usize {
        self.outboxes.values().map(|state| state.open.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(3);

    fn outbox(app: &str) -> OutboxId {
        OutboxId { partition: P, app: app.into() }
    }

    fn id(number: u64) -> WebhookEventId {
        WebhookEventId { time_ms: 9, number }
    }

    #[test]
    fn event_is_removed_when_no_webhook_waits_for_it() {
        let (mut in_flight, a) = (InFlight::default(), outbox("a"));
        assert_eq!(in_flight.next_read(&a), (None, limits::WEBHOOK_READ_MAX));
        for (number, webhooks) in [(1, 2), (2, 0), (3, 1)] {
            assert!(in_flight.insert(&a, &id(number), webhooks));
        }
        assert!(!in_flight.insert(&a, &id(3), 1), "a second insert has no effect");
        assert_eq!(in_flight.next_read(&a).0, Some(id(3)));
        assert_eq!(in_flight.removals(), [(a.clone(), vec![id(2)])]);
        in_flight.settle(&a, &id(1));
        in_flight.settle(&a, &id(3));
        assert_eq!(in_flight.removals(), [], "one removal is in progress");
        assert!(!in_flight.removed(&a, &[id(2)]));
        assert_eq!(in_flight.removals(), [(a.clone(), vec![id(3)])]);
        in_flight.settle(&a, &id(1));
        assert!(!in_flight.removed(&a, &[id(3)]));
        assert_eq!(in_flight.removals(), [(a.clone(), vec![id(1)])]);
        assert!(in_flight.has_pending_removals(P));
        assert!(in_flight.removed(&a, &[id(1)]), "an empty outbox is read once more");
        assert!(!in_flight.has_pending_removals(P) && in_flight.len() == 0);
        assert_eq!(in_flight.next_read(&a).0, None, "an empty outbox is read from its start");
    }

    #[test]
    fn failed_removal_is_retried_after_retry_removals() {
        let (mut in_flight, a) = (InFlight::default(), outbox("a"));
        in_flight.insert(&a, &id(1), 0);
        let (_, ids) = in_flight.removals().remove(0);
        in_flight.not_removed(&a, ids);
        assert_eq!(in_flight.removals(), []);
        in_flight.retry_removals();
        assert_eq!(in_flight.removals(), [(a, vec![id(1)])]);
    }

    #[test]
    fn released_event_is_not_settled() {
        let (mut in_flight, a) = (InFlight::default(), outbox("a"));
        in_flight.insert(&a, &id(1), 1);
        assert!(in_flight.release(P) && !in_flight.release(P));
        in_flight.settle(&a, &id(1));
        in_flight.insert(&a, &id(1), 2);
        in_flight.settle(&a, &id(1));
        assert_eq!(in_flight.removals(), []);
    }

    #[test]
    fn removal_after_full_capacity_requests_another_read() {
        let (mut in_flight, a) = (InFlight::default(), outbox("a"));
        in_flight.insert(&a, &id(0), 0);
        for number in 1..limits::WEBHOOK_PENDING_MAX as u64 {
            in_flight.insert(&a, &id(number), 1);
        }
        assert_eq!(in_flight.next_read(&a).1, 0);
        assert_eq!(in_flight.next_read(&outbox("b")).1, limits::WEBHOOK_READ_MAX, "each app has a share");
        in_flight.has_more(&a);
        let (_, ids) = in_flight.removals().remove(0);
        assert!(in_flight.removed(&a, &ids) && !in_flight.removed(&a, &ids));
    }
}
