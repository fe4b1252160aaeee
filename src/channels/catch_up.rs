//! Encodes missed entries for a single new subscriber, with deltas along the bases that
//! it has received so far.

use bytes::Bytes;

use crate::backend::Cached;
use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::encode::{Delivery, DeliveryOptions};
use crate::entry::{Entry, Kind};
use crate::event::Event;
use crate::subscribers::{FanOutContext, SocketIdentity, fan_out_to_one};

#[derive(Debug)]
pub(super) struct CatchUpEncoder<'a> {
    pub(super) channel: &'a str,
    pub(super) options: &'a DeliveryOptions,
    pub(super) identity: SocketIdentity<'a>,
    pub(super) config: &'a DeltaConfig,
    pub(super) deltas: &'a ChannelDelta,
    /// A copy: encodings for one subscriber do not count for the channel's delta
    /// toggle.
    pub(super) policy: Policy,
    /// The bases that the client has received.
    pub(super) held: Chains,
}

impl CatchUpEncoder<'_> {
    /// Encodes the events of an entry whose sequence number is at least `from`.
    pub(super) fn frames(&mut self, entry: &Entry, events: &[Event], from: u64) -> Bytes {
        let had = from.saturating_sub(entry.first_seq).min(events.len() as u64);
        self.encode(&Delivery {
            channel: self.channel,
            first_seq: entry.first_seq + had,
            time_ms: entry.time_ms,
            events: &events[had as usize..],
            is_chained: entry.kind == Kind::Events,
        })
    }

    /// The cached event of a cache channel (protocol.md 2.12). Empty if it does not
    /// match the subscriber's filter.
    pub(super) fn cached(&mut self, cached: &Cached) -> Bytes {
        // The `socket_id` of the publish does not apply to the cached event.
        let events = [Event { except: None, ..cached.event.clone() }];
        self.encode(&Delivery {
            channel: self.channel,
            first_seq: cached.seq,
            time_ms: cached.time_ms,
            events: &events,
            is_chained: true,
        })
    }

    fn encode(&mut self, delivery: &Delivery<'_>) -> Bytes {
        let mut context = FanOutContext::new(self.config, self.deltas, &mut self.policy);
        fan_out_to_one(delivery, self.options, self.identity, &mut self.held, &mut context)
    }
}
