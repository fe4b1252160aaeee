//! How many connections an app has on this node, and, where it has a limit,
//! whether the cluster has room for one more.
//!
//! A node says how many it holds and how many it would hold, as absolute numbers,
//! and is told how many it may. For each app one task does the talking, one call
//! at a time: whoever comes meanwhile is in the next call together, and whoever
//! leaves is told with it. It says its number again every
//! [`limits::QUOTA_INTERVAL`], so that what Redis has lost comes back. While
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
pub struct Quota {
    backend: Arc<Backend>,
    /// One for each app that ever had a connection here.
    doors: Mutex<HashMap<Arc<str>, Arc<Door>>>,
}

/// A connection is counted as long as this lives.
#[derive(Debug)]
pub struct Place(Arc<Door>);

/// The app has as many connections as it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

#[derive(Debug, Default)]
struct Door {
    held: AtomicU64,
    left: Notify,
    /// Where those wait who need to be let in; there as soon as one did.
    queue: OnceLock<mpsc::Sender<Entrant>>,
}

#[derive(Debug)]
struct Entrant {
    /// The app's limit as this connection knows it: it may have been changed.
    max: u64,
    answer: oneshot::Sender<Result<Place, Full>>,
}

impl Quota {
    pub fn new(backend: Arc<Backend>) -> Quota {
        Quota { backend, doors: Mutex::default() }
    }

    /// Lets one more connection of the app in, if there is room for it. Waits its
    /// turn where there is a limit.
    pub async fn enter(&self, app: &App) -> Result<Place, Full> {
        let door = self.doors.lock().entry(app.id.clone()).or_default().clone();
        let Some(max) = app.limits.connections_max else { return Ok(door.place()) };
        let (answer, answered) = oneshot::channel();
        let queue = door.queue.get_or_init(|| self.open(app.id.clone(), door.clone()));
        // The porter is there as long as the process: it only stops with it.
        queue.send(Entrant { max, answer }).await.map_err(|_| Full)?;
        answered.await.unwrap_or(Err(Full))
    }

    fn open(&self, app: Arc<str>, door: Arc<Door>) -> mpsc::Sender<Entrant> {
        // When it is full, sockets wait, and their clients with them.
        let (queue, entrants) = mpsc::channel(limits::QUOTA_ENTRANTS_MAX);
        let (backend, said) = (self.backend.clone(), Some(0));
        let porter = Porter { backend, app, door, waiting: VecDeque::new(), said, max: 0 };
        tokio::spawn(porter.run(entrants));
        queue
    }
}

impl Door {
    fn place(self: &Arc<Door>) -> Place {
        self.held.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_one();
    }
}

/// Speaks for one app of this node.
struct Porter {
    backend: Arc<Backend>,
    app: Arc<str>,
    door: Arc<Door>,
    waiting: VecDeque<Entrant>,
    /// What the backend knows; None if it may not know it.
    said: Option<u64>,
    max: u64,
}

impl Porter {
    async fn run(mut self, mut entrants: mpsc::Receiver<Entrant>) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                entrant = entrants.recv() => match entrant {
                    Some(entrant) => self.waiting.push_back(entrant),
                    None => return,
                },
                () = self.door.left.notified() => {}
                () = sleep_until(due), if !self.is_silent() => {}
            }
            while let Ok(entrant) = entrants.try_recv() {
                self.waiting.push_back(entrant);
            }
            let is_due = Instant::now() >= due && !self.is_silent();
            // A departure while Redis is away waits until the number is due again.
            let has_news = self.said.is_some_and(|said| said != self.held());
            if is_due || has_news || !self.waiting.is_empty() {
                self.speak().await;
                let pause = self.said.map_or(limits::RETRY_DELAY, |_| limits::QUOTA_INTERVAL);
                due = Instant::now() + pause;
            }
        }
    }

    /// There is nothing that would have to be said again.
    fn is_silent(&self) -> bool {
        self.held() == 0 && self.said == Some(0)
    }

    fn held(&self) -> u64 {
        self.door.held.load(Ordering::Relaxed)
    }

    /// Says how many are here, and lets in as many of those who wait as it may.
    async fn speak(&mut self) {
        self.waiting.retain(|entrant| !entrant.answer.is_closed());
        let coming = self.waiting.len();
        self.max = self.waiting.back().map_or(self.max, |last| last.max);
        let held = self.held();
        let wanted = held + coming as u64;
        match self.backend.hold_connections(&self.app, held, wanted, self.max).await {
            Ok(granted) => {
                self.said = Some(granted);
                let room = usize::try_from(granted.saturating_sub(held)).unwrap_or(coming);
                self.let_in(room.min(coming));
            }
            Err(error) => {
                tracing::debug!(app = %self.app, %error, "connections not counted");
                metrics().quotas_unenforced.increment(1);
                self.said = None;
                self.let_in(coming);
            }
        }
    }

    fn let_in(&mut self, room: usize) {
        for (at, entrant) in self.waiting.drain(..).enumerate() {
            // Whoever has gone leaves the place at once, and it is said with the
            // next number.
            let _ = entrant.answer.send(if at < room { Ok(self.door.place()) } else { Err(Full) });
        }
    }
}
