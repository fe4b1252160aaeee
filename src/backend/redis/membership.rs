//! Memberships: updates of this node, sweeps of dead nodes, counts, rosters and the index of
//! occupied channels.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use fred::interfaces::{ClientLike, HashesInterface};
use fred::prelude::Value;
use fred::types::scan::Scanner;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::error::read_error;
use super::history::{cached, position};
use super::lease::Incarnation;
use super::scripts::{self, bytes, number, text};
use super::{Redis, RedisCore};
use crate::backend::{
    BackendError, Counts, MembershipRules, MembershipUpdate, Occupied, RosterRead, UpdatedMembership,
    UserCount,
};
use crate::channel::{ChannelId, ChannelKind, ChannelName, Partition};
use crate::entry::EntryId;
use crate::limits;
use crate::presence::Member;

impl Redis {
    pub async fn update_membership(
        &self,
        update: &MembershipUpdate,
    ) -> Result<UpdatedMembership, BackendError> {
        // A membership that is written under a swept incarnation would never be removed.
        let node = self.lease.incarnation().ok_or(BackendError::Unavailable)?;
        let replaced = node.replaced.as_deref().unwrap_or_default();
        self.core.update_membership(&node.name, replaced, update, &rules(update.rules)).await
    }

    pub async fn read_counts(&self, channel_id: &ChannelId) -> Result<Counts, BackendError> {
        let client = self.core.client(channel_id).with_options(&scripts::once());
        let fields = vec!["total", "users"];
        let counts: Vec<Option<u64>> =
            client.hmget(self.core.keys.subs(channel_id), fields).await.map_err(read_error)?;
        let count = |at: usize| counts.get(at).copied().flatten().unwrap_or(0);
        Ok(Counts { subscriptions: count(0), users: count(1) })
    }

    pub async fn read_roster(&self, channel_id: &ChannelId) -> Result<RosterRead, BackendError> {
        let client = self.core.client(channel_id).with_options(&scripts::once());
        let users: HashMap<String, Bytes> =
            client.hgetall(self.core.keys.users(channel_id)).await.map_err(read_error)?;
        let node = self.lease.incarnation().map(|Incarnation { name, .. }| name).unwrap_or_default();
        let (mut roster, mut own) = (Vec::with_capacity(users.len()), Vec::new());
        for (user, value) in users {
            let user: Arc<str> = user.into();
            let (nodes, info) = nodes_and_info(&value);
            if names_node(nodes, &node) {
                own.push(user.clone());
            }
            roster.push((user, info));
        }
        Ok(RosterRead { roster: roster.into_iter().collect(), own })
    }

    /// `lua/list_occupied.lua` for each partition, a page at a time.
    pub async fn list_occupied(&self, app: &str, prefix: &str) -> Result<Vec<Occupied>, BackendError> {
        let partitions = stream::iter(Partition::all());
        let partitions = partitions.map(|partition| self.list_partition(partition, app, prefix));
        let pages: Vec<Vec<Occupied>> =
            partitions.buffer_unordered(limits::LISTINGS_MAX).try_collect().await?;
        let mut all: Vec<Occupied> = pages.into_iter().flatten().collect();
        all.sort_unstable_by(|a, b| a.channel.cmp(&b.channel));
        Ok(all)
    }

    async fn list_partition(
        &self,
        partition: Partition,
        app: &str,
        prefix: &str,
    ) -> Result<Vec<Occupied>, BackendError> {
        let client = self.core.client_of(partition);
        let names = vec![self.core.keys.occupied(partition, app), self.core.keys.counts(partition, app)];
        // Names are ASCII, so every name with the prefix sorts before this bound.
        let to = text(["[", prefix, "~"].concat());
        let mut from = ["[", prefix].concat();
        let mut found = Vec::new();
        loop {
            let arguments = vec![text(from.as_str()), to.clone(), number(limits::LISTED_CHANNELS_MAX as u64)];
            let answer = self.core.scripts.list_occupied.run(client, names.clone(), arguments).await;
            let (channels, counts): (Vec<String>, Vec<Option<String>>) =
                answer.map_err(read_error)?.convert()?;
            let Some(last) = channels.last() else { return Ok(found) };
            from = ["(", last].concat();
            let is_last = channels.len() < limits::LISTED_CHANNELS_MAX;
            found.extend(
                channels.iter().zip(&counts).filter_map(|(name, counts)| occupied(name, counts.as_deref()?)),
            );
            if is_last {
                return Ok(found);
            }
        }
    }
}

/// The limit on the app's occupied channels in one partition; 0 if it does not apply. User channels
/// are not in the index.
fn occupied_max(update: &MembershipUpdate) -> u64 {
    let applies = update.is_new && update.channel_id.kind() != ChannelKind::User;
    if applies { limits::occupied_max_of_partition(update.rules.occupied_max) } else { 0 }
}

/// Encodes the rules for `lua/include/occupancy.lua`.
fn rules(rules: MembershipRules) -> String {
    let sends = u8::from(rules.subscription_counts) | u8::from(rules.user_status) << 1;
    format!("{} {sends}", rules.hooked.0)
}

impl RedisCore {
    /// `lua/update_members.lua` on a presence channel, else
    /// `lua/update_subscriptions.lua`.
    async fn update_membership(
        &self,
        node: &str,
        replaced: &str,
        update: &MembershipUpdate,
        rules: &str,
    ) -> Result<UpdatedMembership, BackendError> {
        let channel_id = &update.channel_id;
        let is_presence = channel_id.kind() == ChannelKind::Presence;
        let mut arguments = self.appending(EntryId::random(), 11 + 4 * update.users.len());
        arguments.extend([
            text(node),
            text(replaced),
            number(update.count),
            text(channel_id.as_str()),
            text(rules),
            number(u64::from(update.wants_last)),
            number(limits::WEBHOOK_OUTBOX_MAX as u64),
            number(limits::WEBHOOK_GRACE.as_millis() as u64),
        ]);
        let script = match is_presence {
            true => {
                arguments.push(number(update.rules.members_max as u64));
                arguments.push(number(occupied_max(update)));
                arguments.extend(update.users.iter().flat_map(user_arguments));
                &self.scripts.update_members
            }
            false => {
                arguments.push(number(limits::COUNT_UNTHROTTLED_MAX));
                arguments.push(number(limits::COUNT_INTERVAL.as_millis() as u64));
                arguments.push(number(occupied_max(update)));
                &self.scripts.update_subscriptions
            }
        };
        let answer =
            script.run(self.client(channel_id), self.membership_keys(channel_id, node), arguments).await?;
        updated(answer).ok_or_else(|| BackendError::Unreadable("the reply to a membership update".to_owned()))
    }

    fn membership_keys(&self, channel_id: &ChannelId, node: &str) -> Vec<String> {
        let (keys, partition, app) = (&self.keys, channel_id.partition(), channel_id.app());
        let mut names = vec![
            keys.head(channel_id),
            keys.log(channel_id),
            keys.subs(channel_id),
            keys.channels(partition, node),
            keys.occupied(partition, app),
            keys.counts(partition, app),
            keys.outbox(partition, app),
            keys.due(partition, app),
            keys.webhook_apps(partition),
            keys.consumer(partition),
            keys.swept(partition, node),
        ];
        if channel_id.kind() == ChannelKind::Presence {
            names.push(keys.users(channel_id));
        }
        names
    }

    /// Removes a dead node's membership of a channel. Users are removed in bounded steps, and the
    /// node's number together with the last step.
    pub(super) async fn sweep_membership(
        &self,
        channel_id: &ChannelId,
        node: &str,
    ) -> Result<(), BackendError> {
        let mut users = match channel_id.kind() {
            ChannelKind::Presence => self.users_of(channel_id, node).await?,
            _ => Vec::new(),
        };
        loop {
            let rest = users.split_off(users.len().min(limits::SWEEP_USERS));
            let update = MembershipUpdate {
                channel_id: channel_id.clone(),
                // A lower bound: the exact number during a sweep is not known.
                count: rest.len() as u64,
                users: std::mem::replace(&mut users, rest),
                rules: MembershipRules::default(),
                wants_last: false,
                is_new: false,
            };
            self.update_membership(node, "", &update, "").await?;
            if users.is_empty() {
                return Ok(());
            }
        }
    }

    /// The users of a presence channel with connections on the node, each with a count of 0.
    async fn users_of(&self, channel_id: &ChannelId, node: &str) -> Result<Vec<UserCount>, BackendError> {
        let pages = self.client(channel_id).hscan(
            self.keys.users(channel_id),
            "*",
            Some(limits::SWEEP_CHANNELS as u32),
        );
        let mut pages = Box::pin(pages);
        // A scan may return a user twice.
        let mut users = BTreeSet::new();
        while let Some(page) = pages.next().await {
            let mut page = page.map_err(read_error)?;
            for (user, value) in page.take_results().into_iter().flat_map(|map| map.inner()) {
                let (Some(user), Some(value)) = (user.into_string(), value.into_bytes()) else { continue };
                if names_node(nodes_and_info(&value).0, node) {
                    users.insert(user);
                }
            }
            page.next();
        }
        let removed = |user: String| {
            let member = Arc::new(Member::new(user.into(), Bytes::new()));
            UserCount { member, count: 0, is_new: false }
        };
        Ok(users.into_iter().map(removed).collect())
    }
}

fn user_arguments(user: &UserCount) -> [Value; 4] {
    let UserCount { member, count, is_new } = user;
    [text(&*member.user_id), number(*count), number(u64::from(*is_new)), bytes(member.info.clone())]
}

fn updated(answer: Value) -> Option<UpdatedMembership> {
    let [at, total, refused, last, deltas_off, is_refused]: [Value; 6] =
        answer.into_array().try_into().ok()?;
    Some(UpdatedMembership {
        at: position(at.into_array()).unwrap_or_default(),
        total: total.as_u64()?,
        last: cached(last.into_array()),
        refused: refused.into_array().iter().filter_map(|index| Some(index.as_u64()? as usize)).collect(),
        deltas_off: deltas_off.as_u64()? == 1,
        is_refused: is_refused.as_u64()? == 1,
    })
}

fn occupied(name: &str, counts: &str) -> Option<Occupied> {
    let (subscriptions, users) = counts.split_once(' ')?;
    let counts = Counts { subscriptions: subscriptions.parse().ok()?, users: users.parse().ok()? };
    Some(Occupied { channel: ChannelName::parse(name, usize::MAX).ok()?, counts })
}

/// Splits a value of `users`: "node count node count …", a line break, the `user_info`.
fn nodes_and_info(value: &Bytes) -> (&str, Bytes) {
    let end = memchr::memchr(b'\n', value).unwrap_or(value.len());
    let nodes = std::str::from_utf8(&value[..end]).unwrap_or_default();
    (nodes, value.slice((end + 1).min(value.len())..))
}

fn names_node(nodes: &str, node: &str) -> bool {
    nodes.split(' ').step_by(2).any(|other| other == node)
}
