//! A run: one server with its subscribers, a number of batches, and their cost.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::Outcome;
use crate::crowd::{Crowd, CrowdConfig, Total};
use crate::load::Load;
use crate::machine::monotonic_ns;
use crate::process::Cpu;
use crate::publisher::{PublishMode, Publisher};
use crate::servers::{Cluster, Contender, floor};

/// Time for work that remains after the last subscriber has the last batch.
const DRAIN_TIME: Duration = Duration::from_millis(100);
/// Time for a server to return memory of the connect phase before it is measured.
pub const SETTLE_TIME: Duration = Duration::from_secs(2);
/// The run of a slow server ends after this time, but not before `BATCHES_MIN` batches.
const RUN_TIME: Duration = Duration::from_secs(15);
const BATCHES_MIN: u32 = 10;

pub type Figures = BTreeMap<String, f64>;

/// The load and settings of a run, equal for all contenders.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub load: Load,
    pub sockets: u32,
    /// Batches published before the measurement.
    pub warm_up: u32,
    pub batches: u32,
    pub deltas: bool,
    pub mode: PublishMode,
    /// Time between batches. `None`: a batch follows when all subscribers have the previous one.
    pub interval: Option<Duration>,
}

/// A running server with its subscribers and its publisher.
#[derive(Debug)]
pub struct Setup {
    pub plan: Plan,
    pub cluster: Cluster,
    pub crowd: Crowd,
    pub publisher: Publisher,
    published: u32,
    before_bytes: f64,
}

impl Plan {
    pub fn new(load: Load, sockets: u32, batches: u32) -> Plan {
        let warm_up = batches.div_ceil(5);
        Plan { load, sockets, warm_up, batches, deltas: false, mode: PublishMode::Batch, interval: None }
    }

    fn all(&self) -> u32 {
        self.warm_up + self.batches
    }
}

impl Setup {
    /// Starts the server and connects publisher and subscribers. `floor_bytes` is the size of a
    /// batch for one socket, used by the floor only.
    pub async fn start(
        plan: Plan,
        contender: &Contender,
        cores: Option<&str>,
        floor_bytes: usize,
    ) -> Outcome<Setup> {
        let mut cluster = Cluster::start(contender, cores).await?;
        let publisher = Publisher::start(&cluster, plan.load, plan.mode, plan.all(), floor_bytes).await?;
        let before_bytes = cluster.resident_bytes()?;
        let config = CrowdConfig {
            addresses: cluster.addresses(),
            protocol: contender.protocol(true, plan.deltas),
            load: plan.load,
            batches: plan.all(),
            sample: SAMPLE,
            sockets: 0..plan.sockets,
        };
        let crowd = connect_crowd(&mut cluster, &config).await?;
        Ok(Setup { plan, cluster, crowd, publisher, published: 0, before_bytes })
    }

    /// Resident bytes per subscriber: the increase since the start, divided by the subscribers.
    pub async fn idle_bytes(&self) -> Outcome<f64> {
        sleep(SETTLE_TIME).await;
        let more = self.cluster.resident_bytes()? - self.before_bytes;
        Ok(more.max(0.0) / f64::from(self.plan.sockets))
    }

    pub async fn warm_up(&mut self) -> Outcome<()> {
        self.publish(0..self.plan.warm_up).await.map(drop)
    }

    /// Publishes the measured batches. Returns their figures, and the totals of all subscribers.
    pub async fn run(&mut self) -> Outcome<(Figures, Total)> {
        let before = Counters::read(self).await?;
        let times = self.publish(self.plan.warm_up..self.plan.all()).await?;
        sleep(DRAIN_TIME).await;
        let after = Counters::read(self).await?;
        Ok((figures(&self.plan, &times, &before, &after), after.total))
    }

    async fn publish(&mut self, batches: Range<u32>) -> Outcome<Vec<Times>> {
        let Setup { plan, cluster, crowd, publisher, .. } = self;
        let (first, mut sent) = (batches.start, Vec::new());
        let started = Instant::now();
        for batch in batches {
            if let Some(interval) = plan.interval {
                tokio::time::sleep_until((started + interval * (batch - first)).into()).await;
            }
            let sent_ns = monotonic_ns();
            publisher.publish(cluster, batch).await?;
            sent.push((sent_ns, monotonic_ns()));
            self.published = batch + 1;
            // No further batches after an incomplete one. Missing events count as lost.
            if plan.interval.is_none() && crowd.last_ns(batch).await?.is_none() {
                break;
            }
            if batch - first >= BATCHES_MIN && started.elapsed() > RUN_TIME {
                break;
            }
        }
        let mut times = Vec::new();
        for (batch, (sent_ns, response_ns)) in (first..).zip(sent) {
            let ms = |ns: u64| ns.saturating_sub(sent_ns) as f64 / 1e6;
            let Some(last_ns) = self.crowd.last_ns(batch).await? else { break };
            times.push(Times { answer_ms: ms(response_ns), last_ms: ms(last_ns) });
        }
        Ok(times)
    }
}

/// One subscriber in this many decodes its deltas.
const SAMPLE: u32 = 50;

/// Connects the subscribers. The floor needs their number first.
pub async fn connect_crowd(cluster: &mut Cluster, config: &CrowdConfig) -> Outcome<Crowd> {
    let is_floor = cluster.contender.is_floor();
    if is_floor {
        floor::accept(&mut cluster.nodes[0].process, config.sockets.end)?;
    }
    let crowd = Crowd::connect(config).await?;
    if is_floor {
        floor::accepted(&mut cluster.nodes[0].process).await?;
    }
    Ok(crowd)
}

#[derive(Debug, Clone, Copy)]
struct Times {
    answer_ms: f64,
    last_ms: f64,
}

/// The counters that are read before and after the measured batches.
struct Counters {
    cpu: Cpu,
    redis_cpu: Option<f64>,
    redis_bytes: Option<f64>,
    writes: Option<f64>,
    entries: Option<f64>,
    total: Total,
}

impl Counters {
    async fn read(setup: &mut Setup) -> Outcome<Counters> {
        let total = setup.crowd.total(setup.published).await?;
        let cluster = &setup.cluster;
        let redis_bytes = match &cluster.redis {
            Some(redis) => Some(redis.sent_bytes().await?),
            None => None,
        };
        Ok(Counters {
            redis_bytes,
            writes: cluster.counter("fanfare_writes_total").await?,
            entries: cluster.counter("fanfare_entries_received_total").await?,
            redis_cpu: cluster.redis_cpu()?,
            cpu: cluster.cpu()?,
            total,
        })
    }
}

fn figures(plan: &Plan, times: &[Times], before: &Counters, after: &Counters) -> Figures {
    let batches = times.len() as f64;
    let events = (after.total.events - before.total.events) as f64;
    // Deliveries: batches multiplied by the subscribers that each of them has.
    let deliveries = events / f64::from(plan.load.events);
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
    put(
        "writes_per_socket_and_batch",
        between(before.writes, after.writes).map(|writes| writes / deliveries),
    );
    let per_batch = |before, after, unit: f64| between(before, after).map(|value| value * unit / batches);
    put("redis_cpu_us_per_batch", per_batch(before.redis_cpu, after.redis_cpu, 1e6));
    put("redis_bytes_per_batch", per_batch(before.redis_bytes, after.redis_bytes, 1.0));
    let has_redis = before.redis_cpu.is_some();
    let messages = per_batch(before.entries, after.entries, 1.0).filter(|_| has_redis);
    put("redis_messages_per_batch", messages);
    put("decoded_deltas", Some(after.total.decoded as f64).filter(|_| plan.deltas));
    figures
}

/// The value at `share`, from 0 to 1, of an ascending slice. `None` if it is empty.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(last as f64 * share).round() as usize])
}
