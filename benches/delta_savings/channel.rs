//! One channel of a node with one subscriber, like those of [`fanfare::channels`].

use bytes::Bytes;
use fanfare::delta::Algorithm;
use fanfare::delta::chain::Chains;
use fanfare::delta::channels::{ChannelDelta, ChannelDeltas};
use fanfare::delta::conflation::KeyPath;
use fanfare::delta::policy::Policy;
use fanfare::delta::settings::DeltaConfig;
use fanfare::encode::{Delivery, DeliveryOptions};
use fanfare::event::{Event, SocketId};
use fanfare::subscribers::{BaseState, FanOutContext, Groups, SocketIdentity, fan_out};

use super::corpora;

pub const CHANNEL: &str = "public-room-17";

/// How events are encoded.
#[derive(Debug, Clone, Default)]
pub struct Mode {
    /// `None`: deltas are off.
    pub algorithm: Option<Algorithm>,
    pub key: Option<KeyPath>,
    /// Whether deltas stay on regardless of their savings.
    pub without_policy: bool,
}

pub struct Channel {
    mode: Mode,
    config: DeltaConfig,
    delta: ChannelDelta,
    policy: Policy,
    groups: Groups,
    group: u32,
    bases: BaseState,
    socket: SocketId,
    seq: u64,
    /// The numbers of the events after which deltas were switched off, or on again.
    pub switches: Vec<u64>,
}

impl Channel {
    pub fn new(mode: Mode) -> Channel {
        let config = DeltaConfig { conflation_key: mode.key.clone(), ..DeltaConfig::default() };
        let options = DeliveryOptions { algorithm: mode.algorithm, ..DeliveryOptions::default() };
        let mut groups = Groups::default();
        let (group, bases) = groups.enter(&options, &Chains::default(), 1);
        Channel {
            delta: ChannelDeltas::default().on(CHANNEL, &config),
            mode,
            config,
            policy: Policy::default(),
            groups,
            group,
            bases,
            socket: SocketId::random(),
            seq: 0,
            switches: Vec::new(),
        }
    }

    /// The frames of an event: reads its conflation key, encodes it, and applies the proposal of
    /// the policy at once, without a round trip through Redis.
    pub fn publish(&mut self, event: &Event) -> Bytes {
        self.seq += 1;
        let event = Event { key: self.mode.key.as_ref().map(|path| path.key(&event.data)), ..event.clone() };
        let delivery = Delivery {
            channel: CHANNEL,
            first_seq: self.seq,
            time_ms: corpora::time_ms(self.seq as usize),
            events: &[event],
            is_chained: true,
        };
        let mut context = FanOutContext::new(&self.config, &self.delta, &mut self.policy);
        let mut frames = fan_out(&delivery, &mut self.groups, &mut context);
        if let Some(on) = self.policy.verdict().filter(|_| !self.mode.without_policy) {
            self.policy.set(on);
            self.switches.push(self.seq);
        }
        frames.buffer_for(
            self.group,
            SocketIdentity { socket: self.socket, previous_socket_ids: &[] },
            &mut self.bases,
        )
    }
}
