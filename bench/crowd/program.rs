//! The program of a crowd's process: this one, started anew. It is told what to do
//! on its standard input and ends with it.

use std::io::{BufRead, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::connect::connect;
use super::subscriber::Subscriber;
use super::tally::Tally;
use super::{Gather, Order, Said};
use crate::Outcome;

/// Connects under way at once.
const CONNECTS_MAX: usize = 128;
/// Lines that wait to be written; a batch is one. What is more is not said, and
/// missed.
const SAID_MAX: usize = 20_000;
const CONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Runs until standard input ends.
pub async fn run() -> Outcome<()> {
    let (say, mut said) = mpsc::channel(SAID_MAX);
    let speaking = std::thread::spawn(move || {
        let mut out = std::io::stdout();
        while let Some(said) = said.blocking_recv() {
            let line = serde_json::to_string(&said).unwrap_or_default();
            if writeln!(out, "{line}").is_err() {
                return;
            }
        }
    });
    let mut orders = orders();
    let mut crowd: Option<(Arc<Tally>, JoinSet<()>)> = None;
    while let Some(order) = orders.recv().await {
        match (order?, &crowd) {
            (Order::Gather(gather), _) => {
                let tally = Arc::new(Tally::new(gather, say.clone()));
                match gather_all(&tally).await {
                    Ok((tasks, seconds)) => {
                        crowd = Some((tally, tasks));
                        say.try_send(Said::Gathered(seconds))?;
                    }
                    Err(error) => say.try_send(Said::Failed(error.to_string()))?,
                }
            }
            (Order::Total { batches }, Some((tally, _))) => {
                say.try_send(Said::Total(tally.total(batches)))?;
            }
            (Order::Total { .. }, None) => say.try_send(Said::Failed("nobody is here".into()))?,
        }
    }
    drop((say, crowd));
    let _ = speaking.join();
    Ok(())
}

/// Standard input is read by a thread, so that nobody waits for it to end.
fn orders() -> mpsc::Receiver<Outcome<Order>> {
    let (send, orders) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(serde_json::from_str(&line).map_err(Into::into)).is_err() {
                return;
            }
        }
    });
    orders
}

async fn gather_all(tally: &Arc<Tally>) -> Outcome<(JoinSet<()>, f64)> {
    let Gather { addresses, speech, load, sockets, .. } = tally.gather();
    let (door, mut connects) = (Arc::new(Semaphore::new(CONNECTS_MAX)), JoinSet::new());
    let started = Instant::now();
    for socket in sockets.clone() {
        // Each channel has subscribers on every node.
        let (channel, turn) = (socket % load.channels, socket / load.channels);
        let address = addresses[turn as usize % addresses.len()];
        let (door, speech) = (door.clone(), speech.clone());
        connects.spawn(async move {
            let _permit = door.acquire().await?;
            let connecting = connect(address, &speech, socket, channel);
            let (stream, read) = tokio::time::timeout(CONNECT_PATIENCE, connecting).await??;
            Outcome::Ok((socket, stream, read))
        });
    }
    let mut tasks = JoinSet::new();
    while let Some(connected) = connects.join_next().await {
        let (socket, stream, read) = connected??;
        tasks.spawn(Subscriber::new(socket, stream, &read, tally.clone()).stay());
    }
    Ok((tasks, started.elapsed().as_secs_f64()))
}
