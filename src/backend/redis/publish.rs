//! Publishing of batches, and appending of control entries.

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use fred::interfaces::ClientLike;
use fred::prelude::{Client, Value};

use super::error::CallError;
use super::scripts::{bytes, number, text};
use super::{Redis, RedisCore};
use crate::backend::{
    BackendError, Charge, ControlEntry, Counts, KeptBases, Publication, Published, RateState,
};
use crate::entry::EntryId;
use crate::limits;
use crate::metrics::metrics;

impl Redis {
    /// `lua/publish_batch.lua`, after the earlier batches of the app. Without a reply in time, the
    /// batch is resent under the same operation id, until [`limits::SCRIPT_DEADLINE`] (design.md 3,
    /// *Run once*).
    pub async fn publish_batch(
        &self,
        id: EntryId,
        publications: Vec<Publication>,
        charge: Option<Charge>,
    ) -> Result<Published, BackendError> {
        let first = &publications[0].channel_id;
        let _permit = self.core.publish_permits.acquire(first.app(), &publications).await?;
        let client = self.core.client(first);
        let started = Instant::now();
        let mut sent_ago = None;
        let answer = loop {
            let inputs = || {
                let keys = self.core.publish_keys(&publications, charge.as_ref());
                (keys, self.core.publish_arguments(id, sent_ago, charge.as_ref(), &publications))
            };
            let left = limits::SCRIPT_DEADLINE.saturating_sub(started.elapsed());
            let script = &self.core.scripts.publish_batch;
            match script.run_within(left.min(limits::SCRIPT_ATTEMPT_TIMEOUT), client, inputs).await {
                Ok(answer) => break answer,
                // The first attempt has failed before it was sent.
                Err(CallError::Backend(BackendError::Unavailable)) if sent_ago.is_none() => {
                    return Err(BackendError::Unavailable);
                }
                Err(CallError::Backend(BackendError::Unavailable | BackendError::OutcomeUnknown)) => {}
                // Also if the history does not reach back to the first attempt: it will not later.
                Err(error) => return Err(error.into()),
            }
            if !is_connected_again(client, started + limits::SCRIPT_DEADLINE).await {
                return Err(BackendError::OutcomeUnknown);
            }
            metrics().redis_resends.increment(1);
            sent_ago = Some(started.elapsed());
        };
        let numbers = answer.convert::<Vec<i64>>()?;
        published(&numbers, &publications, charge.as_ref())
    }

    /// `lua/append_control_entry.lua`
    pub async fn append(&self, control: ControlEntry) -> Result<(), BackendError> {
        let RedisCore { keys, scripts, .. } = &*self.core;
        let channel_id = &control.channel_id;
        let partition = channel_id.partition();
        let names = vec![
            keys.head(channel_id),
            keys.log(channel_id),
            keys.outbox(partition, channel_id.app()),
            keys.webhook_apps(partition),
            keys.consumer(partition),
        ];
        let mut arguments = self.core.appending(EntryId::random(), 4);
        arguments.extend([
            number(control.kind.code().into()),
            bytes(control.body),
            text(if control.hooked { channel_id.as_str() } else { "" }),
            number(limits::WEBHOOK_OUTBOX_MAX as u64),
        ]);
        scripts.append_control_entry.run(self.core.client(channel_id), names, arguments).await?;
        Ok(())
    }
}

impl RedisCore {
    fn publish_keys(&self, publications: &[Publication], charge: Option<&Charge>) -> Vec<String> {
        let channels = publications.iter().map(|publication| &publication.channel_id);
        let names = channels.flat_map(|id| [self.keys.head(id), self.keys.log(id), self.keys.subs(id)]);
        let with_bases = publications.iter().filter(|it| it.bases.is_some()).map(|it| &it.channel_id);
        let bases = with_bases.flat_map(|id| [self.keys.bases(id), self.keys.base_order(id)]);
        names.chain(charge.map(|charge| self.keys.rate(charge))).chain(bases).collect()
    }

    fn publish_arguments(
        &self,
        id: EntryId,
        sent_ago: Option<Duration>,
        charge: Option<&Charge>,
        publications: &[Publication],
    ) -> Vec<Value> {
        // One second of tolerance, because this clock and Redis's clock are read at different
        // times.
        let sent_ago_ms = sent_ago.map(|ago| (ago.as_millis() + 1_000).to_string()).unwrap_or_default();
        let mut arguments = self.appending(id, 4 + 2 * publications.len());
        arguments.extend([
            text(sent_ago_ms),
            number(charge.map_or(0, |charge| charge.cost)),
            number(charge.map_or(0, |charge| charge.rate.count)),
            number(charge.map_or(0, |charge| charge.rate.window.as_millis() as u64)),
        ]);
        for publication in publications {
            arguments.extend([bytes(descriptor(publication)), bytes(publication.body.clone())]);
        }
        arguments
    }
}

/// The descriptor of a publication, descriptor into one argument: with many channels, the cost of a
/// call is proportional to its arguments.
fn descriptor(publication: &Publication) -> BytesMut {
    let last_bytes = publication.last.map_or(0, |last| last.bytes);
    let mut out = BytesMut::with_capacity(17);
    out.put_u32(publication.count);
    out.put_u8(publication.wants_counts.into());
    out.put_u32(u32::try_from(last_bytes).expect("limits bound a batch"));
    out.put_u64(publication.last.map_or(0, |last| last.ttl.as_millis() as u64));
    if let Some(bases) = &publication.bases {
        put_bases(&mut out, bases);
    }
    out
}

/// Appends the bases of a publication, in the encoding of `lua/include/keep_bases.lua`.
fn put_bases(out: &mut BytesMut, bases: &KeptBases) {
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

fn published(
    answer: &[i64],
    publications: &[Publication],
    charge: Option<&Charge>,
) -> Result<Published, BackendError> {
    let unreadable = || BackendError::Unreadable(format!("a reply of {} numbers", answer.len()));
    let (&[is_charged, used, reset_ms], counts) = answer.split_first_chunk::<3>().ok_or_else(unreadable)?;
    let rate = charge.map(|charge| rate_state(charge.rate.count, used, reset_ms));
    if let Some(state) = rate.filter(|_| is_charged == 0) {
        return Err(BackendError::RateLimited(state));
    }
    let mut counts = counts.chunks_exact(2);
    let counts = publications.iter().map(|publication| match publication.wants_counts {
        true => counts_of(counts.next()?),
        false => None,
    });
    Ok(Published { counts: counts.collect(), rate })
}

fn counts_of(pair: &[i64]) -> Option<Counts> {
    let &[subscriptions, users] = pair else { return None };
    Some(Counts { subscriptions: subscriptions.try_into().ok()?, users: users.try_into().ok()? })
}

pub(super) fn rate_state(limit: u64, used: i64, reset_ms: i64) -> RateState {
    let used = u64::try_from(used).unwrap_or(0);
    let reset = Duration::from_millis(u64::try_from(reset_ms).unwrap_or(0));
    RateState { limit, remaining: limit.saturating_sub(used), reset }
}

/// Waits for a usable connection; false at the deadline. Retries failed attempts to connect.
async fn is_connected_again(client: &Client, deadline: Instant) -> bool {
    let connected = async {
        // A Redis that refuses writes would answer resend after resend.
        tokio::time::sleep(limits::RECONNECT_PAUSE).await;
        while client.wait_for_connect().await.is_err() {
            tokio::time::sleep(limits::RECONNECT_PAUSE).await;
        }
    };
    let left = deadline.saturating_duration_since(Instant::now());
    tokio::time::timeout(left, connected).await.is_ok() && Instant::now() + limits::RECONNECT_PAUSE < deadline
}
