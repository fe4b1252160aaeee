//! A crowd process: a subcommand of this program. It reads requests from standard input,
//! writes reports to standard output, and exits at the end of its input.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::connect::connect;
use super::subscriber::Subscriber;
use super::tally::Tally;
use super::{CrowdConfig, Report, Request};
use crate::Outcome;

/// Concurrent connects.
const CONNECTS_MAX: usize = 128;
/// Capacity of the report queue, with one report per batch. Further reports are dropped, so
/// that their batches count as incomplete.
const REPORTS_MAX: usize = 20_000;
/// Time for one connect, up to the confirmed subscription.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs until the end of standard input.
pub async fn run() -> Outcome<()> {
    let (reports, mut queued) = mpsc::channel(REPORTS_MAX);
    let writer = std::thread::spawn(move || {
        let mut out = std::io::stdout();
        while let Some(report) = queued.blocking_recv() {
            let line = serde_json::to_string(&report).unwrap_or_default();
            if writeln!(out, "{line}").is_err() {
                return;
            }
        }
    });
    let mut requests = requests();
    let mut crowd: Option<(Arc<Tally>, JoinSet<()>)> = None;
    while let Some(request) = requests.recv().await {
        match (request?, &crowd) {
            (Request::Connect(config), _) => {
                let tally = Arc::new(Tally::new(config, reports.clone()));
                match connect_all(&tally).await {
                    Ok((tasks, seconds)) => {
                        crowd = Some((tally, tasks));
                        reports.try_send(Report::Connected(seconds))?;
                    }
                    Err(error) => reports.try_send(Report::Failed(error.to_string()))?,
                }
            }
            (Request::Total { batches }, Some((tally, _))) => {
                reports.try_send(Report::Total(tally.total(batches)))?;
            }
            (Request::Total { .. }, None) => {
                reports.try_send(Report::Failed("no subscriber is connected".into()))?;
            }
        }
    }
    drop((reports, crowd));
    let _ = writer.join();
    Ok(())
}

/// The queue of requests. A thread reads standard input, so that no task blocks on it.
fn requests() -> mpsc::Receiver<Outcome<Request>> {
    let (send, requests) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(serde_json::from_str(&line).map_err(Into::into)).is_err() {
                return;
            }
        }
    });
    requests
}

async fn connect_all(tally: &Arc<Tally>) -> Outcome<(JoinSet<()>, f64)> {
    let CrowdConfig { addresses, protocol, load, sockets, .. } = tally.config();
    let (limit, mut connects) = (Arc::new(Semaphore::new(CONNECTS_MAX)), JoinSet::new());
    let started = Instant::now();
    for socket in sockets.clone() {
        // Consecutive subscribers of a channel connect to different nodes.
        let (channel, index) = (socket % load.channels, socket / load.channels);
        let address = addresses[index as usize % addresses.len()];
        let (limit, protocol) = (limit.clone(), protocol.clone());
        connects.spawn(async move {
            let _permit = limit.acquire().await?;
            let connecting = connect(address, &protocol, socket, channel);
            let (stream, read) = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await??;
            Outcome::Ok((socket, stream, read))
        });
    }
    let mut tasks = JoinSet::new();
    while let Some(connected) = connects.join_next().await {
        let (socket, stream, read) = connected??;
        tasks.spawn(Subscriber::new(socket, stream, &read, tally.clone()).run());
    }
    Ok((tasks, started.elapsed().as_secs_f64()))
}
