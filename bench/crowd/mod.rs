//! Thousands of subscribers, in processes of their own: a process has descriptors
//! for some of them only, and what they need is none of the coordinator's time.

pub mod program;

mod connect;
mod delta;
mod subscriber;
mod tally;
mod track;

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::load::Load;
use crate::process::Process;
use crate::record::Faults;

/// What subscribers say when they have connected, and how they are answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Speech {
    /// A number, so that the floor knows who is who. Nothing that comes is read as
    /// an event: frames are counted.
    Floor,
    /// Pusher's protocol.
    Pusher { key: String, dialect: Dialect, subscribes: bool, deltas: bool },
    /// The channel is in the path, and a frame has the bare payload.
    Nchan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// Numbers of a channel's events with deltas go up by one.
    Pusher,
    /// What Sockudo sends deltas to. Each socket has numbers of its own, so that only
    /// those who decode know which event it was; the others' are counted.
    Sockudo,
}

impl Dialect {
    fn prefix(self) -> &'static str {
        match self {
            Dialect::Pusher => "pusher",
            Dialect::Sockudo => "sockudo",
        }
    }

    fn protocol(self) -> u8 {
        match self {
            Dialect::Pusher => 7,
            Dialect::Sockudo => 2,
        }
    }
}

/// A line to a crowd's process.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Gather(Gather),
    /// What they have been sent; so many batches have been published.
    Total {
        batches: u32,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Gather {
    /// Of the nodes, in turn.
    pub addresses: Vec<SocketAddr>,
    pub speech: Speech,
    pub load: Load,
    /// Batches that are to come.
    pub batches: u32,
    /// Of so many subscribers one decodes its deltas.
    pub sample: u32,
    /// The subscribers of this process, by number.
    pub sockets: Range<u32>,
}

/// A line from it.
#[derive(Debug, Serialize, Deserialize)]
enum Said {
    /// Everyone is there, after so many seconds.
    Gathered(f64),
    /// The last subscriber had the batch at this time of the monotonic clock, ns.
    Batch {
        batch: u32,
        last_ns: u64,
    },
    Total(Total),
    Failed(String),
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Total {
    pub events: u64,
    pub bytes: u64,
    /// Deltas that gave their event, of those who decode.
    pub decoded: u64,
    pub faults: Faults,
}

const GATHER_PATIENCE: Duration = Duration::from_secs(120);
/// A batch that has not come after this time does not come.
const BATCH_PATIENCE: Duration = Duration::from_secs(20);

/// Subscribers that one process has descriptors for.
pub const PROCESS_SOCKETS_MAX: u32 = 15_000;

#[derive(Debug)]
pub struct Crowd {
    load: Load,
    parts: Vec<Part>,
    /// Seconds from the first connect to the last.
    pub gathered_in: f64,
}

/// One process.
#[derive(Debug)]
struct Part {
    process: Process,
    sockets: Range<u32>,
    /// By batch, as far as they have been heard.
    lasts_ns: Vec<Option<u64>>,
}

impl Crowd {
    /// Starts as many processes as it takes and has each subscribe its share.
    pub async fn gather(all: &Gather) -> Outcome<Crowd> {
        let mut crowd = Crowd { load: all.load, parts: Vec::new(), gathered_in: 0.0 };
        for first in all.sockets.clone().step_by(PROCESS_SOCKETS_MAX as usize) {
            let sockets = first..all.sockets.end.min(first + PROCESS_SOCKETS_MAX);
            let process = Process::start(&std::env::current_exe()?, &["crowd"], None)?;
            let lasts_ns = vec![None; all.batches as usize];
            let mut part = Part { process, sockets: sockets.clone(), lasts_ns };
            part.order(&Order::Gather(Gather { sockets, ..all.clone() }))?;
            crowd.parts.push(part);
        }
        for part in &mut crowd.parts {
            let Some(Said::Gathered(seconds)) = part.hear(GATHER_PATIENCE).await? else {
                return Err("a crowd does not come together".into());
            };
            crowd.gathered_in = crowd.gathered_in.max(seconds);
        }
        Ok(crowd)
    }

    /// When the last subscriber had the batch, ns of the monotonic clock; None if some
    /// do not have it in time. What is missing is in [`Crowd::total`].
    pub async fn has(&mut self, batch: u32) -> Outcome<Option<u64>> {
        let mut last_ns = 0;
        for part in &mut self.parts {
            if self.load.audience(batch, part.sockets.clone()) > 0 {
                let Some(ns) = part.has(batch).await? else { return Ok(None) };
                last_ns = last_ns.max(ns);
            }
        }
        Ok(Some(last_ns))
    }

    /// Everything so far.
    pub async fn total(&mut self, batches: u32) -> Outcome<Total> {
        let mut total = Total::default();
        for part in &mut self.parts {
            let one = part.total(batches).await?;
            total.events += one.events;
            total.bytes += one.bytes;
            total.decoded += one.decoded;
            total.faults += one.faults;
        }
        Ok(total)
    }
}

impl Part {
    async fn has(&mut self, batch: u32) -> Outcome<Option<u64>> {
        while self.lasts_ns[batch as usize].is_none() {
            match self.hear(BATCH_PATIENCE).await? {
                Some(Said::Batch { batch, last_ns }) => self.lasts_ns[batch as usize] = Some(last_ns),
                Some(other) => return Err(format!("a crowd said {other:?}").into()),
                None => break,
            }
        }
        Ok(self.lasts_ns[batch as usize])
    }

    async fn total(&mut self, batches: u32) -> Outcome<Total> {
        self.order(&Order::Total { batches })?;
        loop {
            match self.hear(BATCH_PATIENCE).await? {
                Some(Said::Batch { batch, last_ns }) => self.lasts_ns[batch as usize] = Some(last_ns),
                Some(Said::Total(total)) => return Ok(total),
                other => return Err(format!("a crowd said {other:?}").into()),
            }
        }
    }

    fn order(&mut self, order: &Order) -> Outcome<()> {
        let line = serde_json::to_string(order)?;
        Ok(writeln!(self.process.stdin()?, "{line}")?)
    }

    /// The next that it says, in time.
    async fn hear(&mut self, patience: Duration) -> Outcome<Option<Said>> {
        let Some(line) = self.process.line(patience).await else { return Ok(None) };
        match serde_json::from_str(&line) {
            Ok(Said::Failed(why)) => Err(why.into()),
            Ok(said) => Ok(Some(said)),
            Err(_) => Err(format!("a crowd ended: {line}").into()),
        }
    }
}
