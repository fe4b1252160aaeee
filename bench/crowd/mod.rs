//! The crowd: thousands of subscribers in separate processes, because of the limit of file
//! descriptors per process, and to keep their CPU time out of the coordinator.

pub mod program;

mod connect;
mod delta;
mod sequence;
mod subscriber;
mod tally;

use std::io::Write;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Outcome;
use crate::load::Load;
use crate::process::Process;
use crate::record::Faults;

/// The handshake of subscribers and the format of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// The floor: the client sends its number, which selects its channel. Frames are counted, not
    /// parsed.
    Floor,
    /// The Pusher protocol.
    Pusher { key: String, event_prefix: EventPrefix, subscribes: bool, deltas: bool },
    /// The path selects the channel, and a frame holds the bare payload.
    Nchan,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventPrefix {
    /// The sequence numbers of a channel with deltas increase by one per event.
    Pusher,
    /// The only prefix with which Sockudo sends deltas. Its sequence numbers are per socket, so
    /// that only subscribers that decode can identify an event. The others count frames.
    Sockudo,
}

impl EventPrefix {
    fn prefix(self) -> &'static str {
        match self {
            EventPrefix::Pusher => "pusher",
            EventPrefix::Sockudo => "sockudo",
        }
    }

    fn protocol_version(self) -> u8 {
        match self {
            EventPrefix::Pusher => 7,
            EventPrefix::Sockudo => 2,
        }
    }
}

/// A line to a crowd process.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    Connect(CrowdConfig),
    /// Requests the totals. `batches` is the number of published batches.
    Total {
        batches: u32,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CrowdConfig {
    /// Addresses of the nodes. Subscribers connect round robin.
    pub addresses: Vec<SocketAddr>,
    pub protocol: Protocol,
    pub load: Load,
    /// Number of batches to expect.
    pub batches: u32,
    /// One subscriber in `sample` decodes its deltas.
    pub sample: u32,
    /// The numbers of the subscribers of this process.
    pub sockets: Range<u32>,
}

/// A line from a crowd process.
#[derive(Debug, Serialize, Deserialize)]
enum Report {
    /// All subscribers have connected, after this many seconds.
    Connected(f64),
    /// All subscribers have the batch. `last_ns` is the time of the last one, in ns of the
    /// monotonic clock.
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
    /// Deltas that decoded to their event, on the subscribers that decode.
    pub decoded: u64,
    pub faults: Faults,
}

const CROWD_CONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// A batch that is incomplete after this time counts as lost.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// Subscribers per process, within the limit of file descriptors.
pub const PROCESS_SOCKETS_MAX: u32 = 15_000;

#[derive(Debug)]
pub struct Crowd {
    load: Load,
    parts: Vec<Part>,
    /// Seconds from the first connect to the last.
    pub connect_seconds: f64,
}

/// One crowd process.
#[derive(Debug)]
struct Part {
    process: Process,
    sockets: Range<u32>,
    /// By batch: the time of the last subscriber, once reported.
    lasts_ns: Vec<Option<u64>>,
}

impl Crowd {
    /// Starts the processes and connects the subscribers, up to [`PROCESS_SOCKETS_MAX`] in each.
    pub async fn connect(config: &CrowdConfig) -> Outcome<Crowd> {
        let mut crowd = Crowd { load: config.load, parts: Vec::new(), connect_seconds: 0.0 };
        for first in config.sockets.clone().step_by(PROCESS_SOCKETS_MAX as usize) {
            let sockets = first..config.sockets.end.min(first + PROCESS_SOCKETS_MAX);
            let process = Process::start(&std::env::current_exe()?, &["crowd"], None)?;
            let lasts_ns = vec![None; config.batches as usize];
            let mut part = Part { process, sockets: sockets.clone(), lasts_ns };
            part.send(&Request::Connect(CrowdConfig { sockets, ..config.clone() }))?;
            crowd.parts.push(part);
        }
        for part in &mut crowd.parts {
            let Some(Report::Connected(seconds)) = part.next_report(CROWD_CONNECT_TIMEOUT).await? else {
                return Err("a crowd process did not connect all subscribers in time".into());
            };
            crowd.connect_seconds = crowd.connect_seconds.max(seconds);
        }
        Ok(crowd)
    }

    /// The time at which the last subscriber had the batch, in ns of the monotonic clock. `None`
    /// after a timeout; [`Crowd::total`] then counts the missing events.
    pub async fn last_ns(&mut self, batch: u32) -> Outcome<Option<u64>> {
        let mut last_ns = 0;
        for part in &mut self.parts {
            if self.load.subscriber_count(batch, part.sockets.clone()) > 0 {
                let Some(ns) = part.last_ns(batch).await? else { return Ok(None) };
                last_ns = last_ns.max(ns);
            }
        }
        Ok(Some(last_ns))
    }

    /// The totals of all subscribers since the connect.
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
    async fn last_ns(&mut self, batch: u32) -> Outcome<Option<u64>> {
        while self.lasts_ns[batch as usize].is_none() {
            match self.next_report(BATCH_TIMEOUT).await? {
                Some(Report::Batch { batch, last_ns }) => self.lasts_ns[batch as usize] = Some(last_ns),
                Some(other) => return Err(format!("unexpected report of a crowd process: {other:?}").into()),
                None => break,
            }
        }
        Ok(self.lasts_ns[batch as usize])
    }

    async fn total(&mut self, batches: u32) -> Outcome<Total> {
        self.send(&Request::Total { batches })?;
        loop {
            match self.next_report(BATCH_TIMEOUT).await? {
                Some(Report::Batch { batch, last_ns }) => self.lasts_ns[batch as usize] = Some(last_ns),
                Some(Report::Total(total)) => return Ok(total),
                other => return Err(format!("unexpected report of a crowd process: {other:?}").into()),
            }
        }
    }

    fn send(&mut self, request: &Request) -> Outcome<()> {
        let line = serde_json::to_string(request)?;
        Ok(writeln!(self.process.stdin()?, "{line}")?)
    }

    /// The next report. `None` after `timeout`.
    async fn next_report(&mut self, timeout: Duration) -> Outcome<Option<Report>> {
        let Some(line) = self.process.next_line(timeout).await else { return Ok(None) };
        match serde_json::from_str(&line) {
            Ok(Report::Failed(error)) => Err(error.into()),
            Ok(report) => Ok(Some(report)),
            Err(_) => Err(format!("a crowd process ended: {line}").into()),
        }
    }
}
