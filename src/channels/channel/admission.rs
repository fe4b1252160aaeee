//! Subscribing without a gap, and unsubscribing (design.md 4): the node listens to the
//! topic, reports the subscription, and admits it exactly at the position that the
//! script returned.

use std::sync::Arc;

use smallvec::{SmallVec, smallvec};

use super::pending::{PendingSubscription, Registered, State, Waits};
use super::recovery::Recovery;
use super::state::Channel;
use crate::channels::context::{Context, Timer, UserEvent};
use crate::channels::handle::Subscribe;
use crate::channels::job::JobKind;
use crate::delta::Algorithm;
use crate::encode::DeliveryOptions;
use crate::event::SocketId;
use crate::filter::{AdmittedFilter, Filter, OverBudget};
use crate::limits;
use crate::metrics::metrics;
use crate::sockets::write_buffer::WriteBuffer;
use crate::subscribers::Subscriber;
use crate::wire::event_prefix::EventPrefix;

impl Channel {
    pub(super) fn subscribe(&mut self, subscribe: Subscribe, context: &mut Context<'_>) {
        let Subscribe {
            app,
            socket,
            write_buffer,
            mut options,
            filter,
            resume,
            member,
            confirmation,
            attempt,
            permit,
        } = subscribe;
        self.configure(&app, context);
        if context.channels_of_app.is_some_and(|channels| channels > self.membership.rules.occupied_max) {
            metrics().channels_refused.increment(1);
            let frame = self.refusal(options.event_prefix, &self.too_many_channels());
            context.reject(&write_buffer, self.name(), attempt, frame);
            return context.remove();
        }
        match filter.map(|filter| self.admit_filter(*filter, context)).transpose() {
            Ok(filter) => options.filter = filter,
            Err(over_budget) => {
                return self.refuse_filter(
                    socket,
                    &write_buffer,
                    options.event_prefix,
                    attempt,
                    over_budget,
                    context,
                );
            }
        }
        self.idle_since = None;
        self.forget_waiting_deltas(socket);
        let previous_socket_ids =
            resume.as_ref().map(|resume| resume.previous_socket_ids.clone().into()).unwrap_or_default();
        let mut pending = PendingSubscription {
            subscriber: Subscriber { write_buffer, options, previous_socket_ids, member },
            confirmations: smallvec![confirmation],
            recovery: Recovery::of(resume),
            state: State::Unreported,
            attempt,
            permit,
        };
        if let Some(live) = self.subscribers.remove(socket) {
            pending.subscriber.member = live.member;
            return self.restart_subscription(socket, pending, context);
        }
        if let Some(earlier) = self.pending.remove(socket) {
            pending.confirmations.insert_many(0, earlier.confirmations);
            pending.subscriber.member = earlier.subscriber.member;
            pending.state = earlier.state;
        } else if let (Some(presence), Some(member)) = (&mut self.presence, &pending.subscriber.member) {
            presence.add_connection(member);
        }
        self.pending.insert(socket, pending);
        self.join(Some(socket), context);
    }

    fn admit_filter(
        &mut self,
        filter: Filter,
        context: &mut Context<'_>,
    ) -> Result<AdmittedFilter, OverBudget> {
        let app = context.app_filters.entry(self.id.app().into()).or_default();
        self.filters.get_or_insert_default().admit(filter, app)
    }

    /// Refuses a subscription whose filter is too expensive together with the others. An existing
    /// subscription of the connection stays as it is.
    fn refuse_filter(
        &mut self,
        socket: SocketId,
        write_buffer: &Arc<WriteBuffer>,
        event_prefix: EventPrefix,
        attempt: u32,
        over_budget: OverBudget,
        context: &mut Context<'_>,
    ) {
        metrics().filters_refused.increment(1);
        let frame = self.refusal(event_prefix, &over_budget.to_string());
        let is_subscribed = self.subscribers.contains(socket) || self.pending.get_mut(socket).is_some();
        match is_subscribed {
            true => context.write(write_buffer, frame),
            false => context.reject(write_buffer, self.name(), attempt, frame),
        }
        self.mark_if_idle(context);
    }

    pub(super) fn unsubscribe(&mut self, socket: SocketId, context: &mut Context<'_>) {
        self.forget_waiting_deltas(socket);
        let pending = self.pending.remove(socket).map(|pending| pending.subscriber);
        let Some(subscriber) = pending.or_else(|| self.subscribers.remove(socket)) else { return };
        self.remove_connection(subscriber.member.as_ref());
        self.mark_if_idle(context);
        self.queue_membership_update(context);
    }

    /// Enables deltas for a subscribed connection. A live subscription restarts. If it needs
    /// initial bases, it stays live until they are read: a pending subscription receives no member
    /// changes, and a restart has no confirmation whose roster would include them.
    pub(super) fn enable_deltas(
        &mut self,
        socket: SocketId,
        algorithm: Algorithm,
        context: &mut Context<'_>,
    ) {
        if let Some(pending) = self.pending.get_mut(socket) {
            pending.subscriber.options.algorithm.get_or_insert(algorithm);
            return;
        }
        let live = self.subscribers.options(socket).filter(|options| options.algorithm.is_none());
        let Some(options) = live.map(|live| DeliveryOptions { algorithm: Some(algorithm), ..live.clone() })
        else {
            return;
        };
        if self.sends_initial_bases(&options) && !self.has_initial_bases() {
            self.initial_bases.get_or_insert_default().wait(socket, algorithm);
            return self.start(JobKind::ReadInitialBases, Some(socket), context);
        }
        let Some(mut subscriber) = self.subscribers.remove(socket) else { return };
        subscriber.options = options;
        let pending = PendingSubscription {
            subscriber,
            confirmations: SmallVec::new(),
            recovery: Recovery::NotRequested,
            state: State::Unreported,
            attempt: 0,
            permit: None,
        };
        self.restart_subscription(socket, pending, context);
    }

    /// Restarts a live subscription with other options. It is counted already, and
    /// begins at the channel's current position.
    fn restart_subscription(
        &mut self,
        socket: SocketId,
        mut pending: PendingSubscription,
        context: &mut Context<'_>,
    ) {
        let at = self.sequencer.position().unwrap_or_default();
        pending.state = State::Registered(Registered { at, total: None, last: None, waits: Waits::No });
        self.catch_up_buffer.get_or_insert_default();
        self.pending.insert(socket, pending);
        self.admit(context);
    }

    /// Starts the next step for a pending subscription or a watcher: listening to the
    /// topic, then a membership update.
    pub(super) fn join(&mut self, requester: Option<SocketId>, context: &mut Context<'_>) {
        let kind = if self.is_listening { JobKind::UpdateMembership } else { JobKind::Listen };
        self.start(kind, requester, context);
    }

    /// Queues a membership update if one is needed: for each pending subscription, or on
    /// behalf of none.
    pub(super) fn queue_membership_update(&mut self, context: &mut Context<'_>) {
        if !self.is_listening || !self.needs_membership_update() {
            return;
        }
        let mut requesters = self.pending.unreported().take(limits::UPDATED_USERS_MAX).peekable();
        if requesters.peek().is_none() {
            context.start(JobKind::UpdateMembership, None);
        }
        requesters.for_each(|socket| context.start(JobKind::UpdateMembership, Some(socket)));
    }

    /// Admits all pending subscriptions that wait for nothing more, and requests the
    /// reads that others wait for.
    pub(super) fn admit(&mut self, context: &mut Context<'_>) {
        if self.pending.is_empty() {
            self.catch_up_buffer = None;
            return;
        }
        if self.presence.as_ref().is_some_and(|presence| !presence.is_known()) {
            if let Some(socket) = self.pending.first_registered() {
                self.start(JobKind::ReadRoster, Some(socket), context);
            }
            return;
        }
        let sorted = self.pending.sort(&self.sequencer, |pending| self.needs_initial_bases(pending));
        if let Some(socket) = sorted.await_recovery {
            self.start(JobKind::Recover, Some(socket), context);
        }
        if let Some(socket) = sorted.await_bases {
            self.initial_bases.get_or_insert_default();
            self.start(JobKind::ReadInitialBases, Some(socket), context);
        }
        for socket in sorted.ready {
            self.admit_one(socket, context);
        }
        self.trim_catch_up_buffer();
    }

    /// The pending subscription needs initial bases that are not read yet.
    fn needs_initial_bases(&self, pending: &PendingSubscription) -> bool {
        self.sends_initial_bases(&pending.subscriber.options)
            && !pending.recovery.keeps_bases()
            && !self.has_initial_bases()
    }

    fn has_initial_bases(&self) -> bool {
        self.initial_bases.as_ref().is_some_and(|initial_bases| initial_bases.is_complete())
    }

    /// Enables deltas for the live subscriptions that wait for initial bases, or requests the read
    /// that they wait for.
    pub(super) fn enable_waiting_deltas(&mut self, context: &mut Context<'_>) {
        let Some(initial_bases) = self.initial_bases.as_mut().filter(|it| it.is_awaited()) else { return };
        if !initial_bases.is_complete() {
            return self.start(JobKind::ReadInitialBases, None, context);
        }
        for (socket, algorithm) in initial_bases.take_waiting() {
            self.enable_deltas(socket, algorithm, context);
        }
    }

    /// The client has replaced or ended the subscription that waits for initial bases.
    fn forget_waiting_deltas(&mut self, socket: SocketId) {
        if let Some(initial_bases) = &mut self.initial_bases {
            initial_bases.forget(socket);
        }
    }

    fn admit_one(&mut self, socket: SocketId, context: &mut Context<'_>) {
        let Some(pending) = self.pending.remove(socket) else { return };
        let PendingSubscription { subscriber, confirmations, recovery, state, permit, .. } = pending;
        let State::Registered(registered) = state else { return };
        // A subscription that restarts was admitted before. It receives no roster, so a change
        // of the roster here would never reach it.
        let new_member = subscriber.member.as_ref().filter(|_| registered.total.is_some());
        if let (Some(presence), Some(member)) = (&mut self.presence, new_member)
            && let Some(change) = presence.admit(member)
        {
            self.broadcast_member_change(&change, context);
            // The entry of this member is lost, or Redis has lost the member: then its departure
            // has no entry either.
            self.set(Timer::Roster, context);
        }
        let welcome = self.welcome(socket, &subscriber, &confirmations, recovery, registered, context);
        if let Some(permit) = permit {
            permit.charge(welcome.cost());
        }
        for frame in welcome.frames {
            context.write(&subscriber.write_buffer, frame);
        }
        let next = self.next_seq();
        self.subscribers.add(socket, subscriber, &welcome.held, next);
        if self.watch.is_some() {
            context.emit(UserEvent::SignedIn(socket));
        }
    }
}
