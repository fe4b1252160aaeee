//! What is published, batch after batch, and to whom it goes.

use std::ops::Range;

use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Each batch goes to `batch_channels` of the `channels`, to those after the ones
/// before, and has `events` events for each of them. Subscriber n is on channel n,
/// counted modulo `channels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub channels: u32,
    pub batch_channels: u32,
    pub events: u32,
    pub payload: Payload,
}

/// A JSON object that begins with its event's number on the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub bytes: u32,
    pub text: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// All different, of sixteen letters.
    Distinct,
    /// The same in all events; only a few numbers change.
    Similar,
    /// Nothing comes again, so that no delta is shorter.
    Random,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub channel: String,
    pub data: String,
}

impl Load {
    /// Ten events for one channel.
    pub fn one_channel(payload: Payload) -> Load {
        Load { channels: 1, batch_channels: 1, events: 10, payload }
    }

    /// How many batches it takes until each channel has had its turn.
    fn turns(self) -> u32 {
        self.channels / self.batch_channels
    }

    /// The channels of a batch, by number.
    pub fn channels_of(self, batch: u32) -> Range<u32> {
        let first = batch % self.turns() * self.batch_channels;
        first..first + self.batch_channels
    }

    /// The batch that has event `number` of `channel`.
    pub fn batch_of(self, channel: u32, number: u64) -> u32 {
        let round = number / u64::from(self.events);
        u32::try_from(round).unwrap_or(u32::MAX) * self.turns() + channel / self.batch_channels
    }

    /// How many events of `channel` are in the first `batches` batches.
    pub fn count(self, channel: u32, batches: u32) -> u64 {
        let turn = channel / self.batch_channels;
        let rounds = (batches + self.turns() - 1 - turn) / self.turns();
        u64::from(rounds) * u64::from(self.events)
    }

    /// The subscribers among `sockets` that a batch goes to.
    pub fn audience(self, batch: u32, sockets: Range<u32>) -> u32 {
        let on = |channel: u32| {
            let before = |end: u32| (end + self.channels - 1 - channel) / self.channels;
            before(sockets.end) - before(sockets.start)
        };
        self.channels_of(batch).map(on).sum()
    }

    /// A batch, in the order of publishing: each channel's events follow each other.
    pub fn batch(self, batch: u32) -> Vec<Event> {
        let round = u64::from(batch / self.turns());
        let numbers = round * u64::from(self.events)..(round + 1) * u64::from(self.events);
        let events = self.channels_of(batch).flat_map(|channel| {
            numbers
                .clone()
                .map(move |number| Event { channel: name(channel), data: self.payload.text(number) })
        });
        events.collect()
    }
}

pub fn name(channel: u32) -> String {
    format!("bench-{channel}")
}

impl Payload {
    pub const SMALL: Payload = Payload { bytes: 200, text: Text::Distinct };
    /// Deltas pay for these.
    pub const SIMILAR: Payload = Payload { bytes: 1024, text: Text::Similar };

    fn text(self, number: u64) -> String {
        let noise = |salt: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt) >> 20;
        let start = format!(r#"{{"number":{number},"price":{},"volume":{},"text":""#, noise(1), noise(2));
        let end = r#""}"#;
        let room = (self.bytes as usize).saturating_sub(start.len() + end.len());
        let mut filler = String::with_capacity(room + 64);
        let mut random = StdRng::seed_from_u64(number);
        for salt in 0.. {
            if filler.len() >= room {
                break;
            }
            match self.text {
                Text::Distinct => filler += &format!("{:016x}", noise(salt)),
                Text::Similar => filler += "the same as in every other event of this channel ",
                Text::Random => {
                    filler.extend((&mut random).sample_iter(Alphanumeric).take(64).map(char::from));
                }
            }
        }
        filler.truncate(room);
        start + &filler + end
    }
}
