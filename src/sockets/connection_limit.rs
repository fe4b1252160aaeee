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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::app::App;
use crate::backend::Backend;
use crate::capacity::Shrink;
use crate::limits;
use crate::metrics::metrics;
use crate::task::Task;

#[derive(Debug)]
pub struct ConnectionLimiter {
    backend: Arc<Backend>,
    /// Contains the apps with connections, and others until [`ConnectionLimiter::remove_unused`].
    apps: Mutex<HashMap<Arc<str>, LimitedApp>>,
}

#[derive(Debug, Default)]
struct LimitedApp {
    counter: Arc<AppCounter>,
    /// Connections that wait for a permit; created by the first one that needs it. Its end is the
    /// end of the app's task.
    queue: Option<mpsc::Sender<Waiter>>,
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
    /// The backend has a count other than 0, or may have one.
    is_reported: AtomicBool,
}

#[derive(Debug)]
struct Waiter {
    counter: Arc<AppCounter>,
    /// The limit in this connection's copy of the app, which may have changed since.
    max: u64,
    reply: oneshot::Sender<Result<ConnectionPermit, LimitReached>>,
}

impl ConnectionLimiter {
    pub fn new(backend: Arc<Backend>) -> ConnectionLimiter {
        ConnectionLimiter { backend, apps: Mutex::default() }
    }

    /// Acquires a permit for one more connection of the app. With a limit, waits for
    /// the reply of the backend, in the order of arrival.
    pub async fn acquire(&self, app: &App) -> Result<ConnectionPermit, LimitReached> {
        let (reply, replied) = oneshot::channel();
        let (queue, waiter) = {
            let mut apps = self.apps.lock();
            let LimitedApp { counter, queue } = apps.entry(app.id.clone()).or_default();
            let Some(max) = app.limits.connections_max else { return Ok(counter.permit()) };
            let queue = queue.get_or_insert_with(|| self.start(app.id.clone(), counter.clone()));
            (queue.clone(), Waiter { counter: counter.clone(), max, reply })
        };
        // The task ends after the last waiter: an error means that the process is ending.
        queue.send(waiter).await.map_err(|_| LimitReached)?;
        replied.await.unwrap_or(Err(LimitReached))
    }

    /// Removes apps without connections, and ends their tasks.
    pub fn remove_unused(&self) {
        let mut apps = self.apps.lock();
        apps.retain(|_, app| app.is_used());
        apps.shrink_if_sparse();
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

impl LimitedApp {
    /// Whether there are connections, connections that wait, pending subscriptions, or a count
    /// that the backend has. The map is locked, and has the only other reference to the counter
    /// besides that of the task.
    fn is_used(&self) -> bool {
        let unused_references = 1 + usize::from(self.queue.is_some());
        Arc::strong_count(&self.counter) > unused_references
            || Arc::strong_count(&self.counter.pending) > 1
            || self.counter.is_reported.load(Ordering::Acquire)
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
            is_reported: AtomicBool::default(),
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
        self.counter.is_reported.store(true, Ordering::Release);
        self.waiting.retain(|waiter| !waiter.reply.is_closed());
        let waiting = self.waiting.len();
        self.max = self.waiting.back().map_or(self.max, |last| last.max);
        let held = self.held();
        let requested = held + waiting as u64;
        match self.backend.hold_connections(&self.app, held, requested, self.max).await {
            Ok(granted) => {
                self.reported = Some(granted);
                self.counter.is_reported.store(granted > 0, Ordering::Release);
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
                Ok(waiter.counter.permit())
            } else {
                Err(LimitReached)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::app::{AppFeatures, AppLimits, AppRates, Secret};
    use crate::backend::memory::Memory;
    use crate::backend_events::backend_events;
    use crate::delta::channels::ChannelDeltas;

    fn app(number: usize, connections_max: Option<u64>) -> App {
        App {
            id: number.to_string().into(),
            key: number.to_string(),
            secrets: vec![Secret::new("hush")],
            enabled: true,
            limits: AppLimits { connections_max, ..AppLimits::default() },
            rates: AppRates::default(),
            features: AppFeatures::default(),
            origins: Vec::new(),
            webhooks: Vec::new(),
            deltas: ChannelDeltas::default(),
            metrics: Arc::default(),
        }
    }

    /// The tasks of limited apps report first that the connections have ended.
    async fn has_only(limiter: &ConnectionLimiter, apps: usize) {
        let removed = async {
            while limiter.apps.lock().len() > apps {
                limiter.remove_unused();
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), removed).await.expect("unused apps are removed");
        limiter.remove_unused();
        assert_eq!(limiter.apps.lock().len(), apps);
    }

    #[tokio::test]
    async fn apps_without_connections_are_removed() {
        const APPS: usize = 1_000;
        let memory = Memory::new(backend_events().0, limits::LOG_AGE_MAX);
        let limiter = ConnectionLimiter::new(Arc::new(Backend::Memory(Box::new(memory))));
        // Every second app has a limit.
        let apps: Vec<App> = (0..APPS).map(|number| app(number, (number % 2 == 0).then_some(1))).collect();
        let mut permits = Vec::new();
        for app in &apps {
            permits.push(limiter.acquire(app).await.expect("below the limit"));
        }
        has_only(&limiter, APPS).await;
        permits.truncate(2);
        has_only(&limiter, 2).await;
        assert!(limiter.apps.lock().capacity() < APPS);
        assert!(limiter.acquire(&apps[0]).await.is_err(), "its connection still counts");
        let again = limiter.acquire(&apps[2]).await.expect("it has no connection any more");
        assert!(limiter.acquire(&apps[2]).await.is_err());
        let pending = permits[1].pending_subscriptions();
        drop((permits, again));
        has_only(&limiter, 1).await;
        drop(pending);
        has_only(&limiter, 0).await;
    }
}
