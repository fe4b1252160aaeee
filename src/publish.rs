//! Stage 3 of the path of a batch (design.md 2): groups the events of a batch by channel, encodes
//! one publication per channel, and passes all of them to the backend in one call.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use crate::app::App;
use crate::backend::{
    Account, Backend, BackendError, Charge, ControlEntry, Counts, KeptBase, KeptBases, LastEvent,
    Publication, RateState,
};
use crate::batch::{Batch, BatchEvent};
use crate::channel::{ChannelId, ChannelKind, ChannelName};
use crate::delta::channels::ChannelDelta;
use crate::delta::settings::DeltaConfig;
use crate::entry::{EntryId, Kind};
use crate::event::{Event, EventRef, encode_events, encoded_len};
use crate::metrics::metrics;
use crate::wire::envelope::chain_of;

/// Result of a published batch, for the reply to the caller.
#[derive(Debug, Default)]
pub struct Published {
    /// Cluster-wide counts of the channels for which the caller requested them, at the time of the
    /// publication.
    pub counts: HashMap<ChannelName, Counts>,
    /// State of the app's rate-limit window, if it has a rate limit.
    pub rate: Option<RateState>,
}

/// The events of a batch on one channel, in the caller's order.
struct ChannelEvents<'a> {
    channel: &'a ChannelName,
    events: Vec<&'a BatchEvent>,
    wants_counts: bool,
}

/// Publishes all events of the batch, or none (P1). The order of the publications is the order in
/// which the batch first names their channels; the events of one channel are consecutive (P2). The
/// app is charged for each event once per channel, for all of them or none.
///
/// `delta` has the server's delta settings, for those that the app does not set.
pub async fn publish_batch(
    backend: &Backend,
    app: &App,
    batch: &Batch,
    delta: &DeltaConfig,
) -> Result<Published, BackendError> {
    let by_channel = by_channel(batch);
    let cost = batch.cost();
    let (account, app_id) = (Account::BackendEvents, app.id.clone());
    let charge = app.rates.backend_events.map(|rate| Charge { app: app_id, account, cost, rate });
    if by_channel.is_empty() {
        let rate = match charge {
            // The cost is 0: an error means only that the state of the window is unknown.
            Some(charge) => backend.charge(&charge).await.ok(),
            None => None,
        };
        return Ok(Published { rate, ..Published::default() });
    }
    let publications = by_channel.iter().map(|channel_events| channel_events.publication(app, delta));
    let started = Instant::now();
    let published = backend.publish(EntryId::random(), publications.collect(), charge).await?;
    metrics().publish_duration_seconds.record(started.elapsed());
    metrics().batches_published.increment(1);
    metrics().events_published.increment(cost);
    app.metrics.events_published.increment(cost);
    let counted = by_channel.iter().zip(published.counts);
    Ok(Published {
        counts: counted
            .filter_map(|(channel_events, counts)| Some((channel_events.channel.clone(), counts?)))
            .collect(),
        rate: published.rate,
    })
}

/// Publishes a client event (protocol.md 2.7).
pub async fn publish_client_event(
    backend: &Backend,
    app: &App,
    channel: &ChannelName,
    event: &Event,
) -> Result<(), BackendError> {
    let hooked = app.hooked_events().has("client_event");
    let (channel_id, body) = (ChannelId::new(&app.id, channel), encode_events([event]));
    backend.append(ControlEntry { channel_id, kind: Kind::ClientEvents, body, hooked }).await
}

/// Closes every connection that is signed in as the user, on every node (protocol.md 1.7).
/// `own_channel` is the user channel.
pub async fn terminate_user(
    backend: &Backend,
    app: &App,
    own_channel: &ChannelName,
) -> Result<(), BackendError> {
    let channel_id = ChannelId::new(&app.id, own_channel);
    let control = ControlEntry { channel_id, kind: Kind::Termination, body: Bytes::new(), hooked: false };
    backend.append(control).await
}

impl ChannelEvents<'_> {
    /// The publication of these events: on a channel with conflation keys, each event has its key
    /// (protocol.md 3.8). Events of encrypted and user channels are in no chain.
    fn publication(&self, app: &App, server: &DeltaConfig) -> Publication {
        let has_chains = !matches!(self.channel.kind(), ChannelKind::Encrypted | ChannelKind::User);
        let delta = has_chains.then(|| app.deltas.on(self.channel.as_str(), server));
        let path = delta.as_ref().and_then(|delta| delta.conflation_key.as_ref());
        let keys: Option<Vec<Bytes>> =
            path.map(|path| self.events.iter().map(|event| path.key(&event.data)).collect());
        let key = |index: usize| keys.as_ref().map(|keys| &keys[index]);
        let events = self.events.iter().enumerate().map(|(index, event)| event.with_key(key(index)));
        let last = events.clone().next_back().filter(|_| self.channel.is_cache());
        Publication {
            channel_id: ChannelId::new(&app.id, self.channel),
            count: u32::try_from(self.events.len()).expect("limits bound a batch"),
            body: encode_events(events.clone()),
            wants_counts: self.wants_counts,
            last: last.map(|last| LastEvent { bytes: encoded_len(last), ttl: app.features.cache_ttl }),
            bases: delta.and_then(|delta| newest_bases(events, &delta)),
        }
    }
}

/// The newest event of each chain, if new subscribers receive initial bases.
fn newest_bases<'a>(events: impl Iterator<Item = EventRef<'a>>, delta: &ChannelDelta) -> Option<KeptBases> {
    if !delta.cache_sync {
        return None;
    }
    let mut of_key: HashMap<Bytes, KeptBase> = HashMap::new();
    let mut start = 0;
    for (index, event) in (0..).zip(events) {
        let bytes = encoded_len(event);
        if let Some(key) = chain_of(event, delta.enabled) {
            of_key.insert(key.clone(), KeptBase { key, index, start, bytes });
        }
        start += bytes;
    }
    let mut newest: Vec<KeptBase> = of_key.into_values().collect();
    newest.sort_unstable_by_key(|base| base.index);
    newest.drain(..newest.len().saturating_sub(delta.keys_max));
    (!newest.is_empty()).then_some(KeptBases { keys_max: delta.keys_max, newest })
}

fn by_channel(batch: &Batch) -> Vec<ChannelEvents<'_>> {
    let mut by_channel: Vec<ChannelEvents<'_>> = Vec::new();
    let mut indexes: HashMap<&ChannelName, usize> = HashMap::with_capacity(batch.events.len());
    for item in &batch.events {
        for channel in &item.channels {
            let at = *indexes.entry(channel).or_insert_with(|| {
                by_channel.push(ChannelEvents { channel, events: Vec::new(), wants_counts: false });
                by_channel.len() - 1
            });
            by_channel[at].events.push(item);
            by_channel[at].wants_counts |= item.info.subscription_count || item.info.user_count;
        }
    }
    by_channel
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delta::channels::ChannelDeltas;
    use crate::event::decode_events;

    fn synced() -> ChannelDelta {
        let server = DeltaConfig { cache_sync: true, ..DeltaConfig::default() };
        ChannelDeltas::default().on("news", &server)
    }

    fn event(key: &'static str, data: &'static str) -> Event {
        Event { key: Some(key.into()), ..Event::new("e", data) }
    }

    /// The keys with the indexes and data of their events, decoded from the encoded publication.
    fn bases(events: &[Event], delta: &ChannelDelta) -> Vec<(Bytes, u32, Bytes)> {
        let body = encode_events(events);
        let bases = newest_bases(events.iter().map(EventRef::from), delta);
        let Some(KeptBases { keys_max, newest }) = bases else { return Vec::new() };
        assert_eq!(keys_max, delta.keys_max);
        let bases = newest.into_iter().map(|KeptBase { key, index, start, bytes }| {
            let event = decode_events(body.slice(start..start + bytes), 1).expect("one event").remove(0);
            assert_eq!(event, events[index as usize]);
            (key, index, event.data)
        });
        bases.collect()
    }

    fn base(key: &'static str, index: u32, data: &'static str) -> (Bytes, u32, Bytes) {
        (key.into(), index, data.into())
    }

    #[test]
    fn bases_are_the_newest_event_of_each_chain() {
        let events = [event("a", "1"), event("b", "two"), event("", "3"), event("a", "4"), event("c", "")];
        let expected = [base("b", 1, "two"), base("a", 3, "4"), base("c", 4, "")];
        assert_eq!(bases(&events, &synced()), expected);
        assert_eq!(bases(&events, &ChannelDelta { keys_max: 2, ..synced() }), expected[1..]);
        assert_eq!(bases(&events, &ChannelDelta { cache_sync: false, ..synced() }), []);
        let plain = [Event::new("e", "1"), Event::new("f", "2")];
        assert_eq!(bases(&plain, &synced()), [base("", 1, "2")]);
    }

    #[test]
    fn bases_exclude_events_without_a_chain() {
        let marked = |name, data, tags: Option<&'static str>| Event {
            tags: tags.map(Bytes::from),
            ..Event::new(name, data)
        };
        let events = [
            Event::new("e", "base"),
            marked("e", r#"{"__delta_seq":1}"#, None),
            marked("__conflation_key", "", None),
            marked("e", "", Some(r#"{"a":"__delta_seq"}"#)),
        ];
        assert_eq!(bases(&events, &synced()), [base("", 0, "base")]);
        assert_eq!(bases(&events[1..], &synced()), []);
        // With deltas disabled, only events that request them are in a chain.
        let without = ChannelDelta { enabled: false, ..synced() };
        let requested = Event { delta: Some(true), ..Event::new("e", "requests") };
        assert_eq!(bases(&[requested, Event::new("e", "does not")], &without), [base("", 0, "requests")]);
        let full = Event { delta: Some(false), ..Event::new("e", "in full") };
        assert_eq!(bases(&[full], &synced()), [base("", 0, "in full")]);
    }
}
