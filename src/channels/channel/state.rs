//! The state of one channel on this node.

use std::sync::Arc;
use std::time::Instant;

use super::catch_up_buffer::CatchUpBuffer;
use super::delta_toggle::DeltaToggle;
use super::initial_bases::InitialBases;
use super::lag::Lag;
use super::membership::Membership;
use super::pending::Pending;
use super::roster::Presence;
use super::sequencer::Sequencer;
use crate::app::App;
use crate::backend::MembershipRules;
use crate::channel::{ChannelId, ChannelKind};
use crate::channels::context::{Context, Timer, TimerSet};
use crate::channels::job::{JobKind, JobSet};
use crate::delta::channels::ChannelDelta;
use crate::encode::DeliveryOptions;
use crate::event::SocketId;
use crate::filter::ChannelFilters;
use crate::limits;
use crate::metrics::apps::AppMetrics;
use crate::presence::Member;
use crate::subscribers::Subscribers;

/// The state machine of one channel on one node. It does no IO, has no clock and no
/// access to other channels: see [`Context`].
///
/// What few channels have at a time is boxed: a node has many channels.
#[derive(Debug)]
pub(in crate::channels) struct Channel {
    pub(super) id: ChannelId,
    pub(super) sequencer: Sequencer,
    pub(super) subscribers: Subscribers,
    pub(super) pending: Pending,
    /// The filters of live and pending subscriptions; None until there is one.
    pub(super) filters: Option<Box<ChannelFilters>>,
    /// Kept while a membership update with pending subscriptions is in flight, and
    /// until these are admitted.
    pub(super) catch_up_buffer: Option<Box<CatchUpBuffer>>,
    /// This node receives the entries of the channel's topic.
    pub(super) is_listening: bool,
    pub(super) membership: Membership,
    /// On presence channels: this node's users, and the roster of the cluster.
    pub(super) presence: Option<Box<Presence>>,
    /// On user channels: the status of the user.
    pub(super) watch: Option<Watch>,
    /// None until a connection of this node subscribes.
    pub(super) app_metrics: Option<Arc<AppMetrics>>,
    /// Delta settings of the server and the app for this channel.
    pub(super) deltas: ChannelDelta,
    pub(super) toggle: DeltaToggle,
    /// Bases for new subscribers (protocol.md 3.9); None until one needs them.
    pub(super) initial_bases: Option<Box<InitialBases>>,
    /// The epoch of the last position notice to subscribers with positions.
    pub(super) notified_epoch: u64,
    /// A head that is ahead of this node.
    pub(super) lag: Option<Box<Lag>>,
    /// The channel has continued from an earlier entry: a new epoch must be opened.
    pub(super) fork: Option<Box<Fork>>,
    pub(super) idle_since: Option<Instant>,
    pub(super) jobs_in_flight: JobSet,
    pub(super) timers: TimerSet,
}

/// The status of the user of a user channel.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// None until a membership update has returned it.
    pub(super) online: Option<bool>,
    /// A connection of this node watches the user.
    pub(super) is_watched: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Fork {
    pub(super) epoch: u64,
    /// The last sequence number that this node has delivered.
    pub(super) seen_seq: u64,
}

impl Channel {
    pub(in crate::channels) fn new(id: ChannelId) -> Channel {
        let kind = id.kind();
        Channel {
            id,
            sequencer: Sequencer::default(),
            subscribers: Subscribers::default(),
            pending: Pending::default(),
            filters: None,
            catch_up_buffer: None,
            is_listening: false,
            membership: Membership::default(),
            presence: (kind == ChannelKind::Presence).then(Box::default),
            watch: (kind == ChannelKind::User).then(Watch::default),
            app_metrics: None,
            deltas: ChannelDelta::default(),
            toggle: DeltaToggle::default(),
            initial_bases: None,
            notified_epoch: 0,
            lag: None,
            fork: None,
            idle_since: None,
            jobs_in_flight: JobSet::default(),
            timers: TimerSet::default(),
        }
    }

    /// Applies the app's current settings.
    pub(super) fn configure(&mut self, app: &App, context: &Context<'_>) {
        self.app_metrics.get_or_insert_with(|| app.metrics.clone());
        self.membership.rules = MembershipRules::from(app);
        self.deltas = app.deltas.on(self.id.channel(), context.config);
    }

    pub(super) fn name(&self) -> &str {
        self.id.channel()
    }

    /// Subscriptions of this node, pending ones included: the number to report.
    pub(super) fn count(&self) -> u64 {
        (self.subscribers.len() + self.pending.len()) as u64
    }

    /// No subscriptions and no watchers.
    pub(super) fn is_unused(&self) -> bool {
        self.count() == 0 && !self.watch.as_ref().is_some_and(|watch| watch.is_watched)
    }

    /// A subscription or a watcher waits for the result of a membership update.
    pub(super) fn is_awaited(&self) -> bool {
        !self.pending.is_empty()
            || self.watch.as_ref().is_some_and(|watch| watch.is_watched && watch.online.is_none())
    }

    /// Whether subscribers receive `subscription_count` (protocol.md 2.11).
    pub(super) fn reports_counts(&self) -> bool {
        self.membership.rules.subscription_counts && self.presence.is_none() && self.watch.is_none()
    }

    pub(super) fn needs_membership_update(&self) -> bool {
        !self.jobs_in_flight.contains(JobKind::UpdateMembership)
            && (self.membership.is_stale
                || self.membership.reported.unwrap_or(0) != self.count()
                || self.pending.has_unreported()
                || self.presence.as_ref().is_some_and(|presence| presence.is_dirty()))
    }

    pub(super) fn is_removable(&self, now: Instant) -> bool {
        self.is_unused()
            && self.jobs_in_flight.is_empty()
            && self.membership.reported.unwrap_or(0) == 0
            && !self.membership.is_uncertain(now)
            && !self.sequencer.is_repairing()
            && self.presence.as_ref().is_none_or(|presence| presence.is_removable())
    }

    /// The sequence number of the next event.
    pub(super) fn next_seq(&self) -> u64 {
        self.sequencer.position().unwrap_or_default().seq + 1
    }

    /// Whether a new subscriber with these options receives initial bases (protocol.md
    /// 3.9). On a channel without conflation keys only clients with `resume` understand
    /// the frame.
    pub(super) fn sends_initial_bases(&self, options: &DeliveryOptions) -> bool {
        let reads_frame = self.deltas.conflation_key.is_some() || options.positions;
        self.deltas.cache_sync && reads_frame && options.algorithm.is_some()
    }

    /// Drops entries that no pending subscription needs.
    pub(super) fn trim_catch_up_buffer(&mut self) {
        match (self.pending.needed_since(), &mut self.catch_up_buffer) {
            (None, buffer) => *buffer = None,
            (Some(since), Some(buffer)) => buffer.drop_until(since),
            (Some(_), None) => {}
        }
    }

    /// Queues a job, unless one of its kind is in flight; when that is done, the channel
    /// decides again.
    pub(super) fn start(&self, kind: JobKind, requester: Option<SocketId>, context: &mut Context<'_>) {
        if !self.jobs_in_flight.contains(kind) {
            context.start(kind, requester);
        }
    }

    /// Sets a timer, unless it is set already.
    pub(super) fn set(&mut self, timer: Timer, context: &mut Context<'_>) {
        if self.timers.insert(timer) {
            context.set(timer, timer.delay());
        }
    }

    /// Starts the linger time of a channel without subscribers and watchers.
    pub(super) fn mark_if_idle(&mut self, context: &mut Context<'_>) {
        if self.is_unused() {
            self.idle_since = Some(context.now);
            self.set(Timer::Linger, context);
        }
    }

    /// A connection of the member has left, or was not admitted.
    pub(super) fn remove_connection(&mut self, member: Option<&Arc<Member>>) {
        if let (Some(presence), Some(member)) = (&mut self.presence, member) {
            presence.remove_connection(member);
        }
    }

    /// Adds the subscriptions to those of the app, and returns them.
    pub(in crate::channels) fn count_subscriptions(&self) -> usize {
        let subscriptions = self.subscribers.len();
        if let Some(app_metrics) = &self.app_metrics {
            app_metrics.count_subscriptions(subscriptions as u64);
        }
        subscriptions
    }

    pub(in crate::channels) fn has_deltas_off(&self) -> bool {
        self.toggle.policy.is_off()
    }

    pub(in crate::channels) fn is_listening(&self) -> bool {
        self.is_listening
    }
}

impl Timer {
    /// The time from the event that sets the timer.
    fn delay(self) -> std::time::Duration {
        match self {
            Timer::Retry => limits::RETRY_DELAY,
            Timer::Lag => limits::LAGGING_DELAY,
            Timer::Roster => limits::ROSTER_DELAY,
            Timer::Position => limits::POSITION_DELAY,
            Timer::Linger => limits::LINGER,
        }
    }
}
