//! Subscriptions that are not confirmed yet.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::recovery::Recovery;
use super::sequencer::Sequencer;
use crate::backend::{Cached, UpdatedMembership};
use crate::channels::handle::Confirmation;
use crate::channels::replay::{RecoveryRequest, RecoveryResults, full_seq};
use crate::entry::Position;
use crate::event::SocketId;
use crate::sockets::subscription_permit::SubscriptionPermit;
use crate::subscribers::Subscriber;
use crate::wire::resume::Resume;

#[derive(Debug)]
pub(super) struct PendingSubscription {
    pub(super) subscriber: Subscriber,
    /// One for each command of the client. Empty if the subscription only restarts, with
    /// deltas.
    pub(super) confirmations: SmallVec<[Confirmation; 1]>,
    /// The recovery of the events that the client missed before.
    pub(super) recovery: Recovery,
    pub(super) state: State,
    /// The number of the client's last command for this subscription.
    pub(super) attempt: u32,
    /// Counts against [`crate::limits::APP_PENDING_MAX`]. None for the subscription to a user
    /// channel, of which a connection has one.
    pub(super) permit: Option<SubscriptionPermit>,
}

/// How far a pending subscription has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not included in any membership update yet.
    Unreported,
    /// Included in the membership update in flight, which was sent at position `since`.
    Reporting {
        since: Position,
    },
    Registered(Registered),
}

/// Reported to the cluster. The channel admits the subscription once this node has handled
/// all entries up to `at`, or they are known to be lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Registered {
    /// The channel's position after the membership update.
    pub(super) at: Position,
    /// Subscriptions in the cluster. None for a subscription that only restarts.
    pub(super) total: Option<u64>,
    /// The cached event of a cache channel.
    pub(super) last: Option<Box<Cached>>,
    pub(super) waits: Waits,
}

/// Whether a registered subscription waits for entries up to its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    /// Until they have arrived, or a read of the history has ended the wait.
    Yes,
    /// The history was read up to an earlier position: until it has been read once
    /// more.
    OnceMore,
}

impl PendingSubscription {
    fn is_reporting(&self) -> bool {
        matches!(self.state, State::Reporting { .. })
    }

    fn registered(&self) -> Option<&Registered> {
        match &self.state {
            State::Registered(registered) => Some(registered),
            _ => None,
        }
    }

    /// Nothing more to wait for, except the reads that the caller checks.
    fn is_caught_up(&self, sequencer: &Sequencer) -> bool {
        self.registered().is_some_and(|it| it.waits == Waits::No || sequencer.has_passed(it.at))
    }
}

/// The pending subscriptions of one channel, by socket.
#[derive(Debug, Default)]
pub(super) struct Pending(BTreeMap<SocketId, PendingSubscription>);

impl Pending {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn insert(&mut self, socket: SocketId, pending: PendingSubscription) {
        self.0.insert(socket, pending);
    }

    pub(super) fn remove(&mut self, socket: SocketId) -> Option<PendingSubscription> {
        let pending = self.0.remove(&socket);
        if self.0.is_empty() {
            // An emptied map keeps a node of some kilobytes.
            self.0 = BTreeMap::new();
        }
        pending
    }

    pub(super) fn get_mut(&mut self, socket: SocketId) -> Option<&mut PendingSubscription> {
        self.0.get_mut(&socket)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (SocketId, &PendingSubscription)> {
        self.0.iter().map(|(socket, pending)| (*socket, pending))
    }

    pub(super) fn has_unreported(&self) -> bool {
        self.unreported().next().is_some()
    }

    /// The sockets of subscriptions that no membership update includes yet.
    pub(super) fn unreported(&self) -> impl Iterator<Item = SocketId> {
        self.iter().filter(|(_, pending)| pending.state == State::Unreported).map(|(socket, _)| socket)
    }

    /// Includes the unreported subscriptions for which `is_included` holds in a membership
    /// update that is sent at position `since`. Returns whether the update includes any.
    pub(super) fn begin_report(
        &mut self,
        since: Position,
        is_included: impl Fn(&Subscriber) -> bool,
    ) -> bool {
        for pending in self.0.values_mut() {
            if pending.state == State::Unreported && is_included(&pending.subscriber) {
                pending.state = State::Reporting { since };
            }
        }
        self.0.values().any(PendingSubscription::is_reporting)
    }

    /// The update has failed: the next one includes its subscriptions.
    pub(super) fn report_failed(&mut self) {
        for pending in self.0.values_mut().filter(|pending| pending.is_reporting()) {
            pending.state = State::Unreported;
        }
    }

    /// The script has counted the reported subscriptions. Returns whether there are any.
    pub(super) fn register(&mut self, updated: &UpdatedMembership) -> bool {
        for pending in self.0.values_mut().filter(|pending| pending.is_reporting()) {
            pending.state = State::Registered(Registered {
                at: updated.at,
                total: Some(updated.total),
                last: updated.last.clone().map(Box::new),
                waits: Waits::Yes,
            });
        }
        self.0.values().any(|pending| pending.registered().is_some())
    }

    /// The sockets of the reported subscriptions.
    pub(super) fn reported(&self) -> Vec<SocketId> {
        self.iter().filter(|(_, pending)| pending.is_reporting()).map(|(socket, _)| socket).collect()
    }

    /// The sockets of the reported subscriptions of these users.
    pub(super) fn reported_by(&self, is_user: impl Fn(&str) -> bool) -> Vec<SocketId> {
        let is_refused = |pending: &PendingSubscription| {
            let member = pending.subscriber.member.as_ref();
            pending.is_reporting() && member.is_some_and(|member| is_user(&member.user_id))
        };
        self.iter().filter(|(_, pending)| is_refused(pending)).map(|(socket, _)| socket).collect()
    }

    /// Ends the wait of registered subscriptions: the entries before them have been
    /// read from the history, or are lost. A subscription with a position after
    /// `known`, the head as of that read, waits for one more read. Returns the newest of
    /// these positions.
    pub(super) fn stop_waiting(&mut self, known: Position) -> Option<Position> {
        let mut newest: Option<Position> = None;
        for Registered { at, waits, .. } in self.registered_mut() {
            *waits = match waits {
                Waits::Yes if (at.epoch, at.seq) > (known.epoch, known.seq) => {
                    newest = newest.filter(|newest| newest.seq >= at.seq).or(Some(*at));
                    Waits::OnceMore
                }
                _ => Waits::No,
            };
        }
        newest
    }

    fn registered_mut(&mut self) -> impl Iterator<Item = &mut Registered> {
        self.0.values_mut().filter_map(|pending| match &mut pending.state {
            State::Registered(registered) => Some(registered),
            _ => None,
        })
    }

    /// The newest position of registered subscriptions that still wait for earlier
    /// entries.
    pub(super) fn awaited_position(&self, sequencer: &Sequencer) -> Option<Position> {
        let registered = self.0.values().filter_map(PendingSubscription::registered);
        let waiting = registered.filter(|it| it.waits != Waits::No && !sequencer.has_passed(it.at));
        waiting.map(|it| it.at).max_by_key(|at| at.seq)
    }

    /// The oldest position from which on a subscription needs the delivered entries.
    pub(super) fn needed_since(&self) -> Option<Position> {
        let needed_since = self.0.values().filter_map(|pending| match &pending.state {
            State::Unreported => None,
            State::Reporting { since } => Some(*since),
            State::Registered(registered) => Some(registered.at),
        });
        needed_since.min_by_key(|position| position.seq)
    }

    /// Any registered subscription.
    pub(super) fn first_registered(&self) -> Option<SocketId> {
        self.iter().find(|(_, pending)| pending.registered().is_some()).map(|(socket, _)| socket)
    }

    /// Sorts the registered subscriptions by their state. `needs_bases` decides whether a
    /// subscription waits for initial bases.
    pub(super) fn sort(
        &self,
        sequencer: &Sequencer,
        needs_bases: impl Fn(&PendingSubscription) -> bool,
    ) -> Sorted {
        let mut sorted = Sorted::default();
        for (socket, pending) in self.iter().filter(|(_, pending)| pending.registered().is_some()) {
            let (awaits_recovery, awaits_bases) = (!pending.recovery.is_known(), needs_bases(pending));
            if awaits_recovery {
                sorted.await_recovery.get_or_insert(socket);
            }
            if awaits_bases {
                sorted.await_bases.get_or_insert(socket);
            }
            if !awaits_recovery && !awaits_bases && pending.is_caught_up(sequencer) {
                sorted.ready.push(socket);
            }
        }
        sorted
    }

    /// The requests that the next read of the history serves, and the oldest sequence
    /// number among them. A request with another epoch, or for events before its token, fails
    /// without a read.
    pub(super) fn recovery_requests(&mut self, now_seq: u64) -> Option<(Vec<RecoveryRequest>, u32)> {
        let mut requests = Vec::new();
        for (socket, PendingSubscription { subscriber, recovery, state, .. }) in &mut self.0 {
            let State::Registered(Registered { at, .. }) = *state else { continue };
            let Recovery::Requested { resume, in_read } = recovery else { continue };
            let seq = full_seq(resume.seq, at.seq);
            let has_token = resume.token.is_some_and(|token| token.since <= seq);
            if resume.epoch != at.epoch || !has_token {
                *recovery = Recovery::Lost;
                continue;
            }
            *in_read = true;
            let (resume, options) = (Resume::clone(resume), subscriber.options.clone());
            requests.push(RecoveryRequest { socket: *socket, options, resume, at });
        }
        let seqs = requests.iter().map(|request| request.resume.seq);
        let oldest = seqs.min_by_key(|seq| full_seq(*seq, now_seq))?;
        Some((requests, oldest))
    }

    pub(super) fn request_recovery_again(&mut self) {
        self.0.values_mut().for_each(|pending| pending.recovery.request_again());
    }

    pub(super) fn complete_recovery(&mut self, results: RecoveryResults) {
        for (socket, missed) in results {
            if let Some(pending) = self.get_mut(socket) {
                pending.recovery.complete(missed);
            }
        }
    }
}

/// Registered subscriptions, sorted by their state.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// Can be admitted.
    pub(super) ready: Vec<SocketId>,
    /// The first one that waits for its recovery.
    pub(super) await_recovery: Option<SocketId>,
    /// The first one that waits for initial bases.
    pub(super) await_bases: Option<SocketId>,
}
