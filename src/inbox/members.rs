//! Who is here on this node, and what the cluster is told of it: joining without
//! a hole, leaving, and asserting the number of subscriptions (design.md 4, 5).

use std::collections::VecDeque;
use std::time::Instant;

use super::channel::{Joiner, Listening, Queued};
use super::delivery::{enter, send};
use super::{Desk, Done};
use crate::backend::{Asserted, BackendError};
use crate::channel::Address;
use crate::event::{Position, SocketId};
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;

/// Channels whose membership is to be asserted.
#[derive(Debug)]
pub(super) struct Assertions {
    /// Those that someone waits for go first, so that a mass disconnect blocks
    /// nobody.
    joins: VecDeque<Address>,
    others: VecDeque<Address>,
    under_way: usize,
    /// The backend was away a moment ago: no assertion until then.
    rested_until: Option<Instant>,
    /// When all of them were last asserted, whether it was needed or not.
    pub(super) all_at: Instant,
}

impl Assertions {
    pub(super) fn new() -> Assertions {
        Assertions {
            joins: VecDeque::new(),
            others: VecDeque::new(),
            under_way: 0,
            rested_until: None,
            all_at: Instant::now(),
        }
    }
}

impl Desk {
    pub(super) fn subscribe(&mut self, address: Address, socket: SocketId, mut joiner: Joiner) {
        let channel = self.channels.get_mut(&address).expect("the caller has made it");
        channel.idle_since = None;
        if channel.hub.contains(socket) {
            // Again, while subscribed: answered, and a fresh start for deltas.
            send(&joiner.subscriber.outbox, joiner.confirmation, &mut self.woken);
            channel.hub.add(socket, joiner.subscriber);
            return;
        }
        if let Some(earlier) = channel.joining.remove(&socket) {
            joiner.confirmation = [earlier.confirmation, joiner.confirmation].concat().into();
            joiner.counted = earlier.counted;
        } else if self.joining >= limits::PENDING_MAX {
            metrics().pending_overflows.increment(1);
            joiner.subscriber.outbox.close(Close::OverCapacity);
            self.forget_if_idle(&address);
            return;
        } else {
            self.joining += 1;
        }
        channel.joining.insert(socket, joiner);
        self.join(address);
    }

    /// The channel has joiners: has it listened to, then asserted.
    pub(super) fn join(&mut self, address: Address) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        match channel.listening {
            Listening::Asked => {}
            Listening::Yes => self.queue_assertion(address),
            Listening::No => {
                channel.listening = Listening::Asked;
                let backend = self.backend.clone();
                self.calls.spawn(async move {
                    let result = backend.listen(&address).await;
                    Done::Listened(address, result)
                });
            }
        }
    }

    pub(super) fn listened(&mut self, address: Address, result: Result<(), BackendError>) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        match result {
            Ok(()) => {
                channel.listening = Listening::Yes;
                self.queue_assertion(address);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "not listened to yet");
                channel.listening = Listening::No;
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, address));
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, address: &Address, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let was_joining = channel.joining.remove(&socket).is_some();
        self.joining -= usize::from(was_joining);
        if !was_joining && channel.hub.remove(socket).is_none() {
            return;
        }
        self.forget_if_idle(address);
        self.queue_assertion(address.clone());
    }

    /// Nobody is here any more: the channel lingers, and is then forgotten.
    fn forget_if_idle(&mut self, address: &Address) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        if channel.count() == 0 {
            let now = Instant::now();
            channel.idle_since = Some(now);
            self.idle.push_back((now, address.clone()));
        }
    }

    pub(super) fn queue_assertion(&mut self, address: Address) {
        let Some(channel) = self.channels.get_mut(&address) else { return };
        if channel.listening != Listening::Yes || !channel.needs_assertion() {
            return;
        }
        let wanted = if channel.joining.is_empty() { Queued::Last } else { Queued::First };
        if channel.membership.queued >= wanted {
            return;
        }
        channel.membership.queued = wanted;
        match wanted {
            Queued::First => self.assertions.joins.push_back(address),
            _ => self.assertions.others.push_back(address),
        }
    }

    pub(super) fn start_assertions(&mut self) {
        if self.assertions.rested_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        while self.assertions.under_way < limits::ASSERTIONS_MAX {
            let Some(address) =
                self.assertions.joins.pop_front().or_else(|| self.assertions.others.pop_front())
            else {
                return;
            };
            let Some(channel) = self.channels.get_mut(&address) else { continue };
            channel.membership.queued = Queued::No;
            if !channel.needs_assertion() {
                continue;
            }
            let count = channel.begin_assertion();
            self.assertions.under_way += 1;
            let backend = self.backend.clone();
            self.calls.spawn(async move {
                let result = backend.assert_subscriptions(&address, count).await;
                Done::Asserted(address, count, result)
            });
        }
    }

    pub(super) fn asserted(&mut self, address: Address, count: u64, result: Result<Asserted, BackendError>) {
        self.assertions.under_way -= 1;
        metrics().assertions.increment(1);
        let Some(channel) = self.channels.get_mut(&address) else { return };
        channel.membership.under_way = None;
        match result {
            Ok(asserted) => {
                channel.membership.asserted = Some(count);
                self.admit(&address, asserted.at);
                self.queue_assertion(address);
            }
            Err(error) => {
                tracing::debug!(%address, %error, "membership not asserted");
                channel.assertion_failed(Instant::now());
                let retry = Instant::now() + limits::RETRY_DELAY;
                self.assertions.rested_until = Some(retry);
                self.retries.push_back((retry, address));
            }
        }
    }

    /// Lets everyone in whom the script has counted; it has said `at`.
    fn admit(&mut self, address: &Address, at: Position) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let held = match channel.order.position() {
            None => channel.order.adopt(at),
            Some(_) => VecDeque::new(),
        };
        let entry = channel.entry(at);
        channel.recent = None;
        let counted: Vec<SocketId> =
            channel.joining.iter().filter(|(_, joiner)| joiner.counted).map(|(socket, _)| *socket).collect();
        self.joining -= counted.len();
        for socket in counted {
            let joiner = channel.joining.remove(&socket).expect("it was just seen");
            enter(address, channel, socket, joiner, &entry, &self.delta, &mut self.woken);
        }
        self.hear_again(address, held);
    }

    /// After a reconnect, or when Redis may have lost its data.
    pub(super) fn assert_all(&mut self) {
        self.assertions.all_at = Instant::now();
        self.assertions.rested_until = None;
        for channel in self.channels.values_mut() {
            channel.membership.stale = true;
        }
        let addresses: Vec<Address> = self.channels.keys().cloned().collect();
        for address in addresses {
            self.retry(address);
        }
    }

    pub(super) fn forget_idle(&mut self, now: Instant) {
        while self.idle.front().is_some_and(|(since, _)| now.duration_since(*since) >= limits::LINGER) {
            let (_, address) = self.idle.pop_front().expect("it was just seen");
            let Some(channel) = self.channels.get(&address) else { continue };
            if channel.is_forgettable(now) {
                if channel.listening == Listening::Yes {
                    self.backend.unlisten(&address);
                }
                self.channels.remove(&address);
            } else if channel.count() == 0 {
                // Not yet: something is under way. Looked at again.
                self.idle.push_back((now, address.clone()));
                self.queue_assertion(address);
            }
        }
    }
}
