//! Which webhook_events of which partitions this node holds, and what has to be told to
//! the backend about them. Pure.

use std::collections::{BTreeMap, HashMap};

use crate::channel::Partition;
use crate::limits;
use crate::webhook_event::WebhookEventId;

#[derive(Debug, Default)]
pub(super) struct InFlight(HashMap<Partition, Holding>);

/// WebhookEventKind is held of one partition.
#[derive(Debug, Default)]
struct Holding {
    /// Every webhook_event that was read and is still in the outbox, with the number of
    /// webhooks that have not got it yet.
    open: BTreeMap<WebhookEventId, usize>,
    /// No webhook waits for these any more.
    settled: Vec<WebhookEventId>,
    removal: Removal,
    /// There may be more than there was room for.
    has_more: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Removal {
    #[default]
    Idle,
    UnderWay,
    /// Not before the next look.
    Failed,
}

impl InFlight {
    /// After which webhook_event to read, and how many. Nothing is remembered but what is
    /// held: an outbox that was lost and begins anew is read from its start.
    pub(super) fn reach(&self, partition: Partition) -> (Option<WebhookEventId>, usize) {
        let Some(holding) = self.0.get(&partition) else { return (None, limits::WEBHOOK_PENDING_MAX) };
        let after = holding.open.last_key_value().map(|(id, _)| id.clone());
        (after, limits::WEBHOOK_PENDING_MAX.saturating_sub(holding.open.len()))
    }

    /// The claim was confirmed. With `has_more`, [`InFlight::removed`] says when there
    /// is room again.
    pub(super) fn claimed(&mut self, partition: Partition, has_more: bool) {
        self.0.entry(partition).or_default().has_more = has_more;
    }

    /// Holds a webhook_event that so many webhooks wait for. False if it is held already.
    pub(super) fn hold(&mut self, partition: Partition, id: &WebhookEventId, webhooks: usize) -> bool {
        let holding = self.0.entry(partition).or_default();
        if holding.open.contains_key(id) {
            return false;
        }
        holding.open.insert(id.clone(), webhooks);
        if webhooks == 0 {
            holding.settled.push(id.clone());
        }
        true
    }

    /// One webhook waits no longer for this webhook_event.
    pub(super) fn settle(&mut self, partition: Partition, id: &WebhookEventId) {
        let Some(holding) = self.0.get_mut(&partition) else { return };
        // It may have been let go meanwhile.
        let Some(open @ 1..) = holding.open.get_mut(id) else { return };
        *open -= 1;
        if *open == 0 {
            holding.settled.push(id.clone());
        }
    }

    /// WebhookEventKind to remove from the outboxes: at most one removal of each is under way.
    pub(super) fn removals(&mut self) -> Vec<(Partition, Vec<WebhookEventId>)> {
        let ready = self.0.iter_mut().filter(|(_, it)| it.removal == Removal::Idle && !it.settled.is_empty());
        let begin = |(partition, holding): (&Partition, &mut Holding)| {
            holding.removal = Removal::UnderWay;
            (*partition, std::mem::take(&mut holding.settled))
        };
        ready.map(begin).collect()
    }

    /// They are out of the outbox. Returns whether it is worth a look: something
    /// is there for which there was no room.
    pub(super) fn removed(&mut self, partition: Partition, ids: &[WebhookEventId]) -> bool {
        let Some(holding) = self.0.get_mut(&partition) else { return false };
        holding.removal = Removal::Idle;
        for id in ids {
            holding.open.remove(id);
        }
        std::mem::take(&mut holding.has_more)
    }

    /// They may still be in the outbox.
    pub(super) fn not_removed(&mut self, partition: Partition, ids: Vec<WebhookEventId>) {
        let Some(holding) = self.0.get_mut(&partition) else { return };
        holding.removal = Removal::Failed;
        let open = &holding.open;
        holding.settled.extend(ids.into_iter().filter(|id| open.get(id) == Some(&0)));
    }

    /// Lets failed removals be tried again.
    pub(super) fn retry_removals(&mut self) {
        let failed = self.0.values_mut().filter(|holding| holding.removal == Removal::Failed);
        failed.for_each(|holding| holding.removal = Removal::Idle);
    }

    /// Forgets all of a partition. Returns whether there was anything.
    pub(super) fn release(&mut self, partition: Partition) -> bool {
        self.0.remove(&partition).is_some_and(|holding| !holding.open.is_empty())
    }

    /// The partitions that were claimed and not let go.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        self.0.keys().copied().collect()
    }

    /// Whether the backend has nothing left to be told of this partition.
    pub(super) fn is_delivered(&self, partition: Partition) -> bool {
        let is_delivered = |holding: &Holding| holding.removal == Removal::Idle && holding.settled.is_empty();
        self.0.get(&partition).is_none_or(is_delivered)
    }

    /// WebhookOutbox held, of all partitions.
    pub(super) fn len(&self) -> usize {
        self.0.values().map(|holding| holding.open.len()).sum()
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
    fn a_notice_is_removed_when_no_webhook_waits_for_it() {
        let mut held = InFlight::default();
        assert_eq!(held.reach(P), (None, limits::WEBHOOK_PENDING_MAX));
        for (number, webhooks) in [(1, 2), (2, 0), (3, 1)] {
            assert!(held.hold(P, &id(number), webhooks));
        }
        assert!(!held.hold(P, &id(3), 1), "it is held already");
        assert_eq!(held.reach(P), (Some(id(3)), limits::WEBHOOK_PENDING_MAX - 3));
        assert_eq!(held.removals(), [(P, vec![id(2)])]);
        held.settle(P, &id(1));
        held.settle(P, &id(3));
        assert_eq!(held.removals(), [], "one removal at a time");
        held.removed(P, &[id(2)]);
        assert_eq!(held.removals(), [(P, vec![id(3)])]);
        held.settle(P, &id(1));
        held.removed(P, &[id(3)]);
        assert_eq!(held.removals(), [(P, vec![id(1)])]);
        assert!(!held.is_delivered(P));
        held.removed(P, &[id(1)]);
        assert!(held.is_delivered(P) && held.len() == 0);
        assert_eq!(held.reach(P).0, None, "an outbox that begins anew is read from its start");
    }

    #[test]
    fn a_removal_that_failed_is_tried_again_later() {
        let mut held = InFlight::default();
        held.hold(P, &id(1), 0);
        let (_, ids) = held.removals().remove(0);
        held.not_removed(P, ids);
        assert_eq!(held.removals(), []);
        held.retry_removals();
        assert_eq!(held.removals(), [(P, vec![id(1)])]);
    }

    #[test]
    fn what_was_let_go_is_not_settled() {
        let mut held = InFlight::default();
        held.hold(P, &id(1), 1);
        assert!(held.release(P) && !held.release(P));
        held.settle(P, &id(1));
        held.hold(P, &id(1), 2);
        held.settle(P, &id(1));
        assert_eq!(held.removals(), []);
    }

    #[test]
    fn there_is_another_look_where_there_was_no_room() {
        let mut held = InFlight::default();
        for number in 0..limits::WEBHOOK_PENDING_MAX as u64 {
            held.hold(P, &id(number), 0);
        }
        assert_eq!(held.reach(P).1, 0);
        held.claimed(P, true);
        let (_, ids) = held.removals().remove(0);
        assert!(held.removed(P, &ids) && !held.removed(P, &ids));
    }
}
