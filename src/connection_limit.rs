//! How many connections an app has on this node, and, where it has a limit,
//! whether the cluster has room for one more.
//!
//! A node says how many it holds and how many it would hold, as absolute numbers,
//! and is told how many it may. For each app one task does the talking, one call
//! at a time: whoever comes meanwhile is in the next call together, and whoever
//! leaves is told with it. It says its number again every
//! [`limits::CONNECTION_LIMIT_INTERVAL`], so that what Redis has lost comes back. While
//! Redis is away everybody is let in: a limit that cannot be asked about must not
//! keep out those it has room for.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::backend::Backend;
use crate::limits;
use crate::metrics::metrics;

#[derive(Debug)]
pub struct ConnectionLimiter {
    backend: Arc<Backend>,
    /// One for each app that ever had a connection here.
    counters: Mutex<HashMap<Arc<str>, Arc<AppCounter>>>,
}

/// A connection is counted as long as this lives.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<AppCounter>);

/// The app has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached;

#[derive(Debug, Default)]
struct AppCounter {
    held: AtomicU64,
    left: Notify,
    /// Where those wait who need to be let in; there as soon as one did.
    queue: OnceLock<mpsc::Sender<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    /// The app's limit as this connection knows it: it may have been changed.
    max: u64,
    answer: oneshot::Sender<Result<ConnectionPermit, LimitReached>>,
}

impl ConnectionLimiter {
    pub fn new(backend: Arc<Backend>) -> ConnectionLimiter {
        ConnectionLimiter { backend, counters: Mutex::default() }
    }

    /// Lets one more connection of the app in, if there is room for it. Waits its
    /// turn where there is a limit.
    pub async fn acquire(&self, app: &App) -> Result<ConnectionPermit, LimitReached> {
        let counter = self.counters.lock().entry(app.id.clone()).or_default().clone();
        let Some(max) = app.limits.connections_max else { return Ok(counter.permit()) };
        let (answer, answered) = oneshot::channel();
        let queue = counter.queue.get_or_init(|| self.start(app.id.clone(), counter.clone()));
        // The limiter is there as long as the process: it only stops with it.
        queue.send(Waiter { max, answer }).await.map_err(|_| LimitReached)?;
        answered.await.unwrap_or(Err(LimitReached))
    }

    fn start(&self, app: Arc<str>, counter: Arc<AppCounter>) -> mpsc::Sender<Waiter> {
        // When it is full, sockets wait, and their clients with them.
        let (queue, waiters) = mpsc::channel(limits::CONNECTION_WAITERS_MAX);
        let (backend, reported) = (self.backend.clone(), Some(0));
        let limiter = AppLimiter { backend, app, counter, waiting: VecDeque::new(), reported, max: 0 };
        tokio::spawn(limiter.run(waiters));
        queue
    }
}

impl AppCounter {
    fn permit(self: &Arc<AppCounter>) -> ConnectionPermit {
        self.held.fetch_add(1, Ordering::Relaxed);
        ConnectionPermit(self.clone())
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// Speaks for one app of this node.
struct AppLimiter {
    backend: Arc<Backend>,
    app: Arc<str>,
    counter: Arc<AppCounter>,
    waiting: VecDeque<Waiter>,
    /// What the backend knows; None if it may not know it.
    reported: Option<u64>,
    max: u64,
}

impl AppLimiter {
    async fn run(mut self, mut waiters: mpsc::Receiver<Waiter>) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                waiter = waiters.recv() => match waiter {
                    Some(waiter) => self.waiting.push_back(waiter),
                    None => return,
                },
                () = self.counter.left.notified() => {}
                () = sleep_until(due), if !self.is_idle() => {}
            }
            while let Ok(waiter) = waiters.try_recv() {
                self.waiting.push_back(waiter);
            }
            let is_due = Instant::now() >= due && !self.is_idle();
            // A departure while Redis is away waits until the number is due again.
            let has_changed = self.reported.is_some_and(|reported| reported != self.held());
            if is_due || has_changed || !self.waiting.is_empty() {
                self.sync().await;
                let pause = self.reported.map_or(limits::RETRY_DELAY, |_| limits::CONNECTION_LIMIT_INTERVAL);
                due = Instant::now() + pause;
            }
        }
    }

    /// There is nothing that would have to be reported again.
    fn is_idle(&self) -> bool {
        self.held() == 0 && self.reported == Some(0)
    }

    fn held(&self) -> u64 {
        self.counter.held.load(Ordering::Relaxed)
    }

    /// Says how many are here, and lets in as many of those who wait as it may.
    async fn sync(&mut self) {
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
        let coming = self.waiting.len();
        self.max = self.waiting.back().map_or(self.max, |last| last.max);
        let held = self.held();
        let wanted = held + coming as u64;
        match self.backend.hold_connections(&self.app, held, wanted, self.max).await {
            Ok(granted) => {
                self.reported = Some(granted);
                let room = usize::try_from(granted.saturating_sub(held)).unwrap_or(coming);
                self.grant(room.min(coming));
            }
            Err(error) => {
                tracing::debug!(app = %self.app, %error, "connections not counted");
                metrics().connection_limits_unenforced.increment(1);
                self.reported = None;
                self.grant(coming);
            }
        }
    }

    fn grant(&mut self, room: usize) {
        for (at, waiter) in self.waiting.drain(..).enumerate() {
            // Whoever has gone leaves the place at once, and it is reported with the
            // next number.
            let _ = waiter.answer.send(if at < room { Ok(self.counter.permit()) } else { Err(LimitReached) });
        }
    }
}
