//! The way from a backend (room 4) to the inbox (room 5): entries in the
//! order in which they were heard, and two signals that are never lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Notify, mpsc};

use crate::channel::ChannelId;
use crate::entry::Entry;
use crate::limits;
use crate::metrics::metrics;

/// An entry on the topic of a channel, as it was heard.
#[derive(Debug)]
pub struct Incoming {
    pub channel_id: ChannelId,
    pub entry: Entry,
}

/// The backend's end.
#[derive(Debug, Clone)]
pub struct BackendEvents {
    incoming: mpsc::Sender<Incoming>,
    shared: Arc<Shared>,
}

/// The inbox's end.
#[derive(Debug)]
pub struct Receiver {
    incoming: mpsc::Receiver<Incoming>,
    shared: Arc<Shared>,
}

/// The end where the inbox hears signals.
#[derive(Debug)]
pub struct ReconciliationReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    check_heads: AtomicBool,
    report_memberships: AtomicBool,
    signal: Notify,
}

/// What a backend wants looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reconciliation {
    /// Announcements may have been missed: compare every channel with its head.
    pub check_heads: bool,
    /// Memberships may have been lost: write all of them anew.
    pub report_memberships: bool,
}

/// A events of [`limits::BACKEND_EVENTS_MAX`] entries and
/// [`limits::BACKEND_EVENTS_BYTES_MAX`] bytes.
pub fn backend_events() -> (BackendEvents, Receiver) {
    let (sender, receiver) = mpsc::channel(limits::BACKEND_EVENTS_MAX);
    let shared = Arc::new(Shared::default());
    (BackendEvents { incoming: sender, shared: shared.clone() }, Receiver { incoming: receiver, shared })
}

impl BackendEvents {
    /// Hands on an entry that cannot wait: the link to Redis must never be
    /// slowed down. A full events drops it, and the channel's log is read later.
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

    /// Room for `count` entries, for a backend whose publishers can wait.
    /// None when the inbox has gone.
    pub async fn reserve(&self, count: usize) -> Option<mpsc::PermitIterator<'_, Incoming>> {
        self.incoming.reserve_many(count).await.ok()
    }

    /// As [`BackendEvents::push`], with room that was reserved.
    pub fn push_reserved(&self, room: &mut mpsc::PermitIterator<'_, Incoming>, incoming: Incoming) {
        self.shared.bytes.fetch_add(incoming.entry.body.len(), Ordering::Relaxed);
        room.next().expect("room was reserved for each").send(incoming);
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

    /// The next entry, if it is here already.
    pub fn try_next(&mut self) -> Option<Incoming> {
        let incoming = self.incoming.try_recv().ok()?;
        self.shared.bytes.fetch_sub(incoming.entry.body.len(), Ordering::Relaxed);
        Some(incoming)
    }

    /// Where the signals are heard.
    pub fn reconciliation(&self) -> ReconciliationReceiver {
        ReconciliationReceiver(self.shared.clone())
    }
}

impl ReconciliationReceiver {
    /// Resolves when there may be a signal.
    pub async fn wait(&self) {
        self.0.signal.notified().await;
    }

    /// What is waiting to be looked at; asking answers it.
    pub fn take(&self) -> Reconciliation {
        Reconciliation {
            check_heads: self.0.check_heads.swap(false, Ordering::AcqRel),
            report_memberships: self.0.report_memberships.swap(false, Ordering::AcqRel),
        }
    }
}
