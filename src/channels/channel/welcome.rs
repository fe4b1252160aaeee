//! Every frame that a new subscriber receives before its first live event, in the order
//! of protocol.md 2.4; see also 2.12, 3.9 and docs/resume.md.

use bytes::Bytes;

use super::pending::Registered;
use super::position_notices::first_position;
use super::recovery::Recovery;
use super::state::Channel;
use crate::channel::ChannelName;
use crate::channels::catch_up::CatchUpEncoder;
use crate::channels::context::Context;
use crate::channels::handle::{Confirmation, DeltasReply};
use crate::delta::Algorithm;
use crate::delta::chain::Chains;
use crate::delta::settings::DeltaConfig;
use crate::encode::DeliveryOptions;
use crate::entry::{Body, Entry, Position};
use crate::event::SocketId;
use crate::metrics::metrics;
use crate::resume_tokens::Holder;
use crate::subscribers::{SocketIdentity, Subscriber};
use crate::wire::reply;
use crate::wire::resume::Standing;

#[derive(Debug)]
pub(super) struct Welcome {
    pub(super) frames: Vec<Bytes>,
    /// The bases that the client has after these frames.
    pub(super) held: Chains,
    /// Bytes of the history that was read for this subscriber.
    read_bytes: usize,
}

impl Welcome {
    /// Bytes to charge to the subscriber's connection: the frames, or what was read for them, if a
    /// filter or an exclusion left less of it.
    pub(super) fn cost(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum::<usize>().max(self.read_bytes)
    }
}

/// A subscription with nothing left to wait for.
struct Admission<'a> {
    socket: SocketId,
    subscriber: &'a Subscriber,
    confirmations: &'a [Confirmation],
    recovery: Recovery,
    registered: Registered,
    /// For subscribers with positions enabled.
    start: Option<Standing>,
}

impl Channel {
    pub(super) fn welcome(
        &mut self,
        socket: SocketId,
        subscriber: &Subscriber,
        confirmations: &[Confirmation],
        mut recovery: Recovery,
        mut registered: Registered,
        context: &Context<'_>,
    ) -> Welcome {
        let now = self.sequencer.position().unwrap_or_default();
        let is_incomplete = self.catch_up_buffer.as_ref().is_some_and(|buffer| buffer.has_overflowed());
        let is_lost = (registered.at.epoch, registered.at.seq) > (now.epoch, now.seq);
        if is_incomplete || is_lost {
            // The buffered entries are incomplete, or Redis has lost the entries before the
            // subscription's position: it begins at the current one.
            recovery.lose();
            registered.at = now;
        }
        let read_bytes = recovery.read_bytes();
        let start = subscriber.options.positions.then(|| {
            let holder = Holder::of(self.id.kind(), socket, subscriber.member.as_deref());
            recovery.start(registered.at, |since| context.resume_tokens.mint(&self.id, holder, since))
        });
        let admission = Admission { socket, subscriber, confirmations, recovery, registered, start };
        let mut frames = self.confirm(&admission);
        let held = self.catch_up(&admission, context.config, &mut frames);
        frames.extend(self.position_notice(&admission));
        Welcome { frames, held, read_bytes }
    }

    /// The confirmation of each command. None when the subscription is only restarted.
    fn confirm(&mut self, admission: &Admission<'_>) -> Vec<Bytes> {
        let (event_prefix, start) = (admission.subscriber.options.event_prefix, admission.start);
        let mut frames = Vec::new();
        for confirmation in admission.confirmations {
            match confirmation {
                Confirmation::Signin(confirmed) => frames.push(confirmed.clone()),
                Confirmation::Subscription { deltas } => {
                    frames.push(match &mut self.presence {
                        Some(presence) => presence.succeeded(event_prefix, self.id.channel(), start),
                        None => reply::subscription_succeeded(event_prefix, self.id.channel(), start),
                    });
                    if let Some(DeltasReply(algorithm)) = deltas {
                        let algorithm = algorithm.map(Algorithm::name);
                        frames.push(reply::delta_enabled(event_prefix, Some(self.id.channel()), algorithm));
                    }
                }
            }
        }
        frames
    }

    /// Appends the missed entries and the initial bases to `frames`. Returns the bases
    /// that the client has afterwards.
    fn catch_up(
        &mut self,
        admission: &Admission<'_>,
        config: &DeltaConfig,
        frames: &mut Vec<Bytes>,
    ) -> Chains {
        let Admission { socket, subscriber, recovery, registered, .. } = admission;
        let (options, event_prefix, channel) =
            (&subscriber.options, subscriber.options.event_prefix, self.id.channel());
        let mut encoder = CatchUpEncoder {
            channel,
            options,
            identity: SocketIdentity {
                socket: *socket,
                previous_socket_ids: &subscriber.previous_socket_ids,
            },
            config,
            deltas: &self.deltas,
            policy: self.toggle.policy.clone(),
            held: Chains::default(),
        };
        let is_new = registered.total.is_some() && !matches!(recovery, Recovery::Recovered { .. });
        if is_new && ChannelName::is_cache_name(channel) {
            let cached = registered.last.as_ref().map(|cached| encoder.cached(cached));
            let cached = cached.filter(|frame| !frame.is_empty());
            frames.push(cached.unwrap_or_else(|| reply::cache_miss(event_prefix, channel)));
        }
        if let Some(total) = registered.total.filter(|_| self.reports_counts()) {
            // The count entry of this subscription was published before the admission.
            frames.push(reply::subscription_count(event_prefix, channel, total));
        }
        if let Recovery::Recovered { missed, .. } = recovery {
            frames.push(missed.frames.clone());
            encoder.held = missed.held.clone();
        }
        let at = registered.at;
        let mut previous = at;
        for (entry, body) in self.catch_up_buffer.iter().flat_map(|buffer| buffer.after(at)) {
            if entry.prev != previous.id {
                encoder.held.restart();
                frames.extend(self.break_frames(options, entry.before()));
            } else if options.positions && entry.epoch != previous.epoch {
                frames.push(first_position(channel, event_prefix, entry));
            }
            frames.extend(missed_frames(entry, body.as_ref(), &mut encoder));
            previous = entry.position();
        }
        let held = encoder.held;
        if recovery.keeps_bases() {
            return held;
        }
        match self.first_bases(options, config) {
            Some((frame, bases)) => {
                frames.push(frame);
                bases
            }
            None => held,
        }
    }

    /// The initial bases of a new subscriber, and the frame that carries them. On a
    /// channel with conflation keys clients keep bases across connections: without
    /// initial bases, an empty frame drops them.
    fn first_bases(&mut self, options: &DeliveryOptions, config: &DeltaConfig) -> Option<(Bytes, Chains)> {
        let channel = self.id.channel();
        if self.sends_initial_bases(options) {
            metrics().cache_syncs.increment(1);
            return Some(self.initial_bases.as_mut()?.frame(channel, options, &self.deltas, config));
        }
        let is_keyed = self.deltas.conflation_key.is_some() && options.algorithm.is_some();
        let empty_frame = || reply::delta_cache_sync(options.event_prefix, channel, &self.deltas, &[]);
        is_keyed.then(|| (empty_frame(), Chains::default()))
    }

    /// A position notice, if the channel has moved since `start`.
    fn position_notice(&mut self, admission: &Admission<'_>) -> Option<Bytes> {
        let Position { epoch, seq, .. } = self.sequencer.position().unwrap_or_default();
        if self.subscribers.is_empty() {
            self.notified_epoch = epoch;
        }
        let event_prefix = admission.subscriber.options.event_prefix;
        let outdated = admission.start.filter(|start| (start.epoch, start.seq) != (epoch, seq));
        outdated.map(|_| reply::position(event_prefix, self.id.channel(), epoch, seq, false))
    }
}

/// The frames of an entry that a pending subscription missed. Member changes have none:
/// the roster in its confirmation includes them.
fn missed_frames(entry: &Entry, body: Option<&Body>, encoder: &mut CatchUpEncoder<'_>) -> Option<Bytes> {
    match body? {
        Body::Events(events) | Body::ClientEvents(events) => Some(encoder.frames(entry, events, 0)),
        Body::SubscriptionCount(count) => {
            Some(reply::subscription_count(encoder.options.event_prefix, encoder.channel, *count))
        }
        _ => None,
    }
}
