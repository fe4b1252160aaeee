//! Histories: listening to topics, and reads of entries, cached events and stored bases.

use std::collections::HashMap;
use std::time::Duration;

use bytes::{Buf, Bytes};
use fred::interfaces::{ClientLike, HashesInterface};
use fred::prelude::Value;
use futures_util::future::try_join_all;
use futures_util::try_join;

use super::error::read_error;
use super::scripts::{self, Script, bytes, number, text};
use super::{Redis, RedisCore};
use crate::backend::{BackendError, Cached, StoredBase};
use crate::channel::ChannelId;
use crate::entry::{Entry, EntryId, Log, Position};
use crate::event::decode_events;
use crate::limits;

impl Redis {
    pub async fn listen(&self, channel_id: &ChannelId) -> Result<(), BackendError> {
        self.listener.listen(channel_id).await
    }

    pub fn unlisten(&self, channel_id: &ChannelId) {
        self.listener.unlisten(channel_id);
    }

    /// `lua/read_log.lua`
    pub async fn read_log(&self, channel_id: &ChannelId, after: EntryId) -> Result<Log, BackendError> {
        let arguments = vec![bytes(after.as_bytes().to_vec())];
        self.read_log_by(&self.core.scripts.read_log, channel_id, arguments).await
    }

    /// `lua/read_log_since.lua`
    pub async fn read_log_since(&self, channel_id: &ChannelId, seq: u32) -> Result<Log, BackendError> {
        let bases_max = number(limits::RESUME_BASES_MAX as u64);
        let arguments = vec![number(seq.into()), bases_max, self.core.run_id.argument()];
        self.read_log_by(&self.core.scripts.read_log_since, channel_id, arguments).await
    }

    async fn read_log_by(
        &self,
        script: &Script,
        channel_id: &ChannelId,
        arguments: Vec<Value>,
    ) -> Result<Log, BackendError> {
        let keys = vec![self.core.keys.head(channel_id), self.core.keys.log(channel_id)];
        let answer = script.run(self.core.client(channel_id), keys, arguments).await?;
        let mut values = answer.into_array();
        let entries = values.split_off(values.len().min(4)).into_iter();
        let entries = entries.filter_map(|value| Entry::decode(value.into_bytes()?).ok()).collect();
        Ok(Log { head: position(values), entries })
    }

    /// Pipelines one read for each channel, on the connection of the first.
    pub async fn read_heads(&self, channel_ids: &[ChannelId]) -> Result<Vec<Option<Position>>, BackendError> {
        let Some(first) = channel_ids.first() else { return Ok(Vec::new()) };
        let client = self.core.client(first).with_options(&scripts::once());
        let reads = channel_ids.iter().map(|channel_id| {
            let client = &client;
            async move {
                let fields = vec!["epoch", "seq", "id", "time"];
                let head: Value =
                    client.hmget(self.core.keys.head(channel_id), fields).await.map_err(read_error)?;
                Ok(position(head.into_array()))
            }
        });
        try_join_all(reads).await
    }

    /// `lua/open_epoch.lua`
    pub async fn open_epoch(
        &self,
        channel_id: &ChannelId,
        epoch: u64,
        seen_seq: u64,
    ) -> Result<(), BackendError> {
        let RedisCore { keys, scripts, .. } = &*self.core;
        let names = vec![keys.head(channel_id), keys.bases(channel_id), keys.base_order(channel_id)];
        let arguments = vec![number(epoch), number(seen_seq)];
        scripts.open_epoch.run(self.core.client(channel_id), names, arguments).await?;
        Ok(())
    }

    /// `lua/read_cached.lua`
    pub async fn read_cached(&self, channel_id: &ChannelId) -> Result<Option<Cached>, BackendError> {
        let names = vec![self.core.keys.head(channel_id)];
        let script = &self.core.scripts.read_cached;
        let last = script.run(self.core.client(channel_id), names, Vec::new()).await.map_err(read_error)?;
        Ok(cached(last.into_array()))
    }

    /// The bases of the channel's current epoch, oldest first.
    pub async fn read_bases(&self, channel_id: &ChannelId) -> Result<Vec<StoredBase>, BackendError> {
        let client = self.core.client(channel_id).with_options(&scripts::once());
        let (epoch, bases): (Option<u64>, HashMap<Bytes, Bytes>) = try_join!(
            client.hget(self.core.keys.head(channel_id), "epoch"),
            client.hgetall(self.core.keys.bases(channel_id)),
        )
        .map_err(read_error)?;
        let Some(epoch) = epoch else { return Ok(Vec::new()) };
        let bases = bases.into_iter().filter_map(|(key, value)| stored_base(key, value));
        // An epoch's sequence numbers are greater than the epoch itself.
        let mut bases: Vec<StoredBase> = bases.filter(|base| base.seq > epoch).collect();
        bases.sort_unstable_by_key(|base| base.seq);
        Ok(bases)
    }

    /// `lua/switch_deltas.lua`
    pub async fn switch_deltas(&self, channel_id: &ChannelId, on: bool) -> Result<(), BackendError> {
        let RedisCore { keys, scripts, .. } = &*self.core;
        let names = vec![keys.head(channel_id), keys.log(channel_id)];
        let mut arguments = self.core.appending(EntryId::random(), 1);
        arguments.push(text(if on { "on" } else { "off" }));
        scripts.switch_deltas.run(self.core.client(channel_id), names, arguments).await?;
        Ok(())
    }
}

/// Decodes epoch, seq, id and time, as scripts return them.
pub(super) fn position(values: Vec<Value>) -> Option<Position> {
    let [epoch, seq, id, time]: [Value; 4] = values.try_into().ok()?;
    let id = EntryId::from_bytes(&id.into_bytes()?)?;
    Some(Position { epoch: epoch.as_u64()?, seq: seq.as_u64()?, id, time_ms: time.as_u64()? })
}

/// Decodes the event, its sequence number, its time and its remaining time to live in ms.
pub(super) fn cached(last: Vec<Value>) -> Option<Cached> {
    let [event, seq, time_ms, ttl_ms]: [Value; 4] = last.try_into().ok()?;
    let event = decode_events(event.into_bytes()?, 1).ok()?.pop()?;
    let ttl = Duration::from_millis(ttl_ms.as_u64()?);
    Some(Cached { seq: seq.as_u64()?, time_ms: time_ms.as_u64()?, ttl, event })
}

/// Decodes a value of `bases`: sequence number, time, event.
fn stored_base(key: Bytes, mut value: Bytes) -> Option<StoredBase> {
    let (seq, time_ms) = (value.try_get_u64().ok()?, value.try_get_u64().ok()?);
    let event = decode_events(value, 1).ok()?.pop()?;
    Some(StoredBase { key, seq, time_ms, event })
}
