//! Initial bases (protocol.md 3.9): with `cache_sync`, a new subscriber receives the
//! newest event of each chain as a base, so that its first live event can be a delta. A
//! node reads them once per channel and updates them with delivered events.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::{Channels, JobResult};
use crate::backend::{BackendError, StoredBase};
use crate::channel::ChannelId;
use crate::delta::chain::{Base, Chains};
use crate::delta::channels::ChannelDelta;
use crate::delta::settings::DeltaConfig;
use crate::entry::Entry;
use crate::event::Event;
use crate::fan_out::DeliveryOptions;
use crate::filter::Tags;
use crate::limits;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::{envelope, reply};

/// The newest event of each chain.
#[derive(Debug, Default)]
pub(super) struct InitialBases {
    bases: HashMap<Bytes, StoredBase>,
    /// The bases of events from before this node listened have been read.
    is_complete: bool,
    is_requested: bool,
    /// Encoded frames for subscribers without a filter, until a base changes.
    unfiltered: HashMap<EventPrefix, (Bytes, Chains)>,
}

/// Reads of initial bases, up to [`limits::CATCH_UP_READS_MAX`] at once.
#[derive(Debug, Default)]
pub(super) struct InitialBasesReads {
    queue: VecDeque<ChannelId>,
    in_flight: usize,
}

impl InitialBases {
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Records the events of a delivered entry as the newest of their chains.
    pub(super) fn record(&mut self, entry: &Entry, events: &[Event], deltas: &ChannelDelta) {
        for (event, seq) in events.iter().zip(entry.first_seq..) {
            let Some(key) = envelope::chain_of(event, deltas.enabled) else { continue };
            let time_ms = entry.time_ms;
            self.keep(StoredBase { key, seq, time_ms, event: event.clone() }, deltas.keys_max);
        }
    }

    fn keep(&mut self, base: StoredBase, keys_max: usize) {
        if self.bases.get(&base.key).is_some_and(|known| known.seq >= base.seq) {
            return;
        }
        self.unfiltered.clear();
        self.bases.insert(base.key.clone(), base);
        if self.bases.len() > keys_max {
            let oldest = self.bases.values().min_by_key(|base| base.seq).map(|base| base.key.clone());
            oldest.map(|key| self.bases.remove(&key));
        }
    }

    /// Encodes `delta_cache_sync` for these delivery options. Returns the frame and the
    /// bases that the client has after it.
    pub(super) fn frame(
        &mut self,
        channel: &str,
        options: &DeliveryOptions,
        deltas: &ChannelDelta,
        config: &DeltaConfig,
    ) -> (Bytes, Chains) {
        if let Some(known) = self.unfiltered.get(&options.event_prefix).filter(|_| options.filter.is_none()) {
            return known.clone();
        }
        // After a change of the channel's settings, bases with and without keys may
        // both be stored.
        let is_keyed = deltas.conflation_key.is_some();
        let wanted = |base: &&StoredBase| base.key.is_empty() != is_keyed && passes(options, &base.event);
        let mut newest: Vec<&StoredBase> = self.bases.values().filter(wanted).collect();
        newest.sort_unstable_by_key(|base| std::cmp::Reverse(base.seq));
        let (mut bytes, mut held, mut states) = (0, Chains::default(), Vec::new());
        for base in newest {
            let (_, text) = envelope::full(channel, &base.event, base.seq, deltas.shows_tags, config.markers);
            bytes += text.len();
            // Text grows when it is nested in a JSON string, hence half the limit. The chains
            // left out begin with a full event.
            if bytes > limits::CATCH_UP_BYTES_MAX / 2 {
                break;
            }
            let chain = Base { text: text.clone(), seq: base.seq, time_ms: base.time_ms };
            held.advance(&base.key, chain, usize::MAX);
            states.push((base.key.clone(), text, base.seq));
        }
        let frame = reply::delta_cache_sync(options.event_prefix, channel, deltas, &states);
        if options.filter.is_none() {
            self.unfiltered.insert(options.event_prefix, (frame.clone(), held.clone()));
        }
        (frame, held)
    }
}

fn passes(options: &DeliveryOptions, event: &Event) -> bool {
    options
        .filter
        .as_ref()
        .is_none_or(|filter| filter.passes(&event.name, &Tags::read(event.tags.as_deref())))
}

impl Channels {
    /// Queues a read of the bases, unless they are complete or a read is pending.
    pub(super) fn request_initial_bases(&mut self, channel_id: &ChannelId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let initial_bases = channel.initial_bases.get_or_insert_default();
        if !initial_bases.is_complete && !std::mem::replace(&mut initial_bases.is_requested, true) {
            self.initial_bases_reads.queue.push_back(channel_id.clone());
        }
    }

    pub(super) fn start_initial_bases_reads(&mut self) {
        while self.initial_bases_reads.in_flight < limits::CATCH_UP_READS_MAX {
            let Some(channel_id) = self.initial_bases_reads.queue.pop_front() else { return };
            self.initial_bases_reads.in_flight += 1;
            let backend = self.backend.clone();
            self.jobs.spawn(async move {
                let bases = backend.read_bases(&channel_id).await;
                JobResult::BasesRead(channel_id, bases)
            });
        }
    }

    pub(super) fn on_bases_read(
        &mut self,
        channel_id: ChannelId,
        bases: Result<Vec<StoredBase>, BackendError>,
    ) {
        self.initial_bases_reads.in_flight -= 1;
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        let handled = channel.sequencer.position().unwrap_or_default().seq;
        let Some(initial_bases) = &mut channel.initial_bases else { return };
        initial_bases.is_requested = false;
        let Ok(bases) = bases else {
            self.retries.push_back((Instant::now() + limits::RETRY_DELAY, channel_id));
            return;
        };
        // An event that is not delivered yet becomes a base upon its delivery.
        for base in bases.into_iter().filter(|base| base.seq <= handled) {
            initial_bases.keep(base, channel.deltas.keys_max);
        }
        initial_bases.is_complete = true;
        self.admit(&channel_id);
    }
}
