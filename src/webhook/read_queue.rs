//! The outboxes to be read, and those with a read in progress. Fair to apps. No IO.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::channel::Partition;
use crate::webhook_event::OutboxId;

/// Outboxes in turns by app, each at most once: the length is bounded by the apps and
/// partitions.
#[derive(Debug, Default)]
pub(super) struct ReadQueue {
    /// Apps with waiting outboxes.
    turns: VecDeque<Arc<str>>,
    waiting: HashMap<Arc<str>, VecDeque<Partition>>,
    queued: HashSet<OutboxId>,
    in_progress: HashSet<OutboxId>,
    /// Outboxes in progress to be read once more.
    again: HashSet<OutboxId>,
}

impl ReadQueue {
    pub(super) fn push(&mut self, outbox: OutboxId) {
        if self.in_progress.contains(&outbox) {
            self.again.insert(outbox);
        } else if self.queued.insert(outbox.clone()) {
            let waiting = self.waiting.entry(outbox.app.clone()).or_default();
            if waiting.is_empty() {
                self.turns.push_back(outbox.app);
            }
            waiting.push_back(outbox.partition);
        }
    }

    /// The next outbox, whose read is in progress until [`ReadQueue::finish`].
    pub(super) fn next(&mut self) -> Option<OutboxId> {
        let app = self.turns.pop_front()?;
        let waiting = self.waiting.get_mut(&app)?;
        let partition = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&app);
        } else {
            self.turns.push_back(app.clone());
        }
        let outbox = OutboxId { partition, app };
        self.queued.remove(&outbox);
        self.in_progress.insert(outbox.clone());
        Some(outbox)
    }

    /// Records the end of a read. Queues the outbox again if that was requested during it.
    pub(super) fn finish(&mut self, outbox: &OutboxId) {
        self.in_progress.remove(outbox);
        if self.again.remove(outbox) {
            self.push(outbox.clone());
        }
    }

    /// Removes the waiting outboxes of a partition. Reads in progress may end.
    pub(super) fn cancel(&mut self, partition: Partition) {
        self.queued.retain(|outbox| outbox.partition != partition);
        self.again.retain(|outbox| outbox.partition != partition);
        self.waiting.retain(|_, waiting| {
            waiting.retain(|other| *other != partition);
            !waiting.is_empty()
        });
        self.turns.retain(|app| self.waiting.contains_key(app));
    }

    pub(super) fn reads(&self) -> usize {
        self.in_progress.len()
    }

    pub(super) fn is_reading(&self, partition: Partition) -> bool {
        self.in_progress.iter().any(|outbox| outbox.partition == partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outbox(app: &str, partition: u8) -> OutboxId {
        OutboxId { partition: Partition(partition), app: app.into() }
    }

    fn all(queue: &mut ReadQueue) -> Vec<OutboxId> {
        std::iter::from_fn(|| queue.next()).collect()
    }

    #[test]
    fn apps_take_turns() {
        let mut queue = ReadQueue::default();
        for partition in 0..3 {
            queue.push(outbox("a", partition));
            queue.push(outbox("a", partition));
        }
        queue.push(outbox("b", 9));
        let expected = [("a", 0), ("b", 9), ("a", 1), ("a", 2)].map(|(app, n)| outbox(app, n));
        assert_eq!(all(&mut queue), expected);
        assert_eq!(queue.reads(), 4);
    }

    #[test]
    fn outbox_has_at_most_one_read_in_progress() {
        let mut queue = ReadQueue::default();
        queue.push(outbox("a", 1));
        assert_eq!(queue.next(), Some(outbox("a", 1)));
        queue.push(outbox("a", 1));
        assert_eq!(queue.next(), None);
        queue.finish(&outbox("a", 1));
        assert_eq!(queue.next(), Some(outbox("a", 1)));
        queue.finish(&outbox("a", 1));
        assert_eq!((queue.next(), queue.reads()), (None, 0));
    }

    #[test]
    fn cancelled_partition_is_not_read() {
        let mut queue = ReadQueue::default();
        for (app, partition) in [("a", 1), ("b", 1), ("a", 2), ("c", 1)] {
            queue.push(outbox(app, partition));
        }
        let reading = queue.next().expect("an outbox");
        queue.push(reading.clone());
        queue.cancel(Partition(1));
        assert!(queue.is_reading(Partition(1)));
        queue.finish(&reading);
        assert_eq!(all(&mut queue), [outbox("a", 2)]);
    }
}
