//! Reads: counts, rosters, cached events, the index of occupied channels.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fred::interfaces::{ClientLike, HashesInterface};
use fred::prelude::Value;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::scripts::{self, backend_error, number, text};
use super::{Redis, read_error};
use crate::backend::{BackendError, Cached, Counts, Occupied, RosterRead};
use crate::channel::{ChannelId, ChannelName, Partition};
use crate::event::decode_events;
use crate::limits;

impl Redis {
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
        let node = self.lease.incarnation().unwrap_or_default();
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

    /// `lua/read_cached.lua`
    pub async fn read_cached(&self, channel_id: &ChannelId) -> Result<Option<Cached>, BackendError> {
        let names = vec![self.core.keys.head(channel_id)];
        let script = &self.core.scripts.read_cached;
        let last =
            script.run(self.core.client(channel_id), names, Vec::new()).await.map_err(script_read_error)?;
        Ok(cached(last.into_array()))
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
                answer.map_err(script_read_error)?.convert().map_err(backend_error)?;
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

/// Maps the error of a script that only reads: it can be repeated, its outcome is never unknown.
fn script_read_error(error: BackendError) -> BackendError {
    match error {
        BackendError::OutcomeUnknown => BackendError::Unavailable,
        error => error,
    }
}

fn occupied(name: &str, counts: &str) -> Option<Occupied> {
    let (subscriptions, users) = counts.split_once(' ')?;
    let counts = Counts { subscriptions: subscriptions.parse().ok()?, users: users.parse().ok()? };
    Some(Occupied { channel: ChannelName::parse(name, usize::MAX).ok()?, counts })
}

/// Splits a value of `users`: "node count node count …", a line break, the `user_info`.
pub(super) fn nodes_and_info(value: &Bytes) -> (&str, Bytes) {
    let end = memchr::memchr(b'\n', value).unwrap_or(value.len());
    let nodes = std::str::from_utf8(&value[..end]).unwrap_or_default();
    (nodes, value.slice((end + 1).min(value.len())..))
}

pub(super) fn names_node(nodes: &str, node: &str) -> bool {
    nodes.split(' ').step_by(2).any(|other| other == node)
}

/// Decodes the event, its sequence number, its time and its remaining time to live in ms.
pub(super) fn cached(last: Vec<Value>) -> Option<Cached> {
    let [event, seq, time_ms, ttl_ms]: [Value; 4] = last.try_into().ok()?;
    let event = decode_events(event.into_bytes()?, 1).ok()?.pop()?;
    let ttl = Duration::from_millis(ttl_ms.as_u64()?);
    Some(Cached { seq: seq.as_u64()?, time_ms: time_ms.as_u64()?, ttl, event })
}
