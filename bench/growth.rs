//! `growth`: costs as a function of one parameter, with all others fixed.

use crate::crowd::PROCESS_SOCKETS_MAX;
use crate::journal::{Journal, progress};
use crate::load::{Load, Payload, Text};
use crate::publisher::PublishMode;
use crate::record::{Faults, Record};
use crate::run::{Figures, Plan, Setup};
use crate::servers::Contender;
use crate::ws_client::WsClient;
use crate::{Bench, Outcome};

/// One row of a growth table.
struct Point {
    at: u32,
    plan: Plan,
    contender: Contender,
    /// Occupied channels without events.
    idle_channels: u32,
}

pub const TABLES: [&str; 6] = ["subscribers", "channels", "batch", "payload", "nodes", "batching"];

const FEW_SUBSCRIBERS: u32 = 1_000;
/// Approximate deliveries per run: enough for a CPU clock with a resolution of 10 ms.
const DELIVERIES: u32 = 2_000_000;
const BATCHES: std::ops::RangeInclusive<u32> = 40..=2_000;

/// Runs all tables whose name contains `--only`.
pub async fn growth(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    for repeat in 0..bench.options.repeats {
        progress(&format!("repeat {} of {}", repeat + 1, bench.options.repeats));
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
    let mut put = |at, nodes, plan, idle_channels| {
        all.push(Point { at, plan, contender: bench.fanfare(nodes), idle_channels });
    };
    match table {
        "subscribers" => {
            for at in [1, 10, 100, FEW_SUBSCRIBERS, 5_000, PROCESS_SOCKETS_MAX] {
                put(at, 1, plan(Load::one_channel(Payload::SMALL), at), 0);
            }
            for at in [PROCESS_SOCKETS_MAX, 3 * PROCESS_SOCKETS_MAX] {
                put(at, 3, plan(Load::one_channel(Payload::SMALL), at), 0);
            }
        }
        "channels" => {
            for at in [1, 10, 100, 1_000, 10_000, 50_000] {
                put(at, 1, plan(Load::one_channel(Payload::SMALL), 50), at - 1);
            }
        }
        "batch" => {
            for at in [1, 3, 10, 30, 100, 300, 1_000] {
                let load = Load { events: at, ..Load::one_channel(Payload::SMALL) };
                put(at, 1, plan(load, FEW_SUBSCRIBERS), 0);
            }
        }
        "payload" => {
            for at in [100, 200, 500, 1_000, 2_000, 5_000, 10_000] {
                let payload = Payload { bytes: at, text: Text::Distinct };
                put(at, 1, plan(Load::one_channel(payload), FEW_SUBSCRIBERS), 0);
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
    let per_batch = load.subscriber_count(0, 0..sockets) * load.events;
    let batches = (DELIVERIES / per_batch).clamp(*BATCHES.start(), *BATCHES.end());
    Plan::new(load, sockets, batches)
}

impl Bench {
    async fn point(&self, table: &str, point: Point, repeat: u32) -> Outcome<Record> {
        let Point { at, plan, contender, idle_channels } = point;
        let mut setup = Setup::start(plan, &contender, self.cores(), 0).await?;
        let ws_clients = occupy(&setup, idle_channels).await?;
        setup.warm_up().await?;
        let (mut figures, total) = setup.run().await?;
        figures.insert("resident_mb".into(), setup.cluster.resident_bytes()? / 1e6);
        drop(ws_clients);
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

/// Channels per client: `limits::SOCKET_SUBSCRIPTIONS_MAX`.
const CHANNELS_PER_CLIENT: u32 = 1_000;

/// Occupies `channels` channels that the load does not use. The subscriptions end with the
/// returned clients.
async fn occupy(setup: &Setup, channels: u32) -> Outcome<Vec<WsClient>> {
    let mut ws_clients = Vec::new();
    for first in (0..channels).step_by(CHANNELS_PER_CLIENT as usize) {
        let names: Vec<String> = (first..channels.min(first + CHANNELS_PER_CLIENT))
            .map(|channel| format!("idle-{channel}"))
            .collect();
        let mut ws_client = WsClient::connect(setup.cluster.addresses()[0]).await?;
        ws_client.subscribe(&names).await?;
        ws_clients.push(ws_client);
    }
    Ok(ws_clients)
}

/// Publishes the same ten events in one request, in ten sequential and in ten concurrent ones.
async fn batching(bench: &Bench, repeat: u32, journal: &mut Journal) -> Outcome<()> {
    let modes = [
        ("one batch", PublishMode::Batch),
        ("10 requests, one connection", PublishMode::Sequential),
        ("10 requests, ten connections", PublishMode::Concurrent),
    ];
    for (case, mode) in modes {
        let contender = bench.fanfare(1);
        let mut plan = Plan::new(Load::one_channel(Payload::SMALL), FEW_SUBSCRIBERS, 200);
        plan.mode = mode;
        let mut setup = Setup::start(plan, &contender, bench.cores(), 0).await?;
        setup.warm_up().await?;
        let http_bytes = setup.publisher.http_bytes(0) as f64;
        let (run, total) = setup.run().await?;
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
            // Concurrent requests have no defined order.
            faults: match mode {
                PublishMode::Concurrent => Faults { reordered: 0, ..total.faults },
                PublishMode::Batch | PublishMode::Sequential => total.faults,
            },
        })?;
    }
    Ok(())
}
