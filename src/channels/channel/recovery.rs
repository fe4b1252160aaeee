//! The recovery of the events that a client missed before it subscribed again
//! (docs/resume.md).

use std::sync::Arc;

use crate::channels::replay::{RecoveredEvents, full_seq};
use crate::entry::Position;
use crate::metrics::metrics;
use crate::wire::resume::{Resume, ResumeToken, Standing};

/// The state of a pending subscription's recovery.
#[derive(Debug)]
pub(super) enum Recovery {
    /// The client does not resume.
    NotRequested,
    /// The client resumes. `in_read` is set while a history read includes this request.
    Requested {
        resume: Box<Resume>,
        in_read: bool,
    },
    /// The recovery failed: the epoch is another one, the client has no token for the position, or
    /// the history does not cover all missed events.
    Lost,
    Recovered {
        resume: Box<Resume>,
        missed: Arc<RecoveredEvents>,
    },
}

impl Recovery {
    pub(super) fn of(resume: Option<Box<Resume>>) -> Recovery {
        resume.map_or(Recovery::NotRequested, |resume| Recovery::Requested { resume, in_read: false })
    }

    /// Bytes of the history that was read for the client.
    pub(super) fn read_bytes(&self) -> usize {
        match self {
            Recovery::Recovered { missed, .. } => missed.read_bytes,
            Recovery::NotRequested | Recovery::Requested { .. } | Recovery::Lost => 0,
        }
    }

    /// The client keeps the bases of its previous connection.
    pub(super) fn keeps_bases(&self) -> bool {
        matches!(self, Recovery::Recovered { resume, .. } if resume.from.is_some())
    }

    /// No history read is needed (any more).
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Recovery::Requested { .. })
    }

    /// Fails the recovery: entries after the history read are lost.
    pub(super) fn lose(&mut self) {
        if !matches!(self, Recovery::NotRequested) {
            *self = Recovery::Lost;
        }
    }

    /// The read has ended without a result: the next one includes this request.
    pub(super) fn request_again(&mut self) {
        if let Recovery::Requested { in_read, .. } = self {
            *in_read = false;
        }
    }

    /// Applies the result of the read that included this request.
    pub(super) fn complete(&mut self, missed: Option<Arc<RecoveredEvents>>) {
        // The client may have left and subscribed again with another request.
        if !matches!(self, Recovery::Requested { in_read: true, .. }) {
            return;
        }
        let requested = std::mem::replace(self, Recovery::Lost);
        if let (Recovery::Requested { resume, .. }, Some(missed)) = (requested, missed) {
            *self = Recovery::Recovered { resume, missed };
        }
    }

    /// The position that a subscription begins with: the client's own if it resumes,
    /// otherwise that of its membership update. `mint` returns the token for a sequence number.
    pub(super) fn start(&self, at: Position, mint: impl FnOnce(u64) -> ResumeToken) -> Standing {
        let Position { epoch, seq, .. } = at;
        match self {
            Recovery::Recovered { resume, .. } => {
                metrics().resumes.increment(1);
                let seq = full_seq(resume.seq, seq);
                return Standing { epoch, seq, resumed: true, token: mint(seq) };
            }
            Recovery::Lost => metrics().resumes_failed.increment(1),
            Recovery::NotRequested | Recovery::Requested { .. } => {}
        }
        Standing { epoch, seq, resumed: false, token: mint(seq) }
    }
}
