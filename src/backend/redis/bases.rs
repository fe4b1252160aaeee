//! Stored bases: the newest event of each of a channel's chains (`lua/include/keep_bases.lua`), and
//! the delta toggle.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use fred::interfaces::{ClientLike, HashesInterface};
use futures_util::try_join;

use super::scripts::{self, text};
use super::{Redis, RedisCore, read_error};
use crate::backend::{BackendError, KeptBases, StoredBase};
use crate::channel::ChannelId;
use crate::entry::EntryId;
use crate::event::decode_events;

impl Redis {
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
        scripts.switch_deltas.run(self.core.client(channel_id), names, arguments).await.map(drop)
    }
}

/// Decodes a value of `bases`: sequence number, time, event.
fn stored_base(key: Bytes, mut value: Bytes) -> Option<StoredBase> {
    let (seq, time_ms) = (value.try_get_u64().ok()?, value.try_get_u64().ok()?);
    let event = decode_events(value, 1).ok()?.pop()?;
    Some(StoredBase { key, seq, time_ms, event })
}

/// Appends the bases of a publication, in the encoding of `lua/include/keep_bases.lua`.
pub(super) fn put_bases(out: &mut BytesMut, bases: &KeptBases) {
    let KeptBases { keys_max, newest } = bases;
    let number = |number: usize| u32::try_from(number).expect("config bounds keys and a batch's bytes");
    out.put_u32(number(*keys_max));
    for base in newest {
        out.put_u32(base.index);
        out.put_u32(number(base.start));
        out.put_u32(number(base.bytes));
        out.put_u16(u16::try_from(base.key.len()).expect("keys are bounded"));
        out.put_slice(&base.key);
    }
}
