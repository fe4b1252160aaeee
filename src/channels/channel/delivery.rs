//! Delivery of the next entry of a channel: its effect on the channel's state, and one
//! push per subscriber.

use super::state::Channel;
use crate::channels::body;
use crate::channels::context::{Context, Timer, UserEvent};
use crate::channels::job::JobKind;
use crate::encode::Delivery;
use crate::entry::{Body, Entry, Kind};
use crate::event::Event;
use crate::metrics::metrics;
use crate::presence::MemberChange;
use crate::subscribers::FanOutContext;
use crate::wire::close::Close;
use crate::wire::reply;

impl Channel {
    /// Delivers an entry to the subscribers and admits no pending subscription. Between
    /// entries of one history read, the sequencer's position is already that of the last
    /// one: an admission would take entries for delivered that are not.
    pub(super) fn deliver(&mut self, entry: &Entry, context: &mut Context<'_>) {
        self.send_epoch_notices(entry, context);
        let body = body::read(&self.id, entry);
        if let Some(catch_up_buffer) = &mut self.catch_up_buffer {
            catch_up_buffer.push(entry.clone(), body.clone());
        }
        match body {
            Some(Body::Events(events) | Body::ClientEvents(events)) => {
                self.deliver_events(entry, &events, context);
            }
            Some(body) => {
                self.apply(body, context);
                self.subscribers.groups().mark_all_behind();
            }
            None => self.subscribers.groups().restart(),
        }
        if self.subscribers.groups().is_behind() {
            self.set(Timer::Position, context);
        }
    }

    fn deliver_events(&mut self, entry: &Entry, events: &[Event], context: &mut Context<'_>) {
        let is_chained = entry.kind == Kind::Events;
        if let Some(initial_bases) = self.initial_bases.as_mut().filter(|_| is_chained) {
            initial_bases.record(entry, events, &self.deltas);
        }
        let Entry { first_seq, time_ms, .. } = *entry;
        let delivery = Delivery { channel: self.id.channel(), first_seq, time_ms, events, is_chained };
        let mut fan_out = FanOutContext::new(context.config, &self.deltas, &mut self.toggle.policy);
        let deliveries = self.subscribers.deliver(&delivery, &mut fan_out, &mut context.effects.to_flush);
        context.effects.filter_time += fan_out.filter_time;
        if let Some(app_metrics) = &self.app_metrics {
            app_metrics.deliveries.increment(deliveries as u64);
        }
        if is_chained && self.toggle.decides() {
            context.start(JobKind::ToggleDeltas, None);
        }
    }

    /// Applies an entry without events.
    fn apply(&mut self, body: Body, context: &mut Context<'_>) {
        match body {
            Body::Members(changes) => {
                for change in changes {
                    if self.presence.as_mut().is_some_and(|presence| presence.apply(&change)) {
                        self.broadcast_member_change(&change, context);
                    }
                }
            }
            Body::SubscriptionCount(count) => {
                let channel = self.id.channel();
                let frame = |event_prefix| reply::subscription_count(event_prefix, channel, count);
                self.subscribers.broadcast(frame, &mut context.effects.to_flush);
            }
            Body::Termination => {
                // The connections of pending subscriptions are signed in as the user too.
                let pending = self.pending.iter().map(|(_, pending)| &pending.subscriber.write_buffer);
                for write_buffer in self.subscribers.write_buffers().chain(pending) {
                    write_buffer.close(Close::Terminated);
                }
            }
            Body::UserStatus { online } => self.change_status(online, context),
            Body::Deltas { on } => {
                metrics().delta_toggles.increment(1);
                tracing::debug!(channel_id = %self.id, on, "delta toggle changed");
                self.toggle.policy.set(on);
            }
            Body::Events(_) | Body::ClientEvents(_) | Body::Unknown => {}
        }
    }

    /// Sets the status of the user and reports a change.
    pub(super) fn change_status(&mut self, online: bool, context: &mut Context<'_>) {
        let Some(watch) = &mut self.watch else { return };
        if watch.online.replace(online) != Some(online) {
            context.emit(UserEvent::Status { online });
        }
    }

    /// Sends `member_added` or `member_removed` to all subscribers.
    pub(super) fn broadcast_member_change(&self, change: &MemberChange, context: &mut Context<'_>) {
        let channel = self.id.channel();
        let frame = |event_prefix| match change {
            MemberChange::Added { user_id, info } => {
                reply::member_added(event_prefix, channel, user_id, info)
            }
            MemberChange::Removed { user_id } => reply::member_removed(event_prefix, channel, user_id),
        };
        self.subscribers.broadcast(frame, &mut context.effects.to_flush);
    }
}
