//! The same loads on every server, in turn.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::sleep;

use crate::crowd::{Gather, Total};
use crate::journal::{Journal, say};
use crate::load::{Load, Payload};
use crate::record::Record;
use crate::run::{self, Figures, Plan, Scene, gather_before};
use crate::servers::{Contender, Fleet};
use crate::{Bench, Outcome, machine};

/// What is compared; the names are those of the rows.
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
/// A batch that few subscribers get costs so little that many are needed.
const MANY_BATCHES: u32 = 60;
const MEGABYTE: f64 = 1e6;
/// How long a server has to give back what a burst took.
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

    fn is_for(self, contender: &Contender) -> bool {
        match self {
            Case::OneChannel | Case::ManyChannels | Case::Connects => true,
            Case::Deltas => contender.has_deltas(),
            Case::Burst => contender.is_fanfare(),
        }
    }
}

/// Every case on every contender, as often as asked for.
pub async fn compare(bench: &Bench, contenders: &[Contender], journal: &mut Journal) -> Outcome<()> {
    // Of a batch, for one socket: what the floor writes is what another has sent.
    let mut socket_bytes = BTreeMap::new();
    for repeat in 0..bench.options.repeats {
        say(&format!("repeat {} of {}", repeat + 1, bench.options.repeats));
        for case in CASES.into_iter().filter(|case| case.name().contains(&bench.options.only)) {
            for contender in in_turn(contenders, repeat).filter(|contender| case.is_for(contender)) {
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

/// Another first in each repeat, since what comes first may find another machine;
/// the floor last, since it does as the others did.
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
        plan.beat = self.options.beat_ms.map(Duration::from_millis);
        plan
    }

    /// Delivering, and what the server holds before and after.
    pub async fn deliver(
        &self,
        plan: Plan,
        contender: &Contender,
        floor_bytes: usize,
    ) -> Outcome<(Figures, Total)> {
        let mut scene = Scene::set(plan, contender, self.cores(), floor_bytes).await?;
        let idle_bytes = scene.idle_bytes().await?;
        scene.warm_up().await?;
        let (mut figures, total) = scene.run().await?;
        sleep(run::SETTLE).await;
        figures.insert("idle_kb_per_connection".into(), idle_bytes / 1e3);
        figures.insert("resident_mb_after".into(), scene.fleet.resident_bytes()? / MEGABYTE);
        Ok((figures, total))
    }

    /// As many as come, as fast as they can, up to the greeting; where connecting is
    /// subscribing, up to that.
    async fn connects(&self, contender: &Contender) -> Outcome<(Figures, Total)> {
        let mut fleet = Fleet::start(contender, self.cores()).await?;
        let sockets = self.options.sockets;
        let load = Load { channels: sockets, batch_channels: 1, events: 1, payload: Payload::SMALL };
        let speech = contender.speech(false, false);
        let (addresses, cpu) = (fleet.addresses(), fleet.cpu()?);
        let generator_cores = self.generator_cores.as_deref();
        let busy = machine::busy_seconds(generator_cores)?;
        let gather = Gather { addresses, speech, load, batches: 0, sample: 1, sockets: 0..sockets };
        let mut crowd = gather_before(&mut fleet, &gather).await?;
        let cpu = fleet.cpu()? - cpu;
        let busy = machine::busy_seconds(generator_cores)? - busy;
        let seconds = crowd.gathered_in;
        let count = f64::from(sockets);
        let figures = [
            ("connects_per_second", count / seconds),
            ("cpu_us_per_connect", cpu.total() * 1e6 / count),
            ("generator_share", busy / seconds / machine::count(generator_cores)),
        ];
        let figures = figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        Ok((figures, crowd.total(0).await?))
    }

    /// Much at once, and what is left of it a minute later.
    async fn burst(&self, contender: &Contender) -> Outcome<(Figures, Total)> {
        let mut plan = self.plan(Case::Deltas);
        plan.beat = Some(Duration::from_millis(1));
        let mut scene = Scene::set(plan, contender, self.cores(), 0).await?;
        scene.warm_up().await?;
        sleep(run::SETTLE).await;
        let idle = scene.fleet.resident_bytes()? / MEGABYTE;
        let (_, total) = scene.run().await?;
        let burst = scene.fleet.resident_bytes()? / MEGABYTE;
        sleep(AFTER_BURST).await;
        let after = scene.fleet.resident_bytes()? / MEGABYTE;
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
