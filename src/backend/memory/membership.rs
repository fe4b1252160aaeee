//! Subscriptions and users of a channel, and the entries of their changes: the counterpart of
//! `lua/update_subscriptions.lua` and `lua/update_members.lua`.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::webhook_outbox::Due;
use super::{Memory, State};
use crate::backend::{
    Counts, MembershipRules, MembershipUpdate, Occupied, RosterRead, UpdatedMembership, UserCount,
};
use crate::backend_events::Incoming;
use crate::channel::{ChannelId, ChannelKind, ChannelName};
use crate::entry::{EntryId, Kind, encode_members};
use crate::limits;
use crate::presence::MemberChange;
use crate::webhook_event::WebhookEventKind;

#[derive(Debug, Default)]
pub(super) struct Membership {
    subscriptions: u64,
    users: BTreeMap<Arc<str>, User>,
    pub(super) rules: MembershipRules,
    /// Time of the last count entry, while the channel has too many subscriptions for one per
    /// change.
    pub(super) count_sent: Option<Instant>,
    /// The last reported cache miss: the sequence number of the last event at that time.
    missed: Option<Option<u64>>,
}

#[derive(Debug)]
struct User {
    connections: u64,
    info: Bytes,
}

impl Membership {
    pub(super) fn is_empty(&self) -> bool {
        self.subscriptions == 0
    }

    pub(super) fn counts(&self) -> Counts {
        Counts { subscriptions: self.subscriptions, users: self.users.len() as u64 }
    }

    pub(super) fn has_user(&self, user: &str) -> bool {
        self.users.contains_key(user)
    }

    /// Returns the member change, if there is one, or the number of refused connections.
    fn update_user(&mut self, user: &UserCount, members_max: usize) -> Result<Option<MemberChange>, u64> {
        let user_id = user.member.user_id.clone();
        if user.count == 0 {
            return Ok(self.users.remove(&user_id).map(|_| MemberChange::Removed { user_id }));
        }
        if let Some(stored) = self.users.get_mut(&user_id) {
            stored.connections = user.count;
            return Ok(None);
        }
        if user.is_new && self.users.len() >= members_max {
            return Err(user.count);
        }
        let info = user.member.info.clone();
        self.users.insert(user_id.clone(), User { connections: user.count, info: info.clone() });
        Ok(Some(MemberChange::Added { user_id, info }))
    }
}

impl Memory {
    pub fn update_membership(&self, update: &MembershipUpdate) -> UpdatedMembership {
        let mut state = self.state.lock();
        let (updated, incoming) = state.update_membership(update);
        if let Some(incoming) = incoming {
            self.events.push(incoming);
        }
        updated
    }

    pub fn read_counts(&self, channel_id: &ChannelId) -> Counts {
        self.state.lock().counts(channel_id)
    }

    pub fn read_roster(&self, channel_id: &ChannelId) -> RosterRead {
        let state = self.state.lock();
        let Some(channel) = state.channels.get(channel_id) else { return RosterRead::default() };
        let users = channel.membership.users.iter();
        RosterRead {
            roster: users.map(|(user_id, user)| (user_id.clone(), user.info.clone())).collect(),
            own: channel.membership.users.keys().cloned().collect(),
        }
    }

    pub fn list_occupied(&self, app: &str, prefix: &str) -> Vec<Occupied> {
        let state = self.state.lock();
        let from = [app, ":", prefix].concat();
        let channels = state.occupied.range::<str, _>((Bound::Included(from.as_str()), Bound::Unbounded));
        let channels = channels.take_while(|channel_id| channel_id.as_str().starts_with(&from));
        let occupied = channels.filter_map(|channel_id| {
            let channel = ChannelName::parse(channel_id.channel(), usize::MAX).ok()?;
            Some(Occupied { channel, counts: state.counts(channel_id) })
        });
        occupied.collect()
    }
}

impl State {
    fn update_membership(&mut self, update: &MembershipUpdate) -> (UpdatedMembership, Option<Incoming>) {
        let channel_id = &update.channel_id;
        if update.is_new && channel_id.kind() != ChannelKind::User && self.is_full(update) {
            let at = self.channel(channel_id).history.head().unwrap_or_default();
            return (UpdatedMembership { at, is_refused: true, ..UpdatedMembership::default() }, None);
        }
        let membership = &mut self.channel(channel_id).membership;
        membership.rules = update.rules;
        let before = membership.subscriptions;
        let mut count = update.count;
        let (mut changes, mut refused) = (Vec::new(), Vec::new());
        for (at, user) in update.users.iter().enumerate() {
            match membership.update_user(user, update.rules.members_max) {
                Ok(change) => changes.extend(change),
                Err(connections) => {
                    count -= connections;
                    refused.push(at);
                }
            }
        }
        membership.subscriptions = count;
        if count == 0 {
            // The next subscriber's cache miss is reported again.
            membership.missed = None;
        }
        let change = match channel_id.kind() {
            ChannelKind::User => self.user_status(channel_id, before, count),
            ChannelKind::Presence => {
                self.update_index(channel_id, before, count);
                self.report_members(channel_id, &changes);
                (!changes.is_empty()).then(|| (Kind::Members, encode_members(&changes)))
            }
            ChannelKind::Public | ChannelKind::Private | ChannelKind::Encrypted => {
                self.update_index(channel_id, before, count);
                (before != count).then(|| self.report_count(channel_id)).flatten()
            }
        };
        let incoming =
            change.and_then(|(kind, body)| self.append(EntryId::random(), channel_id, kind, 1, body));
        let history = &self.channel(channel_id).history;
        let (at, deltas_off) = (history.head().unwrap_or_default(), history.deltas_off());
        let last = update.wants_last.then(|| self.channel(channel_id).history.cached());
        if last == Some(None) && count > 0 {
            self.report_cache_miss(channel_id);
        }
        if count == 0 {
            self.channel(channel_id).history.forget_counts();
        }
        let last = last.flatten();
        (UpdatedMembership { at, total: count, last, refused, deltas_off, is_refused: false }, incoming)
    }

    /// Whether the update would occupy one channel more than the app may have.
    fn is_full(&mut self, update: &MembershipUpdate) -> bool {
        let channel_id = &update.channel_id;
        update.count > 0
            && self.channel(channel_id).membership.is_empty()
            && self
                .occupied_counts
                .get(channel_id.app())
                .is_some_and(|count| *count >= update.rules.occupied_max)
    }

    fn user_status(&mut self, channel_id: &ChannelId, before: u64, count: u64) -> Option<(Kind, Bytes)> {
        let is_sent = self.channel(channel_id).membership.rules.user_status;
        let online: &'static [u8] = if count > 0 { &[1] } else { &[0] };
        (is_sent && (before > 0) != (count > 0)).then(|| (Kind::UserStatus, Bytes::from_static(online)))
    }

    /// Updates the index of occupied channels, and appends the webhook event of the transition.
    fn update_index(&mut self, channel_id: &ChannelId, before: u64, count: u64) {
        let hooked = self.channel(channel_id).membership.rules.hooked;
        let due = Due::Vacated(channel_id.clone());
        if before == 0 && count > 0 {
            self.occupied.insert(channel_id.clone());
            *self.occupied_counts.entry(channel_id.app().into()).or_default() += 1;
            if !self.webhook_events.cancel(&due) && hooked.has("channel_occupied") {
                self.webhook_events.append(channel_id, WebhookEventKind::ChannelOccupied);
            }
        } else if before > 0 && count == 0 {
            self.occupied.remove(channel_id);
            if let Some(count) = self.occupied_counts.get_mut(channel_id.app()) {
                *count -= 1;
                if *count == 0 {
                    self.occupied_counts.remove(channel_id.app());
                }
            }
            if hooked.has("channel_vacated") {
                self.webhook_events.schedule(due, limits::WEBHOOK_GRACE);
            }
        }
    }

    fn report_members(&mut self, channel_id: &ChannelId, changes: &[MemberChange]) {
        let hooked = self.channel(channel_id).membership.rules.hooked;
        for change in changes {
            match change {
                MemberChange::Added { user_id, .. } => {
                    let has_returned =
                        self.webhook_events.cancel(&Due::Removed(channel_id.clone(), user_id.clone()));
                    if !has_returned && hooked.has("member_added") {
                        self.webhook_events.append(
                            channel_id,
                            WebhookEventKind::MemberAdded { user_id: user_id.to_string() },
                        );
                    }
                }
                MemberChange::Removed { user_id } if hooked.has("member_removed") => {
                    let due = Due::Removed(channel_id.clone(), user_id.clone());
                    self.webhook_events.schedule(due, limits::WEBHOOK_GRACE);
                }
                MemberChange::Removed { .. } => {}
            }
        }
    }

    /// Reports a changed count at once, or schedules the report.
    pub(super) fn report_count(&mut self, channel_id: &ChannelId) -> Option<(Kind, Bytes)> {
        let membership = &mut self.channel(channel_id).membership;
        let (total, rules) = (membership.subscriptions, membership.rules);
        let is_hooked = rules.hooked.has("subscription_count");
        if !is_hooked && !rules.subscription_counts {
            return None;
        }
        if total > limits::COUNT_UNTHROTTLED_MAX {
            let now = Instant::now();
            let next = membership.count_sent.map(|sent| sent + limits::COUNT_INTERVAL);
            if let Some(next) = next.filter(|next| *next > now) {
                self.webhook_events.schedule(Due::Count(channel_id.clone()), next - now);
                return None;
            }
            membership.count_sent = Some(now);
        } else {
            membership.count_sent = None;
        }
        self.webhook_events.cancel(&Due::Count(channel_id.clone()));
        if is_hooked {
            self.webhook_events.append(channel_id, WebhookEventKind::SubscriptionCount(total));
        }
        let body = Bytes::copy_from_slice(&total.to_be_bytes());
        (rules.subscription_counts && total > 0).then_some((Kind::SubscriptionCount, body))
    }

    /// Appends one webhook event for all cache misses between two events.
    fn report_cache_miss(&mut self, channel_id: &ChannelId) {
        let channel = self.channel(channel_id);
        let (last, membership) = (channel.history.last_seq(), &mut channel.membership);
        if membership.rules.hooked.has("cache_miss") && membership.missed.replace(last) != Some(last) {
            self.webhook_events.append(channel_id, WebhookEventKind::CacheMiss);
        }
    }
}
