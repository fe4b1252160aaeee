//! Membership updates: this node reports its subscriptions as absolute numbers, one
//! script at a time per channel (design.md 5).

use std::collections::HashSet;

use bytes::Bytes;

use super::state::Channel;
use crate::backend::{BackendError, MembershipUpdate, UpdatedMembership, UserCount};
use crate::channel::ChannelName;
use crate::channels::context::{Context, Timer};
use crate::entry::{EntryId, Position};
use crate::event::SocketId;
use crate::limits;
use crate::metrics::metrics;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

impl Channel {
    /// Builds the next membership update: all live subscriptions, and the pending ones
    /// that one script can include.
    pub(super) fn prepare_membership_update(&mut self) -> Option<MembershipUpdate> {
        if !self.is_listening || !self.needs_membership_update() {
            return None;
        }
        let users = self.presence.as_mut().map(|presence| presence.take_dirty()).unwrap_or_default();
        let users_in_update: HashSet<&str> = users.iter().map(|user| &*user.member.user_id).collect();
        let since = self.sequencer.position();
        let includes_pending = self.pending.begin_report(since.unwrap_or_default(), |subscriber| {
            let member = subscriber.member.as_ref();
            member.is_none_or(|member| users_in_update.contains(&*member.user_id))
        });
        let waiting = self.pending.unreported().count() as u64;
        self.membership.is_stale = false;
        if since.is_some() && includes_pending {
            self.catch_up_buffer.get_or_insert_default();
        }
        // After this node's death, the sweep covers only channels with subscriptions: the
        // count stays at least 1 while departures are unreported.
        let count_min = self.presence.as_ref().is_some_and(|presence| presence.has_dirty_departures());
        Some(MembershipUpdate {
            channel_id: self.id.clone(),
            count: (self.count() - waiting).max(u64::from(count_min)),
            users,
            rules: self.membership.rules,
            wants_last: includes_pending && ChannelName::is_cache_name(self.name()),
            is_new: self.subscribers.is_empty() && self.pending.first_registered().is_none(),
        })
    }

    pub(super) fn on_membership_updated(
        &mut self,
        update: MembershipUpdate,
        result: Result<UpdatedMembership, BackendError>,
        context: &mut Context<'_>,
    ) {
        metrics().membership_updates.increment(1);
        let MembershipUpdate { count, users, .. } = update;
        let updated = match result {
            Ok(updated) => updated,
            Err(error) => return self.membership_update_failed(&users, &error, context),
        };
        if updated.is_refused {
            return self.reject_all(&users, context);
        }
        let refused: Vec<&UserCount> = updated.refused.iter().filter_map(|at| users.get(*at)).collect();
        self.membership.reported = Some(count - refused.iter().map(|user| user.count).sum::<u64>());
        let may_yet_arrive = self.membership.is_uncertain(context.now);
        if let Some(presence) = &mut self.presence {
            let accepted = users.iter().enumerate().filter(|(at, _)| !updated.refused.contains(at));
            accepted.for_each(|(_, user)| presence.acknowledge(user, may_yet_arrive));
        }
        self.reject_users(&refused, context);
        self.register(&updated, context);
        self.admit(context);
        self.queue_membership_update(context);
    }

    fn membership_update_failed(
        &mut self,
        users: &[UserCount],
        error: &BackendError,
        context: &mut Context<'_>,
    ) {
        tracing::debug!(channel_id = %self.id, %error, "membership not updated");
        self.pending.report_failed();
        self.membership.is_stale = true;
        self.membership.uncertain_until = Some(context.now + limits::LOG_AGE_MAX);
        self.trim_catch_up_buffer();
        if let Some(presence) = &mut self.presence {
            presence.mark_dirty(users);
        }
        self.set(Timer::Retry, context);
    }

    /// Rejects the reported subscriptions: the app has too many occupied channels. The script has
    /// counted nobody.
    fn reject_all(&mut self, users: &[UserCount], context: &mut Context<'_>) {
        self.membership.reported = Some(0);
        let error = self.too_many_channels();
        let sockets = self.pending.reported();
        metrics().channels_refused.increment(sockets.len() as u64);
        self.reject(sockets, &error, context);
        if let Some(presence) = &mut self.presence {
            presence.mark_dirty(users);
        }
        self.trim_catch_up_buffer();
        self.queue_membership_update(context);
    }

    /// Rejects pending subscriptions of users for whom the presence channel is full.
    fn reject_users(&mut self, refused: &[&UserCount], context: &mut Context<'_>) {
        if refused.is_empty() {
            return;
        }
        let members_max = self.membership.rules.members_max;
        let members = if members_max == 1 { "member" } else { "members" };
        let error = format!("presence channel is full (limit: {members_max} {members})");
        let is_refused = |user_id: &str| refused.iter().any(|user| *user.member.user_id == *user_id);
        let sockets = self.pending.reported_by(is_refused);
        metrics().members_refused.increment(sockets.len() as u64);
        self.reject(sockets, &error, context);
    }

    fn reject(&mut self, sockets: Vec<SocketId>, error: &str, context: &mut Context<'_>) {
        for socket in sockets {
            let Some(pending) = self.pending.remove(socket) else { continue };
            self.remove_connection(pending.subscriber.member.as_ref());
            let frame = self.refusal(pending.subscriber.options.event_prefix, error);
            context.reject(&pending.subscriber.write_buffer, self.name(), pending.attempt, frame);
        }
        self.mark_if_idle(context);
    }

    pub(super) fn refusal(&self, event_prefix: EventPrefix, error: &str) -> Bytes {
        reply::subscription_refused(event_prefix, self.name(), "LimitReached", error, 4100)
    }

    pub(super) fn too_many_channels(&self) -> String {
        let occupied_max = self.membership.rules.occupied_max;
        let channels = if occupied_max == 1 { "channel" } else { "channels" };
        format!("the app has too many occupied channels (limit: {occupied_max} {channels})")
    }

    /// The script has counted the reported subscriptions and returned the channel's
    /// position.
    fn register(&mut self, updated: &UpdatedMembership, context: &mut Context<'_>) {
        let held = self.sequencer.position().is_none().then(|| {
            self.toggle.policy.set(!updated.deltas_off);
            self.notified_epoch = updated.at.epoch;
            self.sequencer.reset_to(updated.at)
        });
        if self.pending.register(updated) {
            self.catch_up_buffer.get_or_insert_default();
        }
        if !self.sequencer.has_passed(updated.at) {
            self.observe_lag(updated.at, context);
        }
        self.apply_status(updated.total > 0, updated.at, context);
        self.sequence_held(held.unwrap_or_default(), context);
    }

    /// Applies the status that a membership update returned with position `at`. Entries
    /// handled after `at` are newer and take precedence.
    fn apply_status(&mut self, online: bool, at: Position, context: &mut Context<'_>) {
        let Some(watch) = &self.watch else { return };
        let is_known = at.id != EntryId::NONE;
        let position = self.sequencer.position();
        let is_newest = position.is_none_or(|position| position.id == at.id || !is_known);
        if watch.online.is_none() || is_newest || !self.sequencer.has_passed(at) {
            self.change_status(online, context);
        }
    }

    /// Reports the membership again, even if it has not changed: Redis may have lost it.
    pub(super) fn reconcile(&mut self, context: &mut Context<'_>) {
        self.membership.is_stale = true;
        if let Some(presence) = &mut self.presence {
            presence.mark_all_dirty();
        }
        self.retry(context);
    }
}

#[cfg(test)]
mod tests;
