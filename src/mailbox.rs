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
pub struct Mail {
    pub channel_id: ChannelId,
    pub entry: Entry,
}

/// The backend's end.
#[derive(Debug, Clone)]
pub struct Mailbox {
    mail: mpsc::Sender<Mail>,
    shared: Arc<Shared>,
}

/// The inbox's end.
#[derive(Debug)]
pub struct Letters {
    mail: mpsc::Receiver<Mail>,
    shared: Arc<Shared>,
}

/// The end where the inbox hears signals.
#[derive(Debug)]
pub struct SignalReceiver(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    recheck: AtomicBool,
    report_memberships: AtomicBool,
    signal: Notify,
}

/// What a backend wants looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Signals {
    /// Announcements may have been missed: compare every channel with its head.
    pub recheck: bool,
    /// Memberships may have been lost: write all of them anew.
    pub report_memberships: bool,
}

/// A mailbox of [`limits::MAILBOX_MAX`] entries and
/// [`limits::MAILBOX_BYTES_MAX`] bytes.
pub fn mailbox() -> (Mailbox, Letters) {
    let (sender, receiver) = mpsc::channel(limits::MAILBOX_MAX);
    let shared = Arc::new(Shared::default());
    (Mailbox { mail: sender, shared: shared.clone() }, Letters { mail: receiver, shared })
}

impl Mailbox {
    /// Hands on an entry that cannot wait: the link to Redis must never be
    /// slowed down. A full mailbox drops it, and the channel's log is read later.
    pub fn hear(&self, mail: Mail) {
        let bytes = mail.entry.body.len();
        let fits = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= limits::MAILBOX_BYTES_MAX;
        if !fits || self.mail.try_send(mail).is_err() {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            metrics().inbox_dropped.increment(1);
            self.recheck();
        }
    }

    /// Room for `count` entries, for a backend whose publishers can wait.
    /// None when the inbox has gone.
    pub async fn reserve(&self, count: usize) -> Option<mpsc::PermitIterator<'_, Mail>> {
        self.mail.reserve_many(count).await.ok()
    }

    /// As [`Mailbox::hear`], with room that was reserved.
    pub fn hear_with(&self, room: &mut mpsc::PermitIterator<'_, Mail>, mail: Mail) {
        self.shared.bytes.fetch_add(mail.entry.body.len(), Ordering::Relaxed);
        room.next().expect("room was reserved for each").send(mail);
    }

    pub fn recheck(&self) {
        self.shared.recheck.store(true, Ordering::Release);
        self.shared.signal.notify_one();
    }

    pub fn report_memberships(&self) {
        self.shared.report_memberships.store(true, Ordering::Release);
        self.shared.signal.notify_one();
    }
}

impl Letters {
    pub async fn next(&mut self) -> Option<Mail> {
        let mail = self.mail.recv().await?;
        self.shared.bytes.fetch_sub(mail.entry.body.len(), Ordering::Relaxed);
        Some(mail)
    }

    /// The next entry, if it is here already.
    pub fn try_next(&mut self) -> Option<Mail> {
        let mail = self.mail.try_recv().ok()?;
        self.shared.bytes.fetch_sub(mail.entry.body.len(), Ordering::Relaxed);
        Some(mail)
    }

    /// Where the signals are heard.
    pub fn signals(&self) -> SignalReceiver {
        SignalReceiver(self.shared.clone())
    }
}

impl SignalReceiver {
    /// Resolves when there may be a signal.
    pub async fn wait(&self) {
        self.0.signal.notified().await;
    }

    /// What is waiting to be looked at; asking answers it.
    pub fn take(&self) -> Signals {
        Signals {
            recheck: self.0.recheck.swap(false, Ordering::AcqRel),
            report_memberships: self.0.report_memberships.swap(false, Ordering::AcqRel),
        }
    }
}
