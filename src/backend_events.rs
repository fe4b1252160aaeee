//! The bounded queue from the backend (stage 4) to the channels actor (stage 5):
//! entries in the order in which they were received, and two reconciliation requests
//! that are never lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use crate::channel::ChannelId;
use crate::entry::Entry;
use crate::limits;
use crate::metrics::metrics;

/// An entry as received on the topic of a channel.
#[derive(Debug)]
pub struct Incoming {
    pub channel_id: ChannelId,
    pub entry: Entry,
}

/// The sending half, for the backend.
#[derive(Debug, Clone)]
pub struct BackendEvents {
    incoming: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
}

/// The receiving half, for the channels actor.
#[derive(Debug)]
pub struct Receiver {
    incoming: mpsc::Receiver<Incoming>,
    shared: Arc<Shared>,
}

/// Receives reconciliation requests; separate from [`Receiver`], so that the actor can
/// wait for both.
#[derive(Debug)]
pub struct ReconciliationReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    check_heads: AtomicBool,
    report_memberships: AtomicBool,
    signal: Notify,
}

/// Reconciliation that a backend has requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// Entries may be missing: compare every channel with its head.
    pub check_heads: bool,
    /// Memberships may be lost: report all of them again.
    pub report_memberships: bool,
}

/// Creates a queue of up to [`limits::BACKEND_EVENTS_MAX`] entries and
/// [`limits::BACKEND_EVENTS_BYTES_MAX`] bytes.
pub fn backend_events() -> (BackendEvents, Receiver) {
    let (sender, receiver) = mpsc::channel(limits::BACKEND_EVENTS_MAX);
    let shared = Arc::new(Shared::default());
    (BackendEvents { incoming: sender, shared: shared.clone() }, Receiver { incoming: receiver, shared })
}

impl BackendEvents {
    /// Queues an entry without waiting: the link to Redis must never be slowed down.
    /// With a full queue it drops the entry and requests head checks, which repair the
    /// channel from its history.
    pub fn push(&self, incoming: Incoming) {
        let bytes = incoming.entry.body.len();
        let fits =
            self.shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= limits::BACKEND_EVENTS_BYTES_MAX;
        if !fits || self.incoming.try_send(incoming).is_err() {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            metrics().backend_events_dropped.increment(1);
            self.check_heads();
        }
    }

    /// Reserves capacity for `count` entries, for a backend whose publishers can wait.
    /// None when the channels actor has ended.
    pub async fn reserve(&self, count: usize) -> Option<mpsc::PermitIterator<'_, Incoming>> {
        self.incoming.reserve_many(count).await.ok()
    }

    /// As [`BackendEvents::push`], with reserved capacity.
    pub fn push_reserved(&self, permits: &mut mpsc::PermitIterator<'_, Incoming>, incoming: Incoming) {
        self.shared.bytes.fetch_add(incoming.entry.body.len(), Ordering::Relaxed);
        permits.next().expect("a permit is reserved for each entry").send(incoming);
    }

    pub fn check_heads(&self) {
        self.shared.check_heads.store(true, Ordering::Release);
        self.shared.signal.notify_one();
    }

    pub fn report_memberships(&self) {
        self.shared.report_memberships.store(true, Ordering::Release);
        self.shared.signal.notify_one();
    }
}

impl Receiver {
    pub async fn next(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.recv().await?;
        self.shared.bytes.fetch_sub(incoming.entry.body.len(), Ordering::Relaxed);
        Some(incoming)
    }

    /// The next entry, if one is queued.
    pub fn try_next(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.try_recv().ok()?;
        self.shared.bytes.fetch_sub(incoming.entry.body.len(), Ordering::Relaxed);
        Some(incoming)
    }

    /// Returns the receiver of reconciliation requests.
    pub fn reconciliation(&self) -> ReconciliationReceiver {
        ReconciliationReceiver(self.shared.clone())
    }
}

impl ReconciliationReceiver {
    /// Completes when a request may be pending.
    pub async fn wait(&self) {
        self.0.signal.notified().await;
    }

    /// Returns the pending requests and clears them.
    pub fn take(&self) -> Reconciliation {
        Reconciliation {
            check_heads: self.0.check_heads.swap(false, Ordering::AcqRel),
            report_memberships: self.0.report_memberships.swap(false, Ordering::AcqRel),
        }
    }
}
