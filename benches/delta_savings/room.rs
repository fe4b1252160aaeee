//! One channel of a node with one subscriber, as [`fanfare::inbox`] has it.

use bytes::Bytes;
use fanfare::delta::Algorithm;
use fanfare::delta::chain::Chains;
use fanfare::delta::channels::{ChannelDelta, ChannelDeltas};
use fanfare::delta::conflation::KeyPath;
use fanfare::delta::policy::Policy;
use fanfare::delta::settings::DeltaConfig;
use fanfare::event::{Event, SocketId};
use fanfare::fan_out::{self, Audiences, Delivery, Form, Holds, Names, Rules};

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
    audiences: Audiences,
    place: u32,
    holds: Holds,
    socket: SocketId,
    seq: u64,
    /// The events after which deltas were switched off, or on again.
    pub switches: Vec<u64>,
}

impl Room {
    pub fn new(way: Way) -> Room {
        let config = DeltaConfig { conflation_key: way.key.clone(), ..DeltaConfig::default() };
        let form = Form { algorithm: way.algorithm, ..Form::default() };
        let mut audiences = Audiences::default();
        let (place, holds) = audiences.enter(&form, &Chains::default(), 1);
        Room {
            channel: ChannelDeltas::default().on(CHANNEL, &config),
            way,
            config,
            policy: Policy::default(),
            audiences,
            place,
            holds,
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
        let mut rules = Rules { config: &self.config, channel: &self.channel, policy: &mut self.policy };
        let mut frames = fan_out::encode(&delivery, &mut self.audiences, &mut rules);
        if let Some(on) = self.policy.verdict().filter(|_| !self.way.without_policy) {
            self.policy.set(on);
            self.switches.push(self.seq);
        }
        frames.chunk_for(self.place, Names { socket: self.socket, former: &[] }, &mut self.holds)
    }
}
