//! Joining without a hole, and leaving (design.md 4): listened to, counted,
//! placed, and let in at exactly the point that the script has named.

use std::collections::hash_map::Entry;
use std::time::Instant;

use bytes::Bytes;

use super::channel::{Channel, Joiner, Listening, Stage, Waits};
use super::resume::Past;
use super::{Desk, Done};
use crate::app::App;
use crate::backend::{BackendError, Rules};
use crate::channel::{Address, ChannelKind};
use crate::delta::Algorithm;
use crate::event::SocketId;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;

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
        channel.deltas = app.deltas.on(address.channel(), &self.delta);
        channel
    }

    pub(super) fn subscribe(&mut self, address: Address, socket: SocketId, mut joiner: Joiner) {
        let channel = self.channels.get_mut(&address).expect("the caller has made it");
        channel.idle_since = None;
        if let Some(seated) = channel.hub.remove(socket) {
            joiner.subscriber.member = seated.member;
            return self.begin_anew(&address, socket, joiner);
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

    /// The socket has opted in to deltas while it is subscribed.
    pub(super) fn enable_deltas(&mut self, address: &Address, socket: SocketId, algorithm: Algorithm) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        if let Some(joiner) = channel.joining.get_mut(&socket) {
            joiner.subscriber.form.algorithm.get_or_insert(algorithm);
            return;
        }
        if !channel.hub.is_without_deltas(socket) {
            return;
        }
        let Some(mut subscriber) = channel.hub.remove(socket) else { return };
        subscriber.form.algorithm = Some(algorithm);
        let (confirmation, past, stage) = (Bytes::new(), Past::Unsaid, Stage::Waiting);
        self.begin_anew(address, socket, Joiner { subscriber, confirmation, succeeds: false, past, stage });
    }

    /// One who was here asks for something else: it is counted already, and begins
    /// anew from where the channel stands.
    fn begin_anew(&mut self, address: &Address, socket: SocketId, mut joiner: Joiner) {
        let Some(channel) = self.channels.get_mut(address) else { return };
        let at = channel.order.position().unwrap_or_default();
        joiner.stage = Stage::Placed { at, total: None, last: None, waits: Waits::No };
        channel.recent.get_or_insert_default();
        channel.joining.insert(socket, joiner);
        self.joining += 1;
        self.admit(address);
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
        let Some(channel) = self.channels.get(address) else { return };
        let (mut arrived, mut wants_replay, mut wants_snapshot) = (Vec::new(), false, false);
        let mut is_anyone_placed = false;
        for (socket, joiner) in &channel.joining {
            let Stage::Placed { at, waits, .. } = joiner.stage else { continue };
            let (is_seeking, lacks_snapshot) = (!joiner.past.is_known(), channel.lacks_snapshot(joiner));
            is_anyone_placed = true;
            wants_replay |= is_seeking;
            wants_snapshot |= lacks_snapshot;
            let has_all = waits == Waits::No || channel.order.has_passed(at);
            if has_all && !is_seeking && !lacks_snapshot {
                arrived.push(*socket);
            }
        }
        if channel.presence.as_ref().is_some_and(|presence| !presence.is_known()) {
            if is_anyone_placed {
                self.want_roster(address);
            }
            return;
        }
        if wants_replay {
            self.want_replay(address);
        }
        if wants_snapshot {
            self.want_snapshot(address);
        }
        for socket in arrived {
            self.enter(address, socket);
        }
        if let Some(channel) = self.channels.get_mut(address) {
            channel.drop_recent();
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
