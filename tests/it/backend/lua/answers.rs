//! Decoded replies of scripts.

use super::calls::{Batch, Call, Update};
use super::client::{bulk, items, number};
use super::stage::Stage;
use crate::support::resp::Reply;

/// Reply of the two scripts that write memberships.
#[derive(Debug, PartialEq, Eq)]
pub struct UpdatedMembership {
    pub at: Option<At>,
    pub total: i64,
    pub refused: Vec<i64>,
    pub last: Option<Last>,
    pub deltas_off: bool,
    pub is_refused: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct At {
    pub epoch: u64,
    pub seq: u64,
    pub id: Vec<u8>,
    pub time_ms: u64,
}

/// The last event of a cache channel.
#[derive(Debug, PartialEq, Eq)]
pub struct Last {
    pub event: Vec<u8>,
    pub seq: u64,
    pub time_ms: u64,
    pub ttl_ms: u64,
}

impl Last {
    pub fn of(reply: Reply) -> Option<Last> {
        let parts = items(reply);
        let [event, seq, time, ttl] = &parts[..] else {
            assert!(parts.is_empty(), "{parts:?}");
            return None;
        };
        Some(Last { event: bulk(event), seq: number(seq), time_ms: number(time), ttl_ms: number(ttl) })
    }
}

impl At {
    fn of(reply: Reply) -> Option<At> {
        let parts = items(reply);
        let [epoch, seq, id, time] = &parts[..] else {
            assert!(parts.is_empty(), "{parts:?}");
            return None;
        };
        Some(At { epoch: number(epoch), seq: number(seq), id: bulk(id), time_ms: number(time) })
    }
}

impl Stage {
    pub async fn run_integer(&mut self, call: &Call) -> i64 {
        self.run(call).await.integer()
    }

    /// The state of the charge, and the requested counts.
    pub async fn publish(&mut self, batch: &Batch) -> ([i64; 3], Vec<i64>) {
        let mut numbers: Vec<i64> = self.run_numbers(&batch.call()).await;
        let counts = numbers.split_off(3);
        (numbers.try_into().unwrap(), counts)
    }

    /// The subscriptions and users of each channel with requested counts.
    pub async fn published(&mut self, batch: &Batch) -> Vec<i64> {
        self.publish(batch).await.1
    }

    pub async fn run_numbers(&mut self, call: &Call) -> Vec<i64> {
        items(self.run(call).await).iter().map(Reply::integer).collect()
    }

    pub async fn update(&mut self, update: &Update) -> UpdatedMembership {
        let mut parts = items(self.run(&update.call()).await).into_iter();
        let mut next = || parts.next().unwrap();
        UpdatedMembership {
            at: At::of(next()),
            total: next().integer(),
            refused: items(next()).iter().map(Reply::integer).collect(),
            last: Last::of(next()),
            deltas_off: next().integer() == 1,
            is_refused: next().integer() == 1,
        }
    }

    pub async fn total(&mut self, channel: &str, node: &'static str, count: u64) -> i64 {
        self.update(&Update::new(channel, node, count)).await.total
    }
}
