//! A queue of channels that is fair to apps, and to the sockets of an app.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use crate::capacity::Shrink;
use crate::channel::ChannelId;
use crate::event::SocketId;

/// Channels that wait for a job of one kind. Taken round robin by app, then by requester:
/// a socket with ten thousand subscriptions delays its own jobs, and no others.
///
/// A requester is in the queue once per channel, so its length is bounded by the node's
/// subscriptions. Jobs without a requester, such as departures, take turns like those of
/// one socket.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    apps: RoundRobin<Box<str>, RoundRobin<Option<SocketId>, VecDeque<ChannelId>>>,
    queued: HashSet<(Option<SocketId>, ChannelId)>,
}

impl FairQueue {
    /// Appends the channel, unless the requester already waits for it.
    pub(super) fn push(&mut self, channel_id: &ChannelId, requester: Option<SocketId>) {
        if self.queued.insert((requester, channel_id.clone())) {
            let sockets = self.apps.queue(channel_id.app().into());
            sockets.queue(requester).push_back(channel_id.clone());
        }
    }

    pub(super) fn pop(&mut self) -> Option<ChannelId> {
        let next = self.apps.take_turn(|sockets| {
            let next = sockets.take_turn(|channels| (channels.pop_front(), channels.is_empty()));
            (next, sockets.is_empty())
        });
        let (_, (requester, channel_id)) = next?;
        let key = (requester, channel_id);
        self.queued.remove(&key);
        self.queued.shrink_if_sparse();
        Some(key.1)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.queued.len()
    }
}

/// Queues that take turns. An empty queue is removed.
#[derive(Debug)]
struct RoundRobin<K, Q> {
    turns: VecDeque<K>,
    queues: HashMap<K, Q>,
}

impl<K, Q> Default for RoundRobin<K, Q> {
    fn default() -> RoundRobin<K, Q> {
        RoundRobin { turns: VecDeque::new(), queues: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash, Q: Default> RoundRobin<K, Q> {
    fn queue(&mut self, key: K) -> &mut Q {
        if !self.queues.contains_key(&key) {
            self.turns.push_back(key.clone());
        }
        self.queues.entry(key).or_default()
    }

    /// Takes from the queue whose turn it is. `take` returns what it has taken, and
    /// whether the queue is now empty.
    fn take_turn<T>(&mut self, take: impl FnOnce(&mut Q) -> (Option<T>, bool)) -> Option<(K, T)> {
        let key = self.turns.pop_front()?;
        let (taken, is_empty) = self.queues.get_mut(&key).map(take)?;
        if is_empty {
            self.queues.remove(&key);
            self.queues.shrink_if_sparse();
            self.turns.shrink_if_sparse();
        } else {
            self.turns.push_back(key.clone());
        }
        taken.map(|taken| (key, taken))
    }

    fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> ChannelId {
        ChannelId::from_wire(text).expect("a channel id")
    }

    fn socket(n: u32) -> Option<SocketId> {
        Some(SocketId::parse(&format!("1.{n}")).expect("a socket id"))
    }

    fn drain(queue: &mut FairQueue) -> Vec<String> {
        std::iter::from_fn(|| queue.pop()).map(|channel_id| channel_id.to_string()).collect()
    }

    #[test]
    fn queue_takes_turns_between_apps_and_then_sockets() {
        let mut queue = FairQueue::default();
        for n in 0..3 {
            queue.push(&id(&format!("a:flood-{n}")), socket(1));
        }
        queue.push(&id("a:other"), socket(2));
        queue.push(&id("a:left"), None);
        queue.push(&id("b:x"), socket(3));
        assert_eq!(queue.len(), 6);
        assert_eq!(drain(&mut queue), ["a:flood-0", "b:x", "a:other", "a:left", "a:flood-1", "a:flood-2"]);
        assert!(queue.is_empty());
    }

    #[test]
    fn requester_waits_once_per_channel() {
        let mut queue = FairQueue::default();
        for requester in [socket(1), socket(1), socket(2), None, None] {
            queue.push(&id("a:x"), requester);
        }
        assert_eq!(drain(&mut queue).len(), 3);
        queue.push(&id("a:x"), socket(1));
        assert_eq!(drain(&mut queue).len(), 1, "it can be queued again");
    }
}
