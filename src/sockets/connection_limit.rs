//! Connections per app: a count on this node, and for apps with a limit, a permit from
//! the cluster for each new connection.
//!
//! Each node reports its current and requested connection counts per app, as absolute
//! numbers; Redis returns how many the node may hold. One task per app makes these
//! calls, one at a time: the next call includes all connections that opened or closed
//! during the last one. The task repeats its report every
//! [`limits::CONNECTION_LIMIT_INTERVAL`], which restores counts that Redis has lost.
//! While Redis is unavailable all connections are admitted: an outage must not refuse clients
//! that are within the limit.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::backend::Backend;
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

#[derive(Debug)]
pub struct ConnectionLimiter {
    backend: Arc<Backend>,
    /// A counter for each app that has ever connected to this node.
    counters: Mutex<HashMap<Arc<str>, Arc<AppCounter>>>,
}

/// Counts one connection until it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit(Arc<AppCounter>);

/// The app has reached its connection limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitReached;

#[derive(Debug)]
struct AppCounter {
    held: AtomicU64,
    released: Notify,
    /// Permits for the pending subscriptions of the app's connections.
    pending: Arc<Semaphore>,
    /// Connections that wait for a permit; created by the first one that needs it.
    queue: OnceLock<mpsc::Sender<Waiter>>,
}

#[derive(Debug)]
struct Waiter {
    /// The limit in this connection's copy of the app, which may have changed since.
    max: u64,
    reply: oneshot::Sender<Result<ConnectionPermit, LimitReached>>,
}

impl ConnectionLimiter {
    pub fn new(backend: Arc<Backend>) -> ConnectionLimiter {
        ConnectionLimiter { backend, counters: Mutex::default() }
    }

    /// Acquires a permit for one more connection of the app. With a limit, waits for
    /// the reply of the backend, in the order of arrival.
    pub async fn acquire(&self, app: &App) -> Result<ConnectionPermit, LimitReached> {
        let counter = self.counters.lock().entry(app.id.clone()).or_default().clone();
        let Some(max) = app.limits.connections_max else { return Ok(counter.permit()) };
        let (reply, replied) = oneshot::channel();
        let queue = counter.queue.get_or_init(|| self.start(app.id.clone(), counter.clone()));
        // The limiter task lives as long as the process: an error means that it is
        // ending.
        queue.send(Waiter { max, reply }).await.map_err(|_| LimitReached)?;
        replied.await.unwrap_or(Err(LimitReached))
    }

    fn start(&self, app: Arc<str>, counter: Arc<AppCounter>) -> mpsc::Sender<Waiter> {
        // When the queue is full, handshakes wait.
        let (queue, waiters) = mpsc::channel(limits::CONNECTION_WAITERS_MAX);
        let (backend, reported) = (self.backend.clone(), Some(0));
        let limiter = AppLimiter { backend, app, counter, waiting: VecDeque::new(), reported, max: 0 };
        Task::ConnectionLimit.spawn(limiter.run(waiters));
        queue
    }
}

impl ConnectionPermit {
    /// The permits for pending subscriptions that all connections of the app share.
    pub fn pending_subscriptions(&self) -> Arc<Semaphore> {
        self.0.pending.clone()
    }
}

impl Default for AppCounter {
    fn default() -> AppCounter {
        AppCounter {
            held: AtomicU64::default(),
            released: Notify::default(),
            pending: Arc::new(Semaphore::new(limits::APP_PENDING_MAX)),
            queue: OnceLock::default(),
        }
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
        self.0.released.notify_one();
    }
}

/// The task that reports the connections of one app on this node.
struct AppLimiter {
    backend: Arc<Backend>,
    app: Arc<str>,
    counter: Arc<AppCounter>,
    waiting: VecDeque<Waiter>,
    /// The count that the backend has; None if unknown.
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
                () = self.counter.released.notified() => {}
                () = sleep_until(due), if !self.is_idle() => {}
            }
            while let Ok(waiter) = waiters.try_recv() {
                self.waiting.push_back(waiter);
            }
            let is_due = Instant::now() >= due && !self.is_idle();
            // While Redis is unavailable, a closed connection is reported with the next regular
            // report.
            let has_changed = self.reported.is_some_and(|reported| reported != self.held());
            if is_due || has_changed || !self.waiting.is_empty() {
                self.sync().await;
                let pause = self.reported.map_or(limits::RETRY_DELAY, |_| limits::CONNECTION_LIMIT_INTERVAL);
                due = Instant::now() + pause;
            }
        }
    }

    /// No connections, and none reported.
    fn is_idle(&self) -> bool {
        self.held() == 0 && self.reported == Some(0)
    }

    fn held(&self) -> u64 {
        self.counter.held.load(Ordering::Relaxed)
    }

    /// Reports the current and requested counts, and grants as many permits as the
    /// backend allows.
    async fn sync(&mut self) {
        self.waiting.retain(|waiter| !waiter.reply.is_closed());
        let waiting = self.waiting.len();
        self.max = self.waiting.back().map_or(self.max, |last| last.max);
        let held = self.held();
        let requested = held + waiting as u64;
        match self.backend.hold_connections(&self.app, held, requested, self.max).await {
            Ok(granted) => {
                self.reported = Some(granted);
                let available = usize::try_from(granted.saturating_sub(held)).unwrap_or(waiting);
                self.grant(available.min(waiting));
            }
            Err(error) => {
                tracing::debug!(app = %self.app, %error, "connections not reported; admitted without a limit");
                metrics().connection_limits_unenforced.increment(1);
                self.reported = None;
                self.grant(waiting);
            }
        }
    }

    fn grant(&mut self, available: usize) {
        for (index, waiter) in self.waiting.drain(..).enumerate() {
            // If the receiver has gone, its permit is dropped at once, and the next report
            // includes that.
            let _ = waiter.reply.send(if index < available {
                Ok(self.counter.permit())
            } else {
                Err(LimitReached)
            });
        }
    }
}
