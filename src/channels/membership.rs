//! Membership updates: this node reports its subscriptions as absolute numbers, one
//! script at a time per channel, channels with pending subscriptions first (design.md
//! 5).

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use super::channel::{CatchUpBuffer, Channel, Listening, PendingSubscription, Queued, State, Waits};
use super::{Channels, JobResult};
use crate::backend::{BackendError, MembershipUpdate, UpdatedMembership, UserCount};
use crate::channel::{ChannelId, ChannelName};
use crate::limits;
use crate::metrics::metrics;
use crate::sockets::push;
use crate::subscribers::Subscriber;
use crate::wire::reply;

/// Queues of channels with a membership update to send.
#[derive(Debug)]
pub(super) struct MembershipUpdates {
    /// Channels with pending subscriptions come first, so that a mass disconnect delays
    /// no new subscriber.
    joins: VecDeque<ChannelId>,
    others: VecDeque<ChannelId>,
    in_flight: usize,
    /// After a failed update, no further one is sent before this time.
    paused_until: Option<Instant>,
    /// Start of the last report of all channels, which also repeats unchanged numbers.
    pub(super) last_full_report: Instant,
}

impl MembershipUpdates {
    pub(super) fn new() -> MembershipUpdates {
        MembershipUpdates {
            joins: VecDeque::new(),
            others: VecDeque::new(),
            in_flight: 0,
            paused_until: None,
            last_full_report: Instant::now(),
        }
    }
}

impl Channel {
    /// Builds the next membership update: all live subscriptions, and the pending ones
    /// that one script can include.
    fn begin_membership_update(&mut self, channel_id: &ChannelId) -> MembershipUpdate {
        let users = self.presence.as_mut().map(|presence| presence.take_dirty()).unwrap_or_default();
        let users_in_update: HashSet<&str> = users.iter().map(|user| &*user.member.user_id).collect();
        let since = self.sequencer.position().unwrap_or_default();
        for pending in self.pending.values_mut().filter(|pending| pending.state == State::Unreported) {
            let member = pending.subscriber.member.as_ref();
            if member.is_none_or(|member| users_in_update.contains(&*member.user_id)) {
                pending.state = State::Reporting { since };
            }
        }
        let waiting = self.pending.values().filter(|pending| pending.state == State::Unreported).count();
        let includes_pending = self.pending.values().any(PendingSubscription::is_reporting);
        self.membership.in_flight = true;
        self.membership.stale = false;
        if self.sequencer.position().is_some() && includes_pending {
            self.catch_up_buffer.get_or_insert_with(CatchUpBuffer::default);
        }
        // After this node's death, the sweep covers only channels with subscriptions: the
        // count stays at least 1 while departures are unreported.
        let count_min = self.presence.as_ref().is_some_and(|presence| presence.has_dirty_departures());
        MembershipUpdate {
            channel_id: channel_id.clone(),
            count: (self.count() - waiting as u64).max(u64::from(count_min)),
            users,
            rules: self.rules,
            wants_last: includes_pending && ChannelName::is_cache_name(channel_id.channel()),
        }
    }

    /// The script has counted the reported subscriptions and returned the channel's
    /// position.
    fn register(&mut self, updated: &UpdatedMembership) {
        for pending in self.pending.values_mut().filter(|pending| pending.is_reporting()) {
            let last = updated.last.clone().map(Box::new);
            pending.state =
                State::Registered { at: updated.at, total: Some(updated.total), last, waits: Waits::Yes };
        }
    }
}

impl Channels {
    pub(super) fn queue_membership_update(&mut self, channel_id: ChannelId) {
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        if channel.listening != Listening::Yes || !channel.needs_membership_update() {
            return;
        }
        let queue = if channel.is_awaited() { Queued::First } else { Queued::Last };
        if channel.membership.queued >= queue {
            return;
        }
        channel.membership.queued = queue;
        match queue {
            Queued::First => self.membership_updates.joins.push_back(channel_id),
            _ => self.membership_updates.others.push_back(channel_id),
        }
    }

    pub(super) fn start_membership_updates(&mut self) {
        if self.membership_updates.paused_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        while self.membership_updates.in_flight < limits::MEMBERSHIP_UPDATES_MAX {
            let Some(channel_id) = self
                .membership_updates
                .joins
                .pop_front()
                .or_else(|| self.membership_updates.others.pop_front())
            else {
                return;
            };
            let Some(channel) = self.channels.get_mut(&channel_id) else { continue };
            channel.membership.queued = Queued::No;
            if !channel.needs_membership_update() {
                continue;
            }
            let update = channel.begin_membership_update(&channel_id);
            self.membership_updates.in_flight += 1;
            let backend = self.backend.clone();
            self.jobs.spawn(async move {
                let result = backend.update_membership(&update).await;
                JobResult::MembershipUpdated(Box::new((update, result)))
            });
        }
    }

    pub(super) fn on_membership_updated(
        &mut self,
        update: MembershipUpdate,
        result: Result<UpdatedMembership, BackendError>,
    ) {
        self.membership_updates.in_flight -= 1;
        metrics().membership_updates.increment(1);
        let MembershipUpdate { channel_id, count, users, .. } = update;
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        channel.membership.in_flight = false;
        let updated = match result {
            Ok(updated) => updated,
            Err(error) => {
                tracing::debug!(%channel_id, %error, "membership not updated");
                channel.membership_update_failed(Instant::now());
                if let Some(presence) = &mut channel.presence {
                    presence.mark_dirty(&users);
                }
                let retry = Instant::now() + limits::RETRY_DELAY;
                self.membership_updates.paused_until = Some(retry);
                self.retries.push_back((retry, channel_id));
                return;
            }
        };
        let refused: Vec<&UserCount> = updated.refused.iter().filter_map(|at| users.get(*at)).collect();
        channel.membership.reported = Some(count - refused.iter().map(|user| user.count).sum::<u64>());
        let may_yet_arrive = channel.membership.is_uncertain(Instant::now());
        if let Some(presence) = &mut channel.presence {
            let admitted = users.iter().enumerate().filter(|(at, _)| !updated.refused.contains(at));
            for (_, user) in admitted {
                presence.acknowledge(user, may_yet_arrive);
            }
        }
        self.refuse(&channel_id, &refused);
        self.register(&channel_id, &updated);
        self.admit(&channel_id);
        self.queue_membership_update(channel_id);
    }

    /// Refuses pending subscriptions of users for whom the presence channel is full.
    fn refuse(&mut self, channel_id: &ChannelId, refused: &[&UserCount]) {
        if refused.is_empty() {
            return;
        }
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let members_max = channel.rules.members_max;
        let members = if members_max == 1 { "member" } else { "members" };
        let error = format!("presence channel is full (limit: {members_max} {members})");
        let frame = |event_prefix| {
            reply::subscription_refused(event_prefix, channel_id.channel(), "LimitReached", &error, 4100)
        };
        let is_refused = |user_id| refused.iter().any(|user| user.member.user_id == user_id);
        let counted = channel.pending.iter().filter(|(_, pending)| pending.is_reporting());
        let counted =
            counted.filter_map(|(socket, pending)| Some((*socket, pending.subscriber.member.clone()?)));
        let sockets: Vec<_> = counted.filter(|(_, member)| is_refused(member.user_id.clone())).collect();
        for (socket, member) in sockets {
            let Some(pending) = channel.pending.remove(&socket) else { continue };
            self.pending -= 1;
            metrics().members_refused.increment(1);
            member.refuse();
            if let Some(presence) = &mut channel.presence {
                presence.remove_connection(&member);
            }
            let Subscriber { write_buffer, options, .. } = pending.subscriber;
            push(&write_buffer, frame(options.event_prefix), &mut self.to_flush);
        }
        self.mark_if_idle(channel_id);
    }

    fn register(&mut self, channel_id: &ChannelId, updated: &UpdatedMembership) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let held = match channel.sequencer.position() {
            None => {
                channel.policy.set(!updated.deltas_off);
                channel.notified_epoch = updated.at.epoch;
                channel.sequencer.reset_to(updated.at)
            }
            Some(_) => VecDeque::new(),
        };
        channel.register(updated);
        if channel.pending.values().any(|pending| matches!(pending.state, State::Registered { .. })) {
            channel.catch_up_buffer.get_or_insert_with(CatchUpBuffer::default);
        }
        if !channel.sequencer.has_passed(updated.at) {
            self.observe_lag(channel_id, updated.at);
        }
        self.apply_status(channel_id, updated.total > 0, updated.at);
        self.sequence_held(channel_id, held);
    }

    /// Reports the memberships of all channels: every [`limits::MEMBERSHIP_INTERVAL`],
    /// after a reconnect, and when Redis may have lost its data.
    pub(super) fn report_all_memberships(&mut self) {
        self.membership_updates.last_full_report = Instant::now();
        self.membership_updates.paused_until = None;
        for channel in self.channels.values_mut() {
            channel.membership.stale = true;
            if let Some(presence) = &mut channel.presence {
                presence.mark_all_dirty();
            }
        }
        let channel_ids: Vec<ChannelId> = self.channels.keys().cloned().collect();
        for channel_id in channel_ids {
            self.retry(channel_id);
        }
    }
}

#[cfg(test)]
mod tests;
