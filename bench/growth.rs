//! What a cost depends on: one thing grows, everything else stays.

use crate::crowd::PROCESS_SOCKETS_MAX;
use crate::journal::{Journal, say};
use crate::load::{Load, Payload, Text};
use crate::publisher::Way;
use crate::record::{Faults, Record};
use crate::run::{Figures, Plan, Scene};
use crate::servers::Contender;
use crate::visitor::Visitor;
use crate::{Bench, Outcome};

/// One line of a growth table.
struct Point {
    at: u32,
    plan: Plan,
    contender: Contender,
    /// Channels that others are on, and nothing is published to.
    others: u32,
}

pub const TABLES: [&str; 6] = ["subscribers", "channels", "batch", "payload", "nodes", "batching"];

const FEW: u32 = 1_000;
/// Deliveries of a run, about: so much that its CPU time can be read off a clock of
/// 10 ms.
const DELIVERIES: u32 = 2_000_000;
const BATCHES: std::ops::RangeInclusive<u32> = 40..=2_000;

/// All that are asked for.
pub async fn growth(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    for repeat in 0..bench.options.repeats {
        say(&format!("repeat {} of {}", repeat + 1, bench.options.repeats));
        for table in TABLES.into_iter().filter(|table| table.contains(&bench.options.only)) {
            match table {
                "batching" => batching(bench, repeat, journal).await?,
                _ => {
                    for point in points(bench, table) {
                        journal.add(bench.point(table, point, repeat).await?)?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn points(bench: &Bench, table: &str) -> Vec<Point> {
    let mut all = Vec::new();
    let mut put = |at, nodes, plan, others| {
        all.push(Point { at, plan, contender: bench.fanfare(nodes), others });
    };
    match table {
        "subscribers" => {
            for at in [1, 10, 100, FEW, 5_000, PROCESS_SOCKETS_MAX] {
                put(at, 1, plan(Load::one_channel(Payload::SMALL), at), 0);
            }
            for at in [PROCESS_SOCKETS_MAX, 3 * PROCESS_SOCKETS_MAX] {
                put(at, 3, plan(Load::one_channel(Payload::SMALL), at), 0);
            }
        }
        "channels" => {
            for at in [1, 10, 100, 1_000, 10_000, 100_000] {
                put(at, 1, plan(Load::one_channel(Payload::SMALL), 50), at - 1);
            }
        }
        "batch" => {
            for at in [1, 3, 10, 30, 100, 300, 1_000] {
                let load = Load { events: at, ..Load::one_channel(Payload::SMALL) };
                put(at, 1, plan(load, FEW), 0);
            }
        }
        "payload" => {
            for at in [100, 200, 500, 1_000, 2_000, 5_000, 10_000] {
                let payload = Payload { bytes: at, text: Text::Distinct };
                put(at, 1, plan(Load::one_channel(payload), FEW), 0);
            }
        }
        _ => {
            for at in 1..=4 {
                put(at, at as usize, plan(Load::one_channel(Payload::SMALL), 5_000), 0);
            }
        }
    }
    all
}

fn plan(load: Load, sockets: u32) -> Plan {
    let per_batch = load.audience(0, 0..sockets) * load.events;
    let batches = (DELIVERIES / per_batch).clamp(*BATCHES.start(), *BATCHES.end());
    Plan::new(load, sockets, batches)
}

impl Bench {
    async fn point(&self, table: &str, point: Point, repeat: u32) -> Outcome<Record> {
        let Point { at, plan, contender, others } = point;
        let mut scene = Scene::set(plan, &contender, self.cores(), 0).await?;
        let visitors = visit(&scene, others).await?;
        scene.warm_up().await?;
        let (mut figures, total) = scene.run().await?;
        figures.insert("resident_mb".into(), scene.fleet.resident_bytes()? / 1e6);
        drop(visitors);
        Ok(Record {
            table: table.into(),
            case: "growth".into(),
            server: contender.name,
            repeat,
            at: Some(at.into()),
            figures,
            faults: total.faults,
        })
    }
}

/// Channels that one visitor is on.
const VISITED: u32 = 10_000;

async fn visit(scene: &Scene, channels: u32) -> Outcome<Vec<Visitor>> {
    let mut visitors = Vec::new();
    for first in (0..channels).step_by(VISITED as usize) {
        let names: Vec<String> =
            (first..channels.min(first + VISITED)).map(|channel| format!("other-{channel}")).collect();
        let mut visitor = Visitor::connect(scene.fleet.addresses()[0]).await?;
        visitor.subscribe(&names).await?;
        visitors.push(visitor);
    }
    Ok(visitors)
}

/// The same ten events in one request, in ten, and in ten at once.
async fn batching(bench: &Bench, repeat: u32, journal: &mut Journal) -> Outcome<()> {
    let ways = [
        ("one batch", Way::Batch),
        ("10 requests, one connection", Way::OneByOne),
        ("10 requests, ten connections", Way::AtOnce),
    ];
    for (case, way) in ways {
        let contender = bench.fanfare(1);
        let mut plan = Plan::new(Load::one_channel(Payload::SMALL), FEW, 200);
        plan.way = way;
        let mut scene = Scene::set(plan, &contender, bench.cores(), 0).await?;
        scene.warm_up().await?;
        let http_bytes = scene.publisher.http_bytes(0) as f64;
        let (run, total) = scene.run().await?;
        let named = [
            ("server_cpu_us", "cpu_us_per_batch"),
            ("redis_cpu_us", "redis_cpu_us_per_batch"),
            ("writes_per_socket", "writes_per_socket_and_batch"),
            ("answer_ms_median", "answer_ms_median"),
            ("last_ms_median", "last_ms_median"),
        ];
        let mut figures: Figures =
            named.into_iter().filter_map(|(name, of)| Some((name.to_owned(), *run.get(of)?))).collect();
        figures.insert("http_bytes".into(), http_bytes);
        journal.add(Record {
            table: "batching".into(),
            case: case.into(),
            server: contender.name,
            repeat,
            at: None,
            figures,
            // Requests under way at once come in any order.
            faults: match way {
                Way::AtOnce => Faults { reordered: 0, ..total.faults },
                Way::Batch | Way::OneByOne => total.faults,
            },
        })?;
    }
    Ok(())
}
