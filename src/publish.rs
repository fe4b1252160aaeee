//! Room 3, and the conductor of everything on the way in: the events of a batch
//! become one run per channel, serialised once, and go to the backend together.

use std::collections::HashMap;
use std::time::Instant;

use crate::app::App;
use crate::backend::{Backend, BackendError, Publication};
use crate::batch::Batch;
use crate::channel::{Address, ChannelName};
use crate::event::{AnnouncementId, Event, encode_events};
use crate::metrics::metrics;

/// Subscriptions of the channels whose count a caller asked for, cluster-wide,
/// as they were when the batch was announced.
pub type Counts = HashMap<ChannelName, u64>;

/// One channel's part of a batch, in the caller's order.
struct Run<'a> {
    channel: &'a ChannelName,
    events: Vec<&'a Event>,
    wants_count: bool,
}

/// Announces every event of the batch, or none. Channels are announced in order
/// of first appearance; the events of one channel are consecutive (P2).
pub async fn publish_batch(backend: &Backend, app: &App, batch: &Batch) -> Result<Counts, BackendError> {
    let runs = runs(batch);
    if runs.is_empty() {
        return Ok(Counts::new());
    }
    let publications = runs.iter().map(|run| Publication {
        address: Address::new(&app.id, run.channel),
        count: u32::try_from(run.events.len()).expect("limits bound a batch"),
        body: encode_events(run.events.iter().copied()),
        wants_count: run.wants_count,
    });
    let started = Instant::now();
    let counts = backend.publish(AnnouncementId::random(), publications.collect()).await?;
    metrics().publish_seconds.record(started.elapsed());
    metrics().batches_published.increment(1);
    metrics().events_published.increment(runs.iter().map(|run| run.events.len() as u64).sum());
    let counted = runs.iter().zip(counts);
    Ok(counted.filter_map(|(run, count)| Some((run.channel.clone(), count?))).collect())
}

fn runs(batch: &Batch) -> Vec<Run<'_>> {
    let mut runs: Vec<Run<'_>> = Vec::new();
    let mut positions: HashMap<&ChannelName, usize> = HashMap::new();
    for item in &batch.events {
        for channel in &item.channels {
            let at = *positions.entry(channel).or_insert_with(|| {
                runs.push(Run { channel, events: Vec::new(), wants_count: false });
                runs.len() - 1
            });
            runs[at].events.push(&item.event);
            runs[at].wants_count |= item.info.subscription_count;
        }
    }
    runs
}
