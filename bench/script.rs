//! What a batch takes of Redis, where hardly anybody is there to hear it.

use std::time::Instant;

use fanfare::limits;
use tokio::task::JoinSet;

use crate::caller::Caller;
use crate::journal::Journal;
use crate::load::{Load, Payload};
use crate::record::{Faults, Record};
use crate::run::Figures;
use crate::servers::Fleet;
use crate::{Bench, Outcome, publisher};

/// Connections that publish at once, and batches of each that are measured.
const CALLERS: u32 = 4;
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
    let fleet = Fleet::start(&bench.fanfare(1), bench.cores()).await?;
    let redis = fleet.redis.as_ref().ok_or("there is no Redis")?;
    // Each publishes to a channel of its own.
    let load = Load { channels: CALLERS, batch_channels: 1, events, payload };
    let unmeasured = batches_to_fill(events * payload.bytes);
    let mut filling = JoinSet::new();
    for at in 0..CALLERS {
        let mut caller = Caller::connect(fleet.nodes[0].address).await?;
        let batches = (0..unmeasured + BATCHES).map(|batch| load.batch(batch * CALLERS + at));
        let mut requests =
            batches.map(|events| publisher::batch_request(&caller, &events)).collect::<Outcome<Vec<_>>>()?;
        let measured = requests.split_off(unmeasured as usize);
        filling.spawn(async move { caller.send_all(&requests).await.map(|()| (caller, measured)) });
    }
    let ready = filling.join_all().await.into_iter().collect::<Outcome<Vec<_>>>()?;
    let (scripts, redis_cpu, cpu) = (redis.scripts().await?, redis.process.first_thread_cpu()?, fleet.cpu()?);
    let started = Instant::now();
    let mut callers = JoinSet::new();
    for (mut caller, requests) in ready {
        callers.spawn(async move { caller.send_all(&requests).await });
    }
    while let Some(sent) = callers.join_next().await {
        sent??;
    }
    let seconds = started.elapsed().as_secs_f64();
    let scripts = redis.scripts().await? - scripts;
    let batches = f64::from(CALLERS * BATCHES);
    let figures = [
        ("script_us_per_batch", scripts.usec / scripts.calls),
        ("redis_cpu_us_per_batch", (redis.process.first_thread_cpu()? - redis_cpu) * 1e6 / batches),
        ("server_cpu_us_per_batch", (fleet.cpu()? - cpu).total() * 1e6 / batches),
        ("batches_per_second", batches / seconds),
    ];
    Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// So many that the log is at a bound: Redis drops as much as comes.
fn batches_to_fill(batch_bytes: u32) -> u32 {
    let in_bytes = limits::LOG_BYTES_MAX as u32 / batch_bytes;
    in_bytes.min(limits::LOG_ENTRIES_MAX as u32) + 1
}
