//! One run: so many batches, at a pace, and what they cost.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::Outcome;
use super::caller::{APP, Caller, EVENTS_PER_BATCH, Payload};
use super::crowd::Crowd;
use super::fanfare_server::Node;
use super::floor::Floor;
use super::process::{Cpu, Process};
use super::redis::Redis;

/// When the next batch is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// When all sockets have the one before.
    OneByOne,
    /// At the beat of a clock, whoever has the one before.
    Clock,
}

/// Between two batches of [`Pace::Clock`].
const BEAT: Duration = Duration::from_millis(50);
/// What is still under way when the last socket has the last batch.
const AFTERMATH: Duration = Duration::from_millis(100);

/// What delivers the batches.
#[derive(Debug)]
pub enum Stage {
    Fanfare {
        nodes: Vec<Node>,
        redis: Option<Redis>,
        callers: Vec<Caller>,
        /// Ready to be sent, by the number of the batch.
        requests: Vec<Vec<u8>>,
    },
    Floor {
        floor: Floor,
        bytes: usize,
    },
}

/// What a run came to, in seconds and bytes.
#[derive(Debug, Clone)]
pub struct Run {
    pub cpu: Cpu,
    pub redis_cpu: Option<f64>,
    pub batches: f64,
    pub sockets: f64,
    /// From the request to its answer.
    pub answers: Vec<f64>,
    /// From the request to the last socket that has the batch.
    pub lasts: Vec<f64>,
    pub writes: Option<f64>,
    pub bytes: f64,
}

impl Run {
    pub fn deliveries(&self) -> f64 {
        self.batches * self.sockets * EVENTS_PER_BATCH as f64
    }
}

impl Stage {
    pub fn processes(&self) -> Vec<&Process> {
        match self {
            Stage::Fanfare { nodes, .. } => nodes.iter().map(|node| &node.process).collect(),
            Stage::Floor { floor, .. } => vec![&floor.process],
        }
    }

    /// Of all server processes together.
    pub fn cpu(&self) -> Outcome<Cpu> {
        self.processes().into_iter().map(Process::cpu).sum()
    }

    pub fn resident_bytes(&self) -> Outcome<f64> {
        self.processes().into_iter().map(Process::resident_bytes).sum()
    }

    /// Makes the requests that publish batches `0..batches`, in turn through each
    /// node.
    pub fn prepare(&mut self, payload: Payload, channel: &str, batches: u32) -> Outcome<()> {
        let Stage::Fanfare { callers, requests, .. } = self else { return Ok(()) };
        for batch in 0..batches {
            let caller = &callers[batch as usize % callers.len()];
            requests.push(caller.request(&APP, &payload.batch(channel, batch.into()))?);
        }
        Ok(())
    }

    async fn send(&mut self, batch: u32) -> Outcome<()> {
        match self {
            Stage::Fanfare { callers, requests, .. } => {
                let caller = batch as usize % callers.len();
                callers[caller].send(&requests[batch as usize]).await
            }
            Stage::Floor { floor, bytes } => floor.write(*bytes, EVENTS_PER_BATCH).await,
        }
    }

    async fn writes(&self) -> Outcome<Option<f64>> {
        let Stage::Fanfare { nodes, .. } = self else { return Ok(None) };
        let mut writes = 0.0;
        for node in nodes {
            writes += node.counter("fanfare_writes_total").await?;
        }
        Ok(Some(writes))
    }

    fn redis_cpu(&self) -> Outcome<Option<f64>> {
        match self {
            Stage::Fanfare { redis: Some(redis), .. } => Ok(Some(redis.process.cpu()?.total())),
            _ => Ok(None),
        }
    }

    /// Sends batches `first..first + count` to `crowd`.
    pub async fn run(
        &mut self,
        crowd: &Crowd,
        sockets: u32,
        first: u32,
        count: u32,
        pace: Pace,
    ) -> Outcome<Run> {
        let (writes, bytes) = (self.writes().await?, crowd.bytes());
        let (cpu, redis_cpu) = (self.cpu()?, self.redis_cpu()?);
        let (mut sent, mut answers) = (Vec::new(), Vec::new());
        let started = Instant::now();
        for batch in first..first + count {
            if pace == Pace::Clock {
                tokio::time::sleep_until((started + BEAT * (batch - first)).into()).await;
            }
            sent.push(Instant::now());
            self.send(batch).await?;
            answers.push(sent[sent.len() - 1].elapsed().as_secs_f64());
            if pace == Pace::OneByOne {
                crowd.has(batch).await?;
            }
        }
        let mut lasts = Vec::new();
        for (batch, sent) in (first..).zip(&sent) {
            lasts.push((crowd.has(batch).await? - *sent).as_secs_f64());
        }
        sleep(AFTERMATH).await;
        crowd.check()?;
        let redis_cpu = self.redis_cpu()?.zip(redis_cpu).map(|(after, before)| after - before);
        let cpu = self.cpu()? - cpu;
        let writes = self.writes().await?.zip(writes).map(|(after, before)| after - before);
        Ok(Run {
            cpu,
            redis_cpu,
            batches: count.into(),
            sockets: sockets.into(),
            answers,
            lasts,
            writes,
            bytes: (crowd.bytes() - bytes) as f64,
        })
    }
}
