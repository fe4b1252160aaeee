//! One channel on this node: who is here and who is pending, whether its topic
//! is listened to, and what of it the cluster has been results.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::initial_bases::InitialBases;
use super::presence::Presence;
use super::recovery::Recovery;
use super::sequencer::Sequencer;
use super::watchlists::Watch;
use crate::backend::{Cached, MembershipRules};
use crate::channel::ChannelId;
use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::entry::{Entry, Position};
use crate::event::SocketId;
use crate::fan_out::DeliveryOptions;
use crate::limits;
use crate::metrics::metrics;
use crate::subscribers::{Subscriber, Subscribers};
use crate::wire::reply;

/// The serial state machine of one (node, channel).
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) sequencer: Sequencer,
    pub(super) subscribers: Subscribers,
    /// What the server's and the app's settings make of deltas here.
    pub(super) deltas: ChannelDelta,
    /// What the cluster has found deltas to save here.
    pub(super) policy: Policy,
    /// A call is under way that switches deltas on or off.
    pub(super) switching: bool,
    /// The newest event of each chain, where it is kept for who joins.
    pub(super) initial_bases: Option<Box<InitialBases>>,
    /// The log is to be read, or is being read, for who resumes.
    pub(super) replaying: bool,
    /// Somebody will be told the position soon.
    pub(super) position_due: bool,
    /// The epoch that those who can resume have been results.
    pub(super) notified_epoch: u64,
    pub(super) pending: HashMap<SocketId, PendingSubscription>,
    pub(super) listening: Listening,
    pub(super) membership: Membership,
    /// What the app's settings mean here.
    pub(super) rules: MembershipRules,
    /// Kept while a join script is under way, or someone waits to be let in.
    pub(super) catch_up_buffer: Option<CatchUpBuffer>,
    /// Of a presence channel: who is here in the whole cluster.
    pub(super) presence: Option<Box<Presence>>,
    /// Of a user's own channel: whether the user is online, and who wants to know.
    pub(super) watch: Option<Box<Watch>>,
    pub(super) idle_since: Option<Instant>,
}

/// A subscription that has not been confirmed yet.
#[derive(Debug)]
pub(super) struct PendingSubscription {
    pub(super) subscriber: Subscriber,
    /// Frames that tell the client it has succeeded.
    pub(super) confirmation: Bytes,
    /// It is to be told that it has succeeded.
    pub(super) succeeds: bool,
    /// What it has had before.
    pub(super) recovery: Recovery,
    pub(super) state: State,
}

/// How far a pending has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// No script counts it.
    Unreported,
    /// The script under way does; it was sent when the channel stood here.
    Reporting { since: Position },
    /// The script has said where the channel stood, how many it counted in the
    /// cluster, and what its last event was: it is let in when this node has
    /// handled all that came before, if that will ever come. No total for who was
    /// here already.
    Registered { at: Position, total: Option<u64>, last: Option<Box<Cached>>, waits: Waits },
}

/// Whether one who is placed waits for what came before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    No,
    /// For as long as it may be on its way.
    Yes,
    /// The log was read before it was placed: until it has been read once more.
    OnceMore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Listening {
    #[default]
    No,
    /// Asked for, not proved.
    Asked,
    Yes,
}

/// Where the channel waits for its update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Queued {
    #[default]
    No,
    /// Nobody waits for it.
    Last,
    /// Someone waits to be let in. It may stand among the last as well.
    First,
}

/// What the cluster has been told of this node's subscriptions here.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The number that was last acknowledged.
    pub(super) reported: Option<u64>,
    /// A script is under way: one at a time, so that they cannot overtake each
    /// other.
    pub(super) under_way: bool,
    pub(super) queued: Queued,
    /// Must be said again, though the number is the same.
    pub(super) stale: bool,
    /// An attempt went unanswered and may yet arrive: the channel is kept, and
    /// updated anew, until it cannot.
    pub(super) uncertain_until: Option<Instant>,
}

/// What was delivered here since a join script was sent: the pending may be owed
/// the part after its `at`.
#[derive(Debug, Default)]
pub(super) struct CatchUpBuffer {
    entries: VecDeque<Entry>,
    overflowed: bool,
}

impl Channel {
    /// Subscriptions of this node, confirmed or not: the number to assert.
    pub(super) fn count(&self) -> u64 {
        (self.subscribers.len() + self.pending.len()) as u64
    }

    /// Nobody here has anything to do with it.
    pub(super) fn is_unused(&self) -> bool {
        self.count() == 0 && self.watch.as_ref().is_none_or(|watch| watch.is_unwatched())
    }

    /// Someone waits for a script's answer.
    pub(super) fn is_awaited(&self) -> bool {
        !self.pending.is_empty() || self.watch.as_ref().is_some_and(|watch| watch.is_awaited())
    }

    /// Its subscribers are told how many they are (protocol.md 2.11).
    pub(super) fn reports_counts(&self) -> bool {
        self.rules.subscription_counts && self.presence.is_none() && self.watch.is_none()
    }

    pub(super) fn needs_membership_update(&self) -> bool {
        !self.membership.under_way
            && (self.membership.stale
                || self.membership.reported.unwrap_or(0) != self.count()
                || self.pending.values().any(|pending| pending.state == State::Unreported)
                || self.presence.as_ref().is_some_and(|presence| presence.is_dirty()))
    }

    pub(super) fn is_forgettable(&self, now: Instant) -> bool {
        self.is_unused()
            && self.idle_since.is_some_and(|since| now.duration_since(since) >= limits::LINGER)
            && !self.membership.under_way
            && self.membership.reported.unwrap_or(0) == 0
            && !self.membership.is_uncertain(now)
            && self.listening != Listening::Asked
            && !self.sequencer.is_repairing()
            && self.presence.as_ref().is_none_or(|presence| presence.is_forgettable())
    }

    /// What everyone else has had since the channel stood `at`.
    pub(super) fn missed_since(&self, at: Position) -> Vec<Entry> {
        let catch_up_buffer =
            self.catch_up_buffer.iter().flat_map(|catch_up_buffer| &catch_up_buffer.entries);
        catch_up_buffer.filter(|entry| entry.is_after(at)).cloned().collect()
    }

    /// The pending is to be sent bases that have not been read yet.
    pub(super) fn needs_initial_bases(&self, pending: &PendingSubscription) -> bool {
        self.sends_initial_bases(&pending.subscriber.options)
            && !pending.recovery.keeps_bases()
            && !self.initial_bases.as_ref().is_some_and(|initial_bases| initial_bases.is_complete())
    }

    /// Who joins without bases of its own is sent the newest of each chain
    /// (protocol.md 3.9). On a channel without keys only clients that resume know
    /// what to do with it.
    fn sends_initial_bases(&self, options: &DeliveryOptions) -> bool {
        let is_understood = self.deltas.conflation_key.is_some() || options.positions;
        self.deltas.cache_sync && is_understood && options.algorithm.is_some()
    }

    /// The bases that somebody begins with, and the frame that tells of them. With
    /// keys, clients keep bases across connections: without a initial_bases they are
    /// told to forget them.
    pub(super) fn first_bases(
        &mut self,
        channel_id: &ChannelId,
        options: &DeliveryOptions,
        config: &DeltaConfig,
    ) -> Option<(Bytes, Chains)> {
        if self.sends_initial_bases(options) {
            metrics().cache_syncs.increment(1);
            return Some(self.initial_bases.as_mut()?.frame(
                channel_id.channel(),
                options,
                &self.deltas,
                config,
            ));
        }
        let is_keyed = self.deltas.conflation_key.is_some() && options.algorithm.is_some();
        let forget =
            || reply::delta_cache_sync(options.event_prefix, channel_id.channel(), &self.deltas, &[]);
        is_keyed.then(|| (forget(), Chains::default()))
    }

    /// The number of the next event here.
    pub(super) fn next_seq(&self) -> u64 {
        self.sequencer.position().unwrap_or_default().seq + 1
    }

    /// The placed have waited long enough: what came before them has been read from
    /// the log, or is lost. Not so for those who stand beyond what was `known`, where
    /// it was found out before they were placed. Returns where they are.
    pub(super) fn stop_waiting(&mut self, known: Position) -> Vec<Position> {
        let mut beyond = Vec::new();
        for pending in self.pending.values_mut() {
            let State::Registered { at, waits, .. } = &mut pending.state else { continue };
            *waits = match waits {
                Waits::Yes if at.epoch == known.epoch && at.seq > known.seq => {
                    beyond.push(*at);
                    Waits::OnceMore
                }
                _ => Waits::No,
            };
        }
        beyond
    }

    /// Where those stand who wait for what came before them.
    pub(super) fn awaited_positions(&self) -> Vec<Position> {
        let placed = self.pending.values().filter_map(|pending| match pending.state {
            State::Registered { at, waits, .. } if waits != Waits::No => Some(at),
            _ => None,
        });
        placed.filter(|at| !self.sequencer.has_passed(*at)).collect()
    }

    pub(super) fn membership_update_failed(&mut self, now: Instant) {
        for pending in self.pending.values_mut().filter(|pending| pending.is_counted()) {
            pending.state = State::Unreported;
        }
        self.membership.stale = true;
        self.membership.uncertain_until = Some(now + limits::LOG_AGE_MAX);
        self.trim_catch_up_buffer();
    }

    /// Keeps only what someone may still be owed.
    pub(super) fn trim_catch_up_buffer(&mut self) {
        let owed_since = self.pending.values().filter_map(|pending| match pending.state {
            State::Unreported => None,
            State::Reporting { since } => Some(since),
            State::Registered { at, .. } => Some(at),
        });
        match owed_since.min_by_key(|position| position.seq) {
            None => self.catch_up_buffer = None,
            Some(since) => {
                if let Some(catch_up_buffer) = &mut self.catch_up_buffer {
                    let owed = catch_up_buffer.entries.iter().position(|it| it.is_after(since));
                    catch_up_buffer.entries.drain(..owed.unwrap_or(catch_up_buffer.entries.len()));
                }
            }
        }
    }
}

impl Membership {
    /// A script that went unanswered may yet arrive.
    pub(super) fn is_uncertain(&self, now: Instant) -> bool {
        self.uncertain_until.is_some_and(|until| now < until)
    }
}

impl PendingSubscription {
    pub(super) fn is_counted(&self) -> bool {
        matches!(self.state, State::Reporting { .. })
    }
}

impl CatchUpBuffer {
    /// What was to be kept was too much.
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() >= limits::CATCH_UP_BUFFER_ENTRIES_MAX {
            metrics().held_entries_dropped.increment(1);
            // A run with a hole in it would be worse than a later start.
            *self = CatchUpBuffer { overflowed: true, ..CatchUpBuffer::default() };
        }
        if !self.overflowed {
            self.entries.push_back(entry);
        }
    }
}
