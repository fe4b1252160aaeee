//! One channel of a node with one subscriber, as [`fanfare::inbox`] has it.

use bytes::Bytes;
use fanfare::delta::Algorithm;
use fanfare::delta::chain::Chains;
use fanfare::delta::channels::{ChannelDelta, ChannelDeltas};
use fanfare::delta::conflation::KeyPath;
use fanfare::delta::policy::Policy;
use fanfare::delta::settings::DeltaConfig;
use fanfare::event::{Event, SocketId};
use fanfare::fan_out::{self, BaseState, Delivery, DeliveryOptions, EncodingContext, Groups, SocketIdentity};

use super::corpora;

pub const CHANNEL: &str = "public-room-17";

/// How the events are to go out.
#[derive(Debug, Clone, Default)]
pub struct Way {
    /// None: off, as Pusher sends them.
    pub algorithm: Option<Algorithm>,
    pub key: Option<KeyPath>,
    /// Deltas stay on, whatever they save.
    pub without_policy: bool,
}

pub struct Room {
    way: Way,
    config: DeltaConfig,
    channel: ChannelDelta,
    policy: Policy,
    groups: Groups,
    place: u32,
    bases: BaseState,
    socket: SocketId,
    seq: u64,
    /// The events after which deltas were switched off, or on again.
    pub switches: Vec<u64>,
}

impl Room {
    pub fn new(way: Way) -> Room {
        let config = DeltaConfig { conflation_key: way.key.clone(), ..DeltaConfig::default() };
        let options = DeliveryOptions { algorithm: way.algorithm, ..DeliveryOptions::default() };
        let mut groups = Groups::default();
        let (place, bases) = groups.enter(&options, &Chains::default(), 1);
        Room {
            channel: ChannelDeltas::default().on(CHANNEL, &config),
            way,
            config,
            policy: Policy::default(),
            groups,
            place,
            bases,
            socket: SocketId::random(),
            seq: 0,
            switches: Vec::new(),
        }
    }

    /// The frames of an event, from the request that publishes it: its key is read,
    /// it is encoded, and the cluster decides at once what the policy proposes.
    pub fn publish(&mut self, event: &Event) -> Bytes {
        self.seq += 1;
        let event = Event { key: self.way.key.as_ref().map(|path| path.key(&event.data)), ..event.clone() };
        let delivery = Delivery {
            channel: CHANNEL,
            first_seq: self.seq,
            time_ms: corpora::time_ms(self.seq as usize),
            events: &[event],
            is_chained: true,
        };
        let mut context =
            EncodingContext { config: &self.config, channel: &self.channel, policy: &mut self.policy };
        let mut frames = fan_out::encode(&delivery, &mut self.groups, &mut context);
        if let Some(on) = self.policy.verdict().filter(|_| !self.way.without_policy) {
            self.policy.set(on);
            self.switches.push(self.seq);
        }
        frames.buffer_for(
            self.place,
            SocketIdentity { socket: self.socket, previous_socket_ids: &[] },
            &mut self.bases,
        )
    }
}
