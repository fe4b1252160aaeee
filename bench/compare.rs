//! `compare`: the same loads on every server, one server at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use crate::crowd::{CrowdConfig, Total};
use crate::journal::{Journal, progress};
use crate::load::{Load, Payload};
use crate::record::Record;
use crate::run::{self, Figures, Plan, Setup, connect_crowd};
use crate::servers::{Cluster, Contender};
use crate::{Bench, Outcome, machine};

/// A load of the comparison. The names are those of the table rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Case {
    OneChannel,
    Deltas,
    ManyChannels,
    Connects,
    Burst,
}

const CASES: [Case; 5] = [Case::OneChannel, Case::Deltas, Case::ManyChannels, Case::Connects, Case::Burst];

const MANY_CHANNELS: u32 = 2_000;
/// Factor on the number of batches: a batch with few deliveries costs little CPU time, so
/// that a run needs many of them.
const MANY_BATCHES: u32 = 60;
const MEGABYTE: f64 = 1e6;
/// Time for a server to return memory after a burst.
const AFTER_BURST: Duration = Duration::from_secs(60);

impl Case {
    pub fn name(self) -> &'static str {
        match self {
            Case::OneChannel => "one-channel",
            Case::Deltas => "deltas",
            Case::ManyChannels => "many-channels",
            Case::Connects => "connects",
            Case::Burst => "burst",
        }
    }

    fn applies_to(self, contender: &Contender) -> bool {
        match self {
            Case::OneChannel | Case::ManyChannels | Case::Connects => true,
            Case::Deltas => contender.has_deltas(),
            Case::Burst => contender.is_fanfare(),
        }
    }
}

/// Runs every case on every contender, once per repeat.
pub async fn compare(bench: &Bench, contenders: &[Contender], journal: &mut Journal) -> Outcome<()> {
    // Bytes per delivered event by case: the floor writes as many bytes as Fanfare sent.
    let mut socket_bytes = BTreeMap::new();
    for repeat in 0..bench.options.repeats {
        progress(&format!("repeat {} of {}", repeat + 1, bench.options.repeats));
        for case in CASES.into_iter().filter(|case| case.name().contains(&bench.options.only)) {
            for contender in in_turn(contenders, repeat).filter(|contender| case.applies_to(contender)) {
                if case == Case::Burst && repeat > 0 {
                    continue;
                }
                let bytes = socket_bytes.get(case.name()).copied().unwrap_or_default();
                let (figures, total) = bench.case(case, contender, bytes).await?;
                let sent = figures.get("bytes_per_event").copied();
                if contender.is_fanfare() || !socket_bytes.contains_key(case.name()) {
                    socket_bytes.extend(sent.map(|bytes| (case.name(), bytes)));
                }
                journal.add(Record {
                    table: "compare".into(),
                    case: case.name().into(),
                    server: contender.name.clone(),
                    repeat,
                    at: None,
                    figures,
                    faults: total.faults,
                })?;
            }
        }
    }
    Ok(())
}

/// Rotates the order of the servers from repeat to repeat, because the state of the machine
/// changes during a repeat. The floor comes last: it needs the byte counts of the others.
fn in_turn(contenders: &[Contender], repeat: u32) -> impl Iterator<Item = &Contender> {
    let servers: Vec<&Contender> = contenders.iter().filter(|contender| !contender.is_floor()).collect();
    let floors = contenders.iter().filter(|contender| contender.is_floor());
    let (first, count) = (repeat as usize % servers.len().max(1), servers.len());
    servers.into_iter().cycle().skip(first).take(count).chain(floors)
}

impl Bench {
    async fn case(
        &self,
        case: Case,
        contender: &Contender,
        bytes_per_event: f64,
    ) -> Outcome<(Figures, Total)> {
        match case {
            Case::Connects => self.connects(contender).await,
            Case::Burst => self.burst(contender).await,
            Case::OneChannel | Case::Deltas | Case::ManyChannels => {
                let plan = self.plan(case);
                let floor_bytes = (bytes_per_event * f64::from(plan.load.events)).round() as usize;
                self.deliver(plan, contender, floor_bytes).await
            }
        }
    }

    fn plan(&self, case: Case) -> Plan {
        let (sockets, batches) = (self.options.sockets, self.options.batches);
        let many = Load { channels: MANY_CHANNELS, batch_channels: 10, events: 1, payload: Payload::SMALL };
        let mut plan = match case {
            Case::ManyChannels => Plan::new(many, sockets, batches * MANY_BATCHES),
            Case::Deltas => Plan::new(Load::one_channel(Payload::SIMILAR), sockets, batches),
            _ => Plan::new(Load::one_channel(Payload::SMALL), sockets, batches),
        };
        plan.deltas = case == Case::Deltas;
        plan.interval = self.options.beat_ms.map(Duration::from_millis);
        plan
    }

    /// Delivers the batches of `plan`. The figures include memory before and after the run.
    /// `floor_bytes` is the size of a batch for one socket, used by the floor only.
    pub async fn deliver(
        &self,
        plan: Plan,
        contender: &Contender,
        floor_bytes: usize,
    ) -> Outcome<(Figures, Total)> {
        let mut setup = Setup::start(plan, contender, self.cores(), floor_bytes).await?;
        let idle_bytes = setup.idle_bytes().await?;
        setup.warm_up().await?;
        let (mut figures, total) = setup.run().await?;
        sleep(run::SETTLE_TIME).await;
        figures.insert("idle_kb_per_connection".into(), idle_bytes / 1e3);
        figures.insert("resident_mb_after".into(), setup.cluster.resident_bytes()? / MEGABYTE);
        Ok((figures, total))
    }

    /// Opens all connections as fast as possible, up to `connection_established`. On nchan,
    /// which subscribes in the handshake, up to the subscription.
    async fn connects(&self, contender: &Contender) -> Outcome<(Figures, Total)> {
        let mut cluster = Cluster::start(contender, self.cores()).await?;
        let sockets = self.options.sockets;
        let load = Load { channels: sockets, batch_channels: 1, events: 1, payload: Payload::SMALL };
        let protocol = contender.protocol(false, false);
        let (addresses, cpu) = (cluster.addresses(), cluster.cpu()?);
        let generator_cores = self.generator_cores.as_deref();
        let busy = machine::busy_seconds(generator_cores)?;
        let config = CrowdConfig { addresses, protocol, load, batches: 0, sample: 1, sockets: 0..sockets };
        let mut crowd = connect_crowd(&mut cluster, &config).await?;
        let cpu = cluster.cpu()? - cpu;
        let busy = machine::busy_seconds(generator_cores)? - busy;
        let seconds = crowd.connect_seconds;
        let count = f64::from(sockets);
        let figures = [
            ("connects_per_second", count / seconds),
            ("cpu_us_per_connect", cpu.total() * 1e6 / count),
            ("generator_share", busy / seconds / machine::count(generator_cores)),
        ];
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok((figures, crowd.total(0).await?))
    }

    /// Publishes batches 1 ms apart. The figures are memory before, after, and a minute later.
    async fn burst(&self, contender: &Contender) -> Outcome<(Figures, Total)> {
        let mut plan = self.plan(Case::Deltas);
        plan.interval = Some(Duration::from_millis(1));
        let mut setup = Setup::start(plan, contender, self.cores(), 0).await?;
        setup.warm_up().await?;
        sleep(run::SETTLE_TIME).await;
        let idle = setup.cluster.resident_bytes()? / MEGABYTE;
        let (_, total) = setup.run().await?;
        let burst = setup.cluster.resident_bytes()? / MEGABYTE;
        sleep(AFTER_BURST).await;
        let after = setup.cluster.resident_bytes()? / MEGABYTE;
        let mut figures = Figures::new();
        for (name, value) in [
            ("idle_mb", idle),
            ("burst_mb", burst),
            ("minute_after_mb", after),
            ("minute_after_ratio", after / idle),
        ] {
            figures.insert(name.into(), value);
        }
        Ok((figures, total))
    }
}
