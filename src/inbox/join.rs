//! Joining without a hole, and leaving (design.md 4): listened to, counted,
//! placed, and let in at exactly the point that the script has named.

use std::collections::hash_map::Entry;
use std::time::Instant;

use super::channel::{Channel, Joiner, Listening, Stage};
use super::delivery::{cached_frame, missed_frames, tell_change};
use super::{Desk, Done};
use crate::app::App;
use crate::backend::{BackendError, Rules};
use crate::channel::{Address, ChannelKind, ChannelName};
use crate::event::SocketId;
use crate::hub::{Form, push};
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;
use crate::wire::reply;

impl Desk {
    /// The channel, as the app's settings have it now.
    pub(super) fn channel_of(&mut self, address: &Address, app: &App) -> &mut Channel {
        let channel = match self.channels.entry(address.clone()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let kind = address.kind();
                entry.insert(Channel {
                    presence: (kind == ChannelKind::Presence).then(Box::default),
                    watch: (kind == ChannelKind::User).then(Box::default),
                    ..Channel::default()
                })
            }
        };
        channel.rules = Rules::from(app);
        channel
    }

    pub(super) fn subscribe(&mut self, address: Address, socket: SocketId, mut joiner: Joiner) {
        let channel = self.channels.get_mut(&address).expect("the caller has made it");
        channel.idle_since = None;
        if channel.hub.contains(socket) {
            // Again, while subscribed: answered, and a fresh start for deltas.
            joiner.subscriber.member = channel.hub.member(socket).cloned();
            if let Some(presence) = &mut channel.presence {
                push(&joiner.subscriber.outbox, presence.succeeded(address.channel()), &mut self.woken);
            }
            push(&joiner.subscriber.outbox, joiner.confirmation, &mut self.woken);
            channel.hub.add(socket, joiner.subscriber);
            return;
        }
        if let Some(earlier) = channel.joining.remove(&socket) {
            joiner.confirmation = [earlier.confirmation, joiner.confirmation].concat().into();
            joiner.stage = earlier.stage;
            joiner.subscriber.member = earlier.subscriber.member;
        } else if self.joining >= limits::PENDING_MAX {
            metrics().pending_overflows.increment(1);
            joiner.subscriber.outbox.close(Close::OverCapacity);
            self.forget_if_idle(&address);
            return;
        } else {
            self.joining += 1;
            if let (Some(presence), Some(member)) = (&mut channel.presence, &joiner.subscriber.member) {
                presence.come(member);
            }
        }
        channel.joining.insert(socket, joiner);
        self.join(address);
    }

    /// Someone waits for the channel: has it listened to, then asserted.
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
        let joiner = channel.joining.remove(&socket).map(|joiner| joiner.subscriber);
        self.joining -= usize::from(joiner.is_some());
        let Some(subscriber) = joiner.or_else(|| channel.hub.remove(socket)) else { return };
        if let (Some(presence), Some(member)) = (&mut channel.presence, &subscriber.member) {
            presence.leave(member);
        }
        self.forget_if_idle(address);
        self.queue_assertion(address.clone());
    }

    /// Lets everyone in who waits for nothing any more.
    pub(super) fn admit(&mut self, address: &Address) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        if channel.presence.as_ref().is_some_and(|presence| !presence.is_known()) {
            if channel.joining.values().any(|joiner| matches!(joiner.stage, Stage::Placed { .. })) {
                self.want_roster(address);
            }
            return;
        }
        let order = &channel.order;
        let arrived = channel.joining.iter().filter(|(_, joiner)| match &joiner.stage {
            Stage::Placed { at, waits, .. } => !waits || order.has_passed(*at),
            Stage::Waiting | Stage::Counted { .. } => false,
        });
        let arrived: Vec<SocketId> = arrived.map(|(socket, _)| *socket).collect();
        for socket in arrived {
            self.enter(address, socket);
        }
        if let Some(channel) = self.channels.get_mut(address) {
            channel.drop_recent();
        }
    }

    /// A joiner is confirmed, gets what everyone else has had since its script, and
    /// is live.
    fn enter(&mut self, address: &Address, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let Some(Joiner { mut subscriber, confirmation, stage }) = channel.joining.remove(&socket) else {
            return;
        };
        self.joining -= 1;
        let Stage::Placed { at, total, last, .. } = stage else { return };
        let (outbox, form) = (subscriber.outbox.clone(), subscriber.form);
        if let Some(presence) = &mut channel.presence {
            if let Some(change) = subscriber.member.as_ref().and_then(|member| presence.let_in(member)) {
                tell_change(address, &channel.hub, &change, &mut self.woken);
            }
            push(&outbox, presence.succeeded(address.channel()), &mut self.woken);
        }
        push(&outbox, confirmation, &mut self.woken);
        if ChannelName::is_cache_name(address.channel()) {
            let frame = match last {
                Some(cached) => cached_frame(address, &cached, socket, form, &self.delta),
                None => reply::cache_miss(address.channel()),
            };
            push(&outbox, frame, &mut self.woken);
        }
        if channel.tells_counts() {
            // What its own coming has announced came before it was let in.
            push(&outbox, reply::subscription_count(address.channel(), total), &mut self.woken);
        }
        for announcement in channel.missed_since(at) {
            let frames = missed_frames(address, &announcement, socket, form, &self.delta);
            push(&outbox, frames, &mut self.woken);
        }
        if let Form::Chained { holds_from } = &mut subscriber.form {
            *holds_from = channel.chain.next_index();
        }
        let is_user = channel.watch.is_some();
        channel.hub.add(socket, subscriber);
        if is_user {
            self.finish_look(socket);
        }
    }

    /// Nobody is here any more: the channel lingers, and is then forgotten.
    pub(super) fn forget_if_idle(&mut self, address: &Address) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        if channel.is_deserted() {
            let now = Instant::now();
            channel.idle_since = Some(now);
            self.idle.push_back((now, address.clone()));
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
            } else if channel.is_deserted() {
                // Not yet: something is under way. Looked at again.
                self.idle.push_back((now, address.clone()));
                self.queue_assertion(address);
            }
        }
    }
}
