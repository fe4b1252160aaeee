//! The published batches, and the subscribers that receive each of them.

use std::ops::Range;

use rand::distr::Alphanumeric;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Each batch goes to the next `batch_channels` of the `channels`, round robin, with `events`
/// events per channel. Subscriber `n` is subscribed to channel `n % channels`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub channels: u32,
    pub batch_channels: u32,
    pub events: u32,
    pub payload: Payload,
}

/// Event data: a JSON object of `bytes` bytes. Its first member is the number of the event
/// within the channel, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payload {
    pub bytes: u32,
    pub text: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// Words of 16 hexadecimal digits, different in every event.
    Distinct,
    /// The same text in all events. Only a few numbers change.
    Similar,
    /// Random text, so that no delta is shorter than its event.
    Random,
}

#[derive(Debug, Clone)]
pub struct Event {
    pub channel: String,
    pub data: String,
}

impl Load {
    /// Batches of ten events for one channel.
    pub fn one_channel(payload: Payload) -> Load {
        Load { channels: 1, batch_channels: 1, events: 10, payload }
    }

    /// The number of batches after which every channel has received one.
    fn batches_per_round(self) -> u32 {
        self.channels / self.batch_channels
    }

    /// The channel numbers of a batch.
    pub fn channels_of(self, batch: u32) -> Range<u32> {
        let first = batch % self.batches_per_round() * self.batch_channels;
        first..first + self.batch_channels
    }

    /// The batch that contains event `number` of `channel`.
    pub fn batch_of(self, channel: u32, number: u64) -> u32 {
        let round = number / u64::from(self.events);
        u32::try_from(round).unwrap_or(u32::MAX) * self.batches_per_round() + channel / self.batch_channels
    }

    /// The number of events for `channel` in the first `batches` batches.
    pub fn count(self, channel: u32, batches: u32) -> u64 {
        let slot = channel / self.batch_channels;
        let rounds = (batches + self.batches_per_round() - 1 - slot) / self.batches_per_round();
        u64::from(rounds) * u64::from(self.events)
    }

    /// The number of subscribers of a batch among `sockets`.
    pub fn subscriber_count(self, batch: u32, sockets: Range<u32>) -> u32 {
        let subscribers = |channel: u32| {
            let before = |end: u32| (end + self.channels - 1 - channel) / self.channels;
            before(sockets.end) - before(sockets.start)
        };
        self.channels_of(batch).map(subscribers).sum()
    }

    /// The events of a batch in publishing order: the events of a channel are consecutive.
    pub fn batch(self, batch: u32) -> Vec<Event> {
        let round = u64::from(batch / self.batches_per_round());
        let numbers = round * u64::from(self.events)..(round + 1) * u64::from(self.events);
        let events = self.channels_of(batch).flat_map(|channel| {
            numbers
                .clone()
                .map(move |number| Event { channel: name(channel), data: self.payload.text(number) })
        });
        events.collect()
    }
}

/// The name of the channel with this number.
pub fn name(channel: u32) -> String {
    format!("bench-{channel}")
}

impl Payload {
    pub const SMALL: Payload = Payload { bytes: 200, text: Text::Distinct };
    /// Consecutive events differ in a few bytes, so that deltas are much shorter.
    pub const SIMILAR: Payload = Payload { bytes: 1024, text: Text::Similar };

    fn text(self, number: u64) -> String {
        let noise = |salt: u64| (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15 ^ salt) >> 20;
        let start = format!(r#"{{"number":{number},"price":{},"volume":{},"text":""#, noise(1), noise(2));
        let end = r#""}"#;
        let filler_len = (self.bytes as usize).saturating_sub(start.len() + end.len());
        let mut filler = String::with_capacity(filler_len + 64);
        let mut random = StdRng::seed_from_u64(number);
        for salt in 0.. {
            if filler.len() >= filler_len {
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
        filler.truncate(filler_len);
        start + &filler + end
    }
}
