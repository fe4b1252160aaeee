//! Who is in a channel, and what is announced when that changes: what
//! `lua/update_subscriptions.lua` and `lua/update_members.lua` do for a cluster.

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
    /// When the count was last told, while there are too many to tell each.
    pub(super) told: Option<Instant>,
    /// The cache was missed after the event of this number had been the last.
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

    /// Returns the change, if there is one; or the connections that are refused.
    fn update_user(&mut self, user: &UserCount, members_max: usize) -> Result<Option<MemberChange>, u64> {
        let user_id = user.member.user_id.clone();
        if user.count == 0 {
            return Ok(self.users.remove(&user_id).map(|_| MemberChange::Removed { user_id }));
        }
        if let Some(known) = self.users.get_mut(&user_id) {
            known.connections = user.count;
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
            // Whoever comes next misses the cache anew.
            membership.missed = None;
        }
        let said = match channel_id.kind() {
            ChannelKind::User => self.user_status(channel_id, before, count),
            ChannelKind::Presence => {
                self.keep_index(channel_id, before, count);
                self.report_members(channel_id, &changes);
                (!changes.is_empty()).then(|| (Kind::Members, encode_members(&changes)))
            }
            ChannelKind::Public | ChannelKind::Private | ChannelKind::Encrypted => {
                self.keep_index(channel_id, before, count);
                (before != count).then(|| self.tell_count(channel_id)).flatten()
            }
        };
        let incoming =
            said.and_then(|(kind, body)| self.append(EntryId::random(), channel_id, kind, 1, body));
        let history = &self.channel(channel_id).history;
        let (at, deltas_off) = (history.head().unwrap_or_default(), history.deltas_off());
        let last = update.wants_last.then(|| self.channel(channel_id).history.cached());
        if last == Some(None) && count > 0 {
            self.report_cache_miss(channel_id);
        }
        (UpdatedMembership { at, total: count, last: last.flatten(), refused, deltas_off }, incoming)
    }

    fn user_status(&mut self, channel_id: &ChannelId, before: u64, count: u64) -> Option<(Kind, Bytes)> {
        let tells = self.channel(channel_id).membership.rules.user_status;
        let online: &'static [u8] = if count > 0 { &[1] } else { &[0] };
        (tells && (before > 0) != (count > 0)).then(|| (Kind::UserStatus, Bytes::from_static(online)))
    }

    /// Occupied and vacated.
    fn keep_index(&mut self, channel_id: &ChannelId, before: u64, count: u64) {
        let hooked = self.channel(channel_id).membership.rules.hooked;
        let due = Due::Vacated(channel_id.clone());
        if before == 0 && count > 0 {
            self.occupied.insert(channel_id.clone());
            if !self.webhook_events.cancel(&due) && hooked.has("channel_occupied") {
                self.webhook_events.put(channel_id, WebhookEventKind::ChannelOccupied);
            }
        } else if before > 0 && count == 0 {
            self.occupied.remove(channel_id);
            if hooked.has("channel_vacated") {
                self.webhook_events.put_later(due, limits::WEBHOOK_GRACE);
            }
        }
    }

    fn report_members(&mut self, channel_id: &ChannelId, changes: &[MemberChange]) {
        let hooked = self.channel(channel_id).membership.rules.hooked;
        for change in changes {
            match change {
                MemberChange::Added { user_id, .. } => {
                    let is_back =
                        self.webhook_events.cancel(&Due::Removed(channel_id.clone(), user_id.clone()));
                    if !is_back && hooked.has("member_added") {
                        self.webhook_events
                            .put(channel_id, WebhookEventKind::MemberAdded { user_id: user_id.to_string() });
                    }
                }
                MemberChange::Removed { user_id } if hooked.has("member_removed") => {
                    let due = Due::Removed(channel_id.clone(), user_id.clone());
                    self.webhook_events.put_later(due, limits::WEBHOOK_GRACE);
                }
                MemberChange::Removed { .. } => {}
            }
        }
    }

    /// The count has changed: tells it, or sees to it that it is told later.
    pub(super) fn tell_count(&mut self, channel_id: &ChannelId) -> Option<(Kind, Bytes)> {
        let membership = &mut self.channel(channel_id).membership;
        let (total, rules) = (membership.subscriptions, membership.rules);
        let is_hooked = rules.hooked.has("subscription_count");
        if !is_hooked && !rules.subscription_counts {
            return None;
        }
        if total > limits::COUNT_UNTHROTTLED_MAX {
            let now = Instant::now();
            let next = membership.told.map(|told| told + limits::COUNT_INTERVAL);
            if let Some(next) = next.filter(|next| *next > now) {
                self.webhook_events.put_later(Due::Count(channel_id.clone()), next - now);
                return None;
            }
            membership.told = Some(now);
        } else {
            membership.told = None;
        }
        self.webhook_events.cancel(&Due::Count(channel_id.clone()));
        if is_hooked {
            self.webhook_events.put(channel_id, WebhookEventKind::SubscriptionCount(total));
        }
        let body = Bytes::copy_from_slice(&total.to_be_bytes());
        (rules.subscription_counts && total > 0).then_some((Kind::SubscriptionCount, body))
    }

    /// Several who miss the same event are one webhook_event.
    fn report_cache_miss(&mut self, channel_id: &ChannelId) {
        let channel = self.channel(channel_id);
        let (last, membership) = (channel.history.last_seq(), &mut channel.membership);
        if membership.rules.hooked.has("cache_miss") && membership.missed.replace(last) != Some(last) {
            self.webhook_events.put(channel_id, WebhookEventKind::CacheMiss);
        }
    }
}
