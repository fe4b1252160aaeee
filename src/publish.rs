//! Room 3, and the conductor of everything on the way in: the events of a batch
//! become one run per channel, serialised once, and go to the backend together.

use std::collections::HashMap;
use std::time::Instant;

use bytes::Bytes;

use crate::announcement::{AnnouncementId, Kind};
use crate::app::App;
use crate::backend::{
    Account, Backend, BackendError, Charge, Counts, LastEvent, Publication, RateState, Signal,
};
use crate::batch::Batch;
use crate::channel::{Address, ChannelName};
use crate::event::{Event, encode_events, encoded_len};
use crate::metrics::metrics;

/// What a caller gets to know of its batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Of the channels whose counts it asked for, cluster-wide, as they were when
    /// the batch was announced.
    pub counts: HashMap<ChannelName, Counts>,
    /// Where the app stands in its window, if it has a rate.
    pub rate: Option<RateState>,
}

/// One channel's part of a batch, in the caller's order.
struct Run<'a> {
    channel: &'a ChannelName,
    events: Vec<&'a Event>,
    wants_counts: bool,
}

/// Announces every event of the batch, or none. Channels are announced in order
/// of first appearance; the events of one channel are consecutive (P2). The app
/// is charged for each event once per channel, for all of them or none.
pub async fn publish_batch(backend: &Backend, app: &App, batch: &Batch) -> Result<Outcome, BackendError> {
    let runs = runs(batch);
    if runs.is_empty() {
        return Ok(Outcome::default());
    }
    let cost = batch.cost();
    let publications = runs.iter().map(|run| Publication {
        address: Address::new(&app.id, run.channel),
        count: u32::try_from(run.events.len()).expect("limits bound a batch"),
        body: encode_events(run.events.iter().copied()),
        wants_counts: run.wants_counts,
        last: run.last(app),
    });
    let (account, app_id) = (Account::BackendEvents, app.id.clone());
    let charge = app.rates.backend_events.map(|rate| Charge { app: app_id, account, cost, rate });
    let started = Instant::now();
    let published = backend.publish(AnnouncementId::random(), publications.collect(), charge).await?;
    metrics().publish_seconds.record(started.elapsed());
    metrics().batches_published.increment(1);
    metrics().events_published.increment(cost);
    let counted = runs.iter().zip(published.counts);
    Ok(Outcome {
        counts: counted.filter_map(|(run, counts)| Some((run.channel.clone(), counts?))).collect(),
        rate: published.rate,
    })
}

/// Announces an event that a client has sent (protocol.md 2.7).
pub async fn publish_client_event(
    backend: &Backend,
    app: &App,
    channel: &ChannelName,
    event: &Event,
) -> Result<(), BackendError> {
    let hooked = app.hooked_events().has("client_event");
    let (address, body) = (Address::new(&app.id, channel), encode_events([event]));
    backend.announce(Signal { address, kind: Kind::ClientEvents, body, hooked }).await
}

/// Ends every connection that is signed in as the user, on every node
/// (protocol.md 1.7). `own_channel` is the user's own.
pub async fn terminate_user(
    backend: &Backend,
    app: &App,
    own_channel: &ChannelName,
) -> Result<(), BackendError> {
    let address = Address::new(&app.id, own_channel);
    let signal = Signal { address, kind: Kind::Termination, body: Bytes::new(), hooked: false };
    backend.announce(signal).await
}

impl Run<'_> {
    fn last(&self, app: &App) -> Option<LastEvent> {
        let last = self.events.last().filter(|_| self.channel.is_cache())?;
        Some(LastEvent { bytes: encoded_len(last), ttl: app.features.cache_ttl })
    }
}

fn runs(batch: &Batch) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut positions: HashMap<&ChannelName, usize> = HashMap::new();
    for item in &batch.events {
        for channel in &item.channels {
            let at = *positions.entry(channel).or_insert_with(|| {
                runs.push(Run { channel, events: Vec::new(), wants_counts: false });
                runs.len() - 1
            });
            runs[at].events.push(&item.event);
            runs[at].wants_counts |= item.info.subscription_count || item.info.user_count;
        }
    }
    runs
}
