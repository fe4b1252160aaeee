//! The cost of a batch in Redis, on channels without subscribers.

use std::time::Instant;

use fanfare::limits;
use tokio::task::JoinSet;

use crate::http_client::HttpClient;
use crate::journal::Journal;
use crate::load::{Load, Payload};
use crate::record::{Faults, Record};
use crate::run::Figures;
use crate::servers::Cluster;
use crate::{Bench, Outcome, publisher};

/// Concurrent publishing connections, and measured batches per connection.
const CLIENTS: u32 = 4;
const BATCHES: u32 = 1_500;
const CASES: [(u32, Payload); 3] = [(1, Payload::SMALL), (10, Payload::SMALL), (10, Payload::SIMILAR)];

pub async fn scripts(bench: &Bench, journal: &mut Journal) -> Outcome<()> {
    for repeat in 0..bench.options.repeats {
        for (events, payload) in CASES {
            let plural = if events == 1 { "" } else { "s" };
            let case = format!("script, {events} event{plural} of {} B", payload.bytes);
            if case.contains(&bench.options.only) {
                journal.add(Record {
                    table: "script".into(),
                    case,
                    server: bench.fanfare(1).name,
                    repeat,
                    at: None,
                    figures: script(bench, events, payload).await?,
                    faults: Faults::default(),
                })?;
            }
        }
    }
    Ok(())
}

async fn script(bench: &Bench, events: u32, payload: Payload) -> Outcome<Figures> {
    let cluster = Cluster::start(&bench.fanfare(1), bench.cores()).await?;
    let redis = cluster.redis.as_ref().ok_or("there is no Redis")?;
    // Each connection publishes on its own channel.
    let load = Load { channels: CLIENTS, batch_channels: 1, events, payload };
    let unmeasured = batches_to_fill(events * payload.bytes);
    let mut filling = JoinSet::new();
    for at in 0..CLIENTS {
        let mut http_client = HttpClient::connect(cluster.nodes[0].address).await?;
        let batches = (0..unmeasured + BATCHES).map(|batch| load.batch(batch * CLIENTS + at));
        let mut requests = batches
            .map(|events| publisher::batch_request(&http_client, &events))
            .collect::<Outcome<Vec<_>>>()?;
        let measured = requests.split_off(unmeasured as usize);
        filling.spawn(async move { http_client.send_all(&requests).await.map(|()| (http_client, measured)) });
    }
    let ready = filling.join_all().await.into_iter().collect::<Outcome<Vec<_>>>()?;
    let (scripts, redis_cpu, cpu) =
        (redis.scripts().await?, redis.process.first_thread_cpu()?, cluster.cpu()?);
    let started = Instant::now();
    let mut http_clients = JoinSet::new();
    for (mut http_client, requests) in ready {
        http_clients.spawn(async move { http_client.send_all(&requests).await });
    }
    while let Some(sent) = http_clients.join_next().await {
        sent??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let scripts = redis.scripts().await? - scripts;
    let batches = f64::from(CLIENTS * BATCHES);
    let figures = [
        ("script_us_per_batch", scripts.usec / scripts.calls),
        ("redis_cpu_us_per_batch", (redis.process.first_thread_cpu()? - redis_cpu) * 1e6 / batches),
        ("server_cpu_us_per_batch", (cluster.cpu()? - cpu).total() * 1e6 / batches),
        ("batches_per_second", batches / seconds),
    ];
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// Enough batches to fill the history to a bound, so that every append also trims it.
fn batches_to_fill(batch_bytes: u32) -> u32 {
    let in_bytes = limits::LOG_BYTES_MAX as u32 / batch_bytes;
    in_bytes.min(limits::LOG_ENTRIES_MAX as u32) + 1
}
