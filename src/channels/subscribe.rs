//! Subscribing without a gap, and unsubscribing (design.md 4): the node listens to the
//! topic, reports the subscription, and admits it exactly at the position that the
//! script returned.

use std::collections::hash_map;
use std::time::Instant;

use bytes::Bytes;

use super::channel::{Channel, Listening, PendingSubscription, State, Waits};
use super::recovery::Recovery;
use super::{Channels, JobResult};
use crate::app::App;
use crate::backend::{BackendError, MembershipRules};
use crate::channel::{ChannelId, ChannelKind};
use crate::delta::Algorithm;
use crate::event::SocketId;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::close::Close;

impl Channels {
    /// Returns the channel with the app's current settings; creates it if needed.
    pub(super) fn channel_of(&mut self, channel_id: &ChannelId, app: &App) -> &mut Channel {
        let channel = match self.channels.entry(channel_id.clone()) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => {
                let kind = channel_id.kind();
                entry.insert(Channel {
                    presence: (kind == ChannelKind::Presence).then(Box::default),
                    watch: (kind == ChannelKind::User).then(Box::default),
                    ..Channel::default()
                })
            }
        };
        channel.rules = MembershipRules::from(app);
        channel.deltas = app.deltas.on(channel_id.channel(), &self.delta);
        channel
    }

    pub(super) fn subscribe(
        &mut self,
        channel_id: ChannelId,
        socket: SocketId,
        mut pending: PendingSubscription,
    ) {
        let channel = self.channels.get_mut(&channel_id).expect("the caller has created the channel");
        channel.idle_since = None;
        if let Some(live) = channel.subscribers.remove(socket) {
            pending.subscriber.member = live.member;
            return self.restart_subscription(&channel_id, socket, pending);
        }
        if let Some(earlier) = channel.pending.remove(&socket) {
            pending.confirmation = [earlier.confirmation, pending.confirmation].concat().into();
            pending.state = earlier.state;
            pending.subscriber.member = earlier.subscriber.member;
        } else if self.pending >= limits::PENDING_MAX {
            metrics().pending_subscription_overflows.increment(1);
            pending.subscriber.write_buffer.close(Close::OverCapacity);
            self.mark_if_idle(&channel_id);
            return;
        } else {
            self.pending += 1;
            if let (Some(presence), Some(member)) = (&mut channel.presence, &pending.subscriber.member) {
                presence.add_connection(member);
            }
        }
        channel.pending.insert(socket, pending);
        self.join(channel_id);
    }

    /// Enables deltas for a subscribed connection. A live subscription restarts.
    pub(super) fn enable_deltas(&mut self, channel_id: &ChannelId, socket: SocketId, algorithm: Algorithm) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        if let Some(pending) = channel.pending.get_mut(&socket) {
            pending.subscriber.options.algorithm.get_or_insert(algorithm);
            return;
        }
        if !channel.subscribers.is_without_deltas(socket) {
            return;
        }
        let Some(mut subscriber) = channel.subscribers.remove(socket) else { return };
        subscriber.options.algorithm = Some(algorithm);
        let (confirmation, recovery, state) = (Bytes::new(), Recovery::NotRequested, State::Unreported);
        self.restart_subscription(
            channel_id,
            socket,
            PendingSubscription { subscriber, confirmation, succeeds: false, recovery, state },
        );
    }

    /// Restarts a live subscription with other options. It is counted already, and
    /// begins at the channel's current position.
    fn restart_subscription(
        &mut self,
        channel_id: &ChannelId,
        socket: SocketId,
        mut pending: PendingSubscription,
    ) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let at = channel.sequencer.position().unwrap_or_default();
        pending.state = State::Registered { at, total: None, last: None, waits: Waits::No };
        channel.catch_up_buffer.get_or_insert_default();
        channel.pending.insert(socket, pending);
        self.pending += 1;
        self.admit(channel_id);
    }

    /// Starts the next step for pending subscriptions or watchers: listening to the
    /// topic, then a membership update.
    pub(super) fn join(&mut self, channel_id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        match channel.listening {
            Listening::Requested => {}
            Listening::Yes => self.queue_membership_update(channel_id),
            Listening::No => {
                channel.listening = Listening::Requested;
                let backend = self.backend.clone();
                self.jobs.spawn(async move {
                    let result = backend.listen(&channel_id).await;
                    JobResult::Listened(channel_id, result)
                });
            }
        }
    }

    pub(super) fn on_listened(&mut self, channel_id: ChannelId, result: Result<(), BackendError>) {
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        match result {
            Ok(()) => {
                channel.listening = Listening::Yes;
                self.queue_membership_update(channel_id);
            }
            Err(error) => {
                tracing::debug!(%channel_id, %error, "topic not subscribed; will be retried");
                channel.listening = Listening::No;
                self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id));
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, channel_id: &ChannelId, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let pending = channel.pending.remove(&socket).map(|pending| pending.subscriber);
        self.pending -= usize::from(pending.is_some());
        let Some(subscriber) = pending.or_else(|| channel.subscribers.remove(socket)) else { return };
        if let (Some(presence), Some(member)) = (&mut channel.presence, &subscriber.member) {
            presence.remove_connection(member);
        }
        self.mark_if_idle(channel_id);
        self.queue_membership_update(channel_id.clone());
    }

    /// Admits all pending subscriptions that wait for nothing more, and requests the
    /// reads that others wait for.
    pub(super) fn admit(&mut self, channel_id: &ChannelId) {
        let Some(channel) = self.channels.get(channel_id) else { return };
        let (mut ready, mut recovery_needed, mut bases_needed) = (Vec::new(), false, false);
        let mut has_registered = false;
        for (socket, pending) in &channel.pending {
            let State::Registered { at, waits, .. } = pending.state else { continue };
            let (awaits_recovery, awaits_bases) =
                (!pending.recovery.is_known(), channel.needs_initial_bases(pending));
            has_registered = true;
            recovery_needed |= awaits_recovery;
            bases_needed |= awaits_bases;
            let is_caught_up = waits == Waits::No || channel.sequencer.has_passed(at);
            if is_caught_up && !awaits_recovery && !awaits_bases {
                ready.push(*socket);
            }
        }
        if channel.presence.as_ref().is_some_and(|presence| !presence.is_known()) {
            if has_registered {
                self.request_roster(channel_id);
            }
            return;
        }
        if recovery_needed {
            self.request_recovery(channel_id);
        }
        if bases_needed {
            self.request_initial_bases(channel_id);
        }
        for socket in ready {
            self.admit_one(channel_id, socket);
        }
        if let Some(channel) = self.channels.get_mut(channel_id) {
            channel.trim_catch_up_buffer();
        }
    }

    /// Starts the linger time of a channel without subscribers and watchers.
    pub(super) fn mark_if_idle(&mut self, channel_id: &ChannelId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        if channel.is_unused() {
            let now = Instant::now();
            channel.idle_since = Some(now);
            self.idle.push_back((now, channel_id.clone()));
        }
    }

    pub(super) fn remove_idle(&mut self, now: Instant) {
        while self.idle.front().is_some_and(|(since, _)| now.duration_since(*since) >= limits::LINGER) {
            let (_, channel_id) = self.idle.pop_front().expect("the front was checked");
            let Some(channel) = self.channels.get(&channel_id) else { continue };
            if channel.is_removable(now) {
                if channel.listening == Listening::Yes {
                    self.backend.unlisten(&channel_id);
                }
                self.channels.remove(&channel_id);
            } else if channel.is_unused() {
                // A call is in flight, or an update is due: checked again later.
                self.idle.push_back((now, channel_id.clone()));
                self.queue_membership_update(channel_id);
            }
        }
    }
}
