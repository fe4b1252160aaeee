//! One server with its subscribers: so many batches, and what they cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Outcome;
use crate::crowd::{Crowd, Gather, Total};
use crate::load::Load;
use crate::machine::monotonic_ns;
use crate::process::Cpu;
use crate::publisher::{Publisher, Way};
use crate::servers::{Contender, Fleet, floor};

/// What is still under way when the last subscriber has the last batch.
const AFTERMATH: Duration = Duration::from_millis(100);
/// What connecting took is given back before anyone looks at what is held.
pub const SETTLE: Duration = Duration::from_secs(2);
/// A slow server is stopped after this time, and after so many batches.
const RUN_TIME: Duration = Duration::from_secs(15);
const BATCHES_MIN: u32 = 10;

pub type Figures = BTreeMap<String, f64>;

/// What is asked of every contender alike.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub load: Load,
    pub sockets: u32,
    /// Published before anything is measured.
    pub warm_up: u32,
    pub batches: u32,
    pub deltas: bool,
    pub way: Way,
    /// Between two batches; without, the next comes when all have the one before.
    pub beat: Option<Duration>,
}

/// A server, its subscribers, and who publishes.
#[derive(Debug)]
pub struct Scene {
    pub plan: Plan,
    pub fleet: Fleet,
    pub crowd: Crowd,
    pub publisher: Publisher,
    published: u32,
    before_bytes: f64,
}

impl Plan {
    pub fn new(load: Load, sockets: u32, batches: u32) -> Plan {
        let warm_up = batches.div_ceil(5);
        Plan { load, sockets, warm_up, batches, deltas: false, way: Way::Batch, beat: None }
    }

    fn all(&self) -> u32 {
        self.warm_up + self.batches
    }
}

impl Scene {
    /// Everyone is there. `floor_bytes` is what a batch is to a socket, for the floor.
    pub async fn set(
        plan: Plan,
        contender: &Contender,
        cores: Option<&str>,
        floor_bytes: usize,
    ) -> Outcome<Scene> {
        let mut fleet = Fleet::start(contender, cores).await?;
        let publisher = Publisher::start(&fleet, plan.load, plan.way, plan.all(), floor_bytes).await?;
        let before_bytes = fleet.resident_bytes()?;
        let gather = Gather {
            addresses: fleet.addresses(),
            speech: contender.speech(true, plan.deltas),
            load: plan.load,
            batches: plan.all(),
            sample: SAMPLE,
            sockets: 0..plan.sockets,
        };
        let crowd = gather_before(&mut fleet, &gather).await?;
        Ok(Scene { plan, fleet, crowd, publisher, published: 0, before_bytes })
    }

    /// Resident bytes for each subscriber, above what the server had without any.
    pub async fn idle_bytes(&self) -> Outcome<f64> {
        sleep(SETTLE).await;
        let more = self.fleet.resident_bytes()? - self.before_bytes;
        Ok(more.max(0.0) / f64::from(self.plan.sockets))
    }

    pub async fn warm_up(&mut self) -> Outcome<()> {
        self.publish(0..self.plan.warm_up).await.map(drop)
    }

    /// Publishes the batches after the warm-up and says what they cost.
    pub async fn run(&mut self) -> Outcome<(Figures, Total)> {
        let before = Counters::read(self).await?;
        let times = self.publish(self.plan.warm_up..self.plan.all()).await?;
        sleep(AFTERMATH).await;
        let after = Counters::read(self).await?;
        Ok((figures(&self.plan, &times, &before, &after), after.total))
    }

    async fn publish(&mut self, batches: Range<u32>) -> Outcome<Vec<Times>> {
        let Scene { plan, fleet, crowd, publisher, .. } = self;
        let (first, mut sent) = (batches.start, Vec::new());
        let started = Instant::now();
        for batch in batches {
            if let Some(beat) = plan.beat {
                tokio::time::sleep_until((started + beat * (batch - first)).into()).await;
            }
            let asked_ns = monotonic_ns();
            publisher.publish(fleet, batch).await?;
            sent.push((asked_ns, monotonic_ns()));
            self.published = batch + 1;
            // Who does not deliver is not asked for more: what is missing counts as lost.
            if plan.beat.is_none() && crowd.has(batch).await?.is_none() {
                break;
            }
            if batch - first >= BATCHES_MIN && started.elapsed() > RUN_TIME {
                break;
            }
        }
        let mut times = Vec::new();
        for (batch, (asked_ns, answered_ns)) in (first..).zip(sent) {
            let ms = |ns: u64| ns.saturating_sub(asked_ns) as f64 / 1e6;
            let Some(last_ns) = self.crowd.has(batch).await? else { break };
            times.push(Times { answer_ms: ms(answered_ns), last_ms: ms(last_ns) });
        }
        Ok(times)
    }
}

/// Of so many subscribers one decodes its deltas.
const SAMPLE: u32 = 50;

/// The floor has to be told that somebody comes.
pub async fn gather_before(fleet: &mut Fleet, gather: &Gather) -> Outcome<Crowd> {
    let is_floor = fleet.contender.is_floor();
    if is_floor {
        floor::accept(&mut fleet.nodes[0].process, gather.sockets.end)?;
    }
    let crowd = Crowd::gather(gather).await?;
    if is_floor {
        floor::accepted(&mut fleet.nodes[0].process).await?;
    }
    Ok(crowd)
}

#[derive(Debug, Clone, Copy)]
struct Times {
    answer_ms: f64,
    last_ms: f64,
}

/// What is read before and after.
struct Counters {
    cpu: Cpu,
    redis_cpu: Option<f64>,
    redis_bytes: Option<f64>,
    writes: Option<f64>,
    entries: Option<f64>,
    total: Total,
}

impl Counters {
    async fn read(scene: &mut Scene) -> Outcome<Counters> {
        let total = scene.crowd.total(scene.published).await?;
        let fleet = &scene.fleet;
        let redis_bytes = match &fleet.redis {
            Some(redis) => Some(redis.sent_bytes().await?),
            None => None,
        };
        Ok(Counters {
            redis_bytes,
            writes: fleet.counter("fanfare_writes_total").await?,
            entries: fleet.counter("fanfare_entries_received_total").await?,
            redis_cpu: fleet.redis_cpu()?,
            cpu: fleet.cpu()?,
            total,
        })
    }
}

fn figures(plan: &Plan, times: &[Times], before: &Counters, after: &Counters) -> Figures {
    let batches = times.len() as f64;
    let events = (after.total.events - before.total.events) as f64;
    // Subscribers that a batch goes to.
    let heard = events / f64::from(plan.load.events);
    let cpu = after.cpu - before.cpu;
    let sorted = |time: fn(&Times) -> f64| -> Vec<f64> {
        let mut all: Vec<f64> = times.iter().map(time).collect();
        all.sort_by(f64::total_cmp);
        all
    };
    let (answers, lasts) = (sorted(|times| times.answer_ms), sorted(|times| times.last_ms));
    let between = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    let mut figures = Figures::new();
    let mut put = |name: &str, value: Option<f64>| {
        figures.extend(value.filter(|value| value.is_finite()).map(|value| (name.to_owned(), value)));
    };
    put("batches", Some(batches));
    put("cpu_us_per_event", Some(cpu.total() * 1e6 / events));
    put("user_share", Some(cpu.user / cpu.total()));
    put("cpu_us_per_batch", Some(cpu.total() * 1e6 / batches));
    put("answer_ms_median", percentile(&answers, 0.5));
    put("answer_ms_p99", percentile(&answers, 0.99));
    put("last_ms_median", percentile(&lasts, 0.5));
    put("last_ms_p99", percentile(&lasts, 0.99));
    put("bytes_per_event", Some((after.total.bytes - before.total.bytes) as f64 / events));
    put("writes_per_socket_and_batch", between(before.writes, after.writes).map(|writes| writes / heard));
    let per_batch = |before, after, unit: f64| between(before, after).map(|value| value * unit / batches);
    put("redis_cpu_us_per_batch", per_batch(before.redis_cpu, after.redis_cpu, 1e6));
    put("redis_bytes_per_batch", per_batch(before.redis_bytes, after.redis_bytes, 1.0));
    let has_redis = before.redis_cpu.is_some();
    let messages = per_batch(before.entries, after.entries, 1.0).filter(|_| has_redis);
    put("redis_messages_per_batch", messages);
    put("decoded_deltas", Some(after.total.decoded as f64).filter(|_| plan.deltas));
    figures
}

/// Of what is sorted.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * share).round() as usize])
}
