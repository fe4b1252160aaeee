//! Initial bases (protocol.md 3.9): with `cache_sync`, a new subscriber receives the
//! newest event of each chain as a base, so that its first live event can be a delta. A
//! node reads them once per channel and updates them with delivered events.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::backend::StoredBase;
use crate::delta::Algorithm;
use crate::delta::chain::{Base, Chains};
use crate::delta::channels::ChannelDelta;
use crate::delta::settings::DeltaConfig;
use crate::encode::DeliveryOptions;
use crate::entry::Entry;
use crate::event::{Event, SocketId};
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
    /// A read is in flight.
    is_reading: bool,
    /// Live subscriptions that restart with deltas once the bases are complete.
    waiting: BTreeMap<SocketId, Algorithm>,
    /// Encoded frames for subscribers without a filter, until a base changes.
    unfiltered: HashMap<EventPrefix, (Bytes, Chains)>,
}

impl InitialBases {
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Begins again with a new history. Only the waiting subscriptions stay.
    pub(super) fn restart(&mut self) {
        *self = InitialBases { waiting: std::mem::take(&mut self.waiting), ..InitialBases::default() };
    }

    pub(super) fn wait(&mut self, socket: SocketId, algorithm: Algorithm) {
        self.waiting.entry(socket).or_insert(algorithm);
    }

    pub(super) fn forget(&mut self, socket: SocketId) {
        self.waiting.remove(&socket);
    }

    pub(super) fn is_awaited(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn take_waiting(&mut self) -> BTreeMap<SocketId, Algorithm> {
        std::mem::take(&mut self.waiting)
    }

    pub(super) fn begin_read(&mut self) {
        self.is_reading = true;
    }

    pub(super) fn read_failed(&mut self) {
        self.is_reading = false;
    }

    /// Adds the bases of a read, up to the sequence number `handled`. An event that is not
    /// delivered yet becomes a base upon its delivery. Ignores a read that began before a
    /// break in the history, with which new initial bases begin.
    pub(super) fn complete(&mut self, read: Vec<StoredBase>, handled: u64, keys_max: usize) {
        if !std::mem::replace(&mut self.is_reading, false) {
            return;
        }
        for base in read.into_iter().filter(|base| base.seq <= handled) {
            self.keep(base, keys_max);
        }
        self.is_complete = true;
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
