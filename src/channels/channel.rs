//! The state of one channel on this node: subscribers, pending subscriptions, the
//! subscription to its topic, and the membership last reported to the cluster.

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

/// The state machine of one channel on one node. Only the channels actor changes it.
#[derive(Debug, Default)]
pub(super) struct Channel {
    pub(super) sequencer: Sequencer,
    pub(super) subscribers: Subscribers,
    /// Delta settings of the server and the app for this channel.
    pub(super) deltas: ChannelDelta,
    /// The state of the delta toggle, and this node's measurements for it.
    pub(super) policy: Policy,
    /// A request to change the delta toggle is in flight.
    pub(super) toggling: bool,
    /// Bases for new subscribers (protocol.md 3.9); None until one needs them.
    pub(super) initial_bases: Option<Box<InitialBases>>,
    /// A history read for clients that resume is queued or in flight.
    pub(super) recovering: bool,
    /// A position notice is due soon.
    pub(super) position_due: bool,
    /// The epoch of the last position notice to subscribers with positions.
    pub(super) notified_epoch: u64,
    pub(super) pending: HashMap<SocketId, PendingSubscription>,
    pub(super) listening: Listening,
    pub(super) membership: Membership,
    /// The app's rules for membership updates.
    pub(super) rules: MembershipRules,
    /// Kept while a membership update with pending subscriptions is in flight, and
    /// until these are admitted.
    pub(super) catch_up_buffer: Option<CatchUpBuffer>,
    /// On presence channels: this node's users, and the roster of the cluster.
    pub(super) presence: Option<Box<Presence>>,
    /// On user channels: the online status of the user, and its watchers.
    pub(super) watch: Option<Box<Watch>>,
    pub(super) idle_since: Option<Instant>,
}

/// A subscription that is not confirmed yet.
#[derive(Debug)]
pub(super) struct PendingSubscription {
    pub(super) subscriber: Subscriber,
    /// Frames that confirm the subscription: see [`super::Command::Subscribe`].
    pub(super) confirmation: Bytes,
    /// Whether to send a confirmation. False if the subscription only restarts, with
    /// deltas.
    pub(super) succeeds: bool,
    /// The recovery of the events that the client missed before.
    pub(super) recovery: Recovery,
    pub(super) state: State,
}

/// How far a pending subscription has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// Not included in any membership update yet.
    Unreported,
    /// Included in the membership update in flight, which was sent at position `since`.
    Reporting { since: Position },
    /// Reported to the cluster: `at` is the channel's position after the update,
    /// `total` the number of subscriptions in the cluster, `last` the cached event of a
    /// cache channel. The channel admits the subscription once this node has handled
    /// all entries up to `at`, or they are known to be lost. `total` is None for a
    /// subscription that only restarts.
    Registered { at: Position, total: Option<u64>, last: Option<Box<Cached>>, waits: Waits },
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Listening {
    #[default]
    No,
    /// Requested; not confirmed by Redis yet.
    Requested,
    Yes,
}

/// The queue in which a channel waits for its membership update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Queued {
    #[default]
    No,
    /// Behind channels with pending subscriptions.
    Last,
    /// Ahead of the others: a subscription is pending. The channel may be in both
    /// queues.
    First,
}

/// The membership of this node as last reported to the cluster.
#[derive(Debug, Default)]
pub(super) struct Membership {
    /// The last acknowledged number of subscriptions.
    pub(super) reported: Option<u64>,
    /// An update is in flight. There is one at a time, so that an older number never
    /// overwrites a newer one.
    pub(super) in_flight: bool,
    pub(super) queued: Queued,
    /// To be reported again, even if the number is the same.
    pub(super) stale: bool,
    /// An unanswered update may still be executed until this time. Until then the
    /// channel is kept, so that its number can be reported again.
    pub(super) uncertain_until: Option<Instant>,
}

/// Entries delivered since a membership update was sent. A pending subscription is sent
/// the part after its `at`.
#[derive(Debug, Default)]
pub(super) struct CatchUpBuffer {
    entries: VecDeque<Entry>,
    overflowed: bool,
}

impl Channel {
    /// Subscriptions of this node, pending ones included: the number to report.
    pub(super) fn count(&self) -> u64 {
        (self.subscribers.len() + self.pending.len()) as u64
    }

    /// No subscriptions and no watchers.
    pub(super) fn is_unused(&self) -> bool {
        self.count() == 0 && self.watch.as_ref().is_none_or(|watch| watch.is_unwatched())
    }

    /// A subscription or a watcher waits for the result of a membership update.
    pub(super) fn is_awaited(&self) -> bool {
        !self.pending.is_empty() || self.watch.as_ref().is_some_and(|watch| watch.is_awaited())
    }

    /// Whether subscribers receive `subscription_count` (protocol.md 2.11).
    pub(super) fn reports_counts(&self) -> bool {
        self.rules.subscription_counts && self.presence.is_none() && self.watch.is_none()
    }

    pub(super) fn needs_membership_update(&self) -> bool {
        !self.membership.in_flight
            && (self.membership.stale
                || self.membership.reported.unwrap_or(0) != self.count()
                || self.pending.values().any(|pending| pending.state == State::Unreported)
                || self.presence.as_ref().is_some_and(|presence| presence.is_dirty()))
    }

    pub(super) fn is_removable(&self, now: Instant) -> bool {
        self.is_unused()
            && self.idle_since.is_some_and(|since| now.duration_since(since) >= limits::LINGER)
            && !self.membership.in_flight
            && self.membership.reported.unwrap_or(0) == 0
            && !self.membership.is_uncertain(now)
            && self.listening != Listening::Requested
            && !self.sequencer.is_repairing()
            && self.presence.as_ref().is_none_or(|presence| presence.is_removable())
    }

    /// The entries after `at` that live subscribers have received.
    pub(super) fn missed_since(&self, at: Position) -> Vec<Entry> {
        let catch_up_buffer =
            self.catch_up_buffer.iter().flat_map(|catch_up_buffer| &catch_up_buffer.entries);
        catch_up_buffer.filter(|entry| entry.is_after(at)).cloned().collect()
    }

    /// The pending subscription needs initial bases that are not read yet.
    pub(super) fn needs_initial_bases(&self, pending: &PendingSubscription) -> bool {
        self.sends_initial_bases(&pending.subscriber.options)
            && !pending.recovery.keeps_bases()
            && !self.initial_bases.as_ref().is_some_and(|initial_bases| initial_bases.is_complete())
    }

    /// Whether a new subscriber with these options receives initial bases (protocol.md
    /// 3.9). On a channel without conflation keys only clients with `resume` understand
    /// the frame.
    fn sends_initial_bases(&self, options: &DeliveryOptions) -> bool {
        let reads_frame = self.deltas.conflation_key.is_some() || options.positions;
        self.deltas.cache_sync && reads_frame && options.algorithm.is_some()
    }

    /// The initial bases of a new subscriber, and the frame that carries them. On a
    /// channel with conflation keys clients keep bases across connections: without
    /// initial bases, an empty frame drops them.
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
        let empty_frame =
            || reply::delta_cache_sync(options.event_prefix, channel_id.channel(), &self.deltas, &[]);
        is_keyed.then(|| (empty_frame(), Chains::default()))
    }

    /// The sequence number of the next event.
    pub(super) fn next_seq(&self) -> u64 {
        self.sequencer.position().unwrap_or_default().seq + 1
    }

    /// Ends the wait of registered subscriptions: the entries before them have been
    /// read from the history, or are lost. A subscription with a position after
    /// `known`, the position of that read, waits for one more read. Returns these
    /// positions.
    pub(super) fn stop_waiting(&mut self, known: Position) -> Vec<Position> {
        let mut after_known = Vec::new();
        for pending in self.pending.values_mut() {
            let State::Registered { at, waits, .. } = &mut pending.state else { continue };
            *waits = match waits {
                Waits::Yes if at.epoch == known.epoch && at.seq > known.seq => {
                    after_known.push(*at);
                    Waits::OnceMore
                }
                _ => Waits::No,
            };
        }
        after_known
    }

    /// Positions of registered subscriptions that still wait for earlier entries.
    pub(super) fn awaited_positions(&self) -> Vec<Position> {
        let registered = self.pending.values().filter_map(|pending| match pending.state {
            State::Registered { at, waits, .. } if waits != Waits::No => Some(at),
            _ => None,
        });
        registered.filter(|at| !self.sequencer.has_passed(*at)).collect()
    }

    pub(super) fn membership_update_failed(&mut self, now: Instant) {
        for pending in self.pending.values_mut().filter(|pending| pending.is_reporting()) {
            pending.state = State::Unreported;
        }
        self.membership.stale = true;
        self.membership.uncertain_until = Some(now + limits::LOG_AGE_MAX);
        self.trim_catch_up_buffer();
    }

    /// Drops entries that no pending subscription needs.
    pub(super) fn trim_catch_up_buffer(&mut self) {
        let needed_since = self.pending.values().filter_map(|pending| match pending.state {
            State::Unreported => None,
            State::Reporting { since } => Some(since),
            State::Registered { at, .. } => Some(at),
        });
        match needed_since.min_by_key(|position| position.seq) {
            None => self.catch_up_buffer = None,
            Some(since) => {
                if let Some(catch_up_buffer) = &mut self.catch_up_buffer {
                    let first_needed = catch_up_buffer.entries.iter().position(|it| it.is_after(since));
                    catch_up_buffer.entries.drain(..first_needed.unwrap_or(catch_up_buffer.entries.len()));
                }
            }
        }
    }
}

impl Membership {
    /// An unanswered update may still be executed.
    pub(super) fn is_uncertain(&self, now: Instant) -> bool {
        self.uncertain_until.is_some_and(|until| now < until)
    }
}

impl PendingSubscription {
    pub(super) fn is_reporting(&self) -> bool {
        matches!(self.state, State::Reporting { .. })
    }
}

impl CatchUpBuffer {
    /// More than [`limits::CATCH_UP_BUFFER_ENTRIES_MAX`] entries were to be kept.
    pub(super) fn has_overflowed(&self) -> bool {
        self.overflowed
    }

    pub(super) fn push(&mut self, entry: Entry) {
        if self.entries.len() >= limits::CATCH_UP_BUFFER_ENTRIES_MAX {
            metrics().held_entries_dropped.increment(1);
            // A sequence with a gap would be worse than a later start.
            *self = CatchUpBuffer { overflowed: true, ..CatchUpBuffer::default() };
        }
        if !self.overflowed {
            self.entries.push_back(entry);
        }
    }
}
