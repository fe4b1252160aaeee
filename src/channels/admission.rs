//! Letting a joiner in: it is confirmed, gets what everyone else has had since its
//! script, and is live. What it is told comes in the order that clients expect
//! (protocol.md 2.4, 2.12, 3.9; docs/resume.md).

use bytes::Bytes;

use super::Channels;
use super::channel::{Channel, Joiner, Recent, Stage};
use super::delivery::{missed_frames, tell_change};
use super::newcomer::Newcomer;
use super::positions::first_position;
use super::resume::{Past, standing};
use crate::backend::Cached;
use crate::channel::{ChannelId, ChannelName};
use crate::delta::chain::Chains;
use crate::delta::settings::DeltaConfig;
use crate::entry::Position;
use crate::event::SocketId;
use crate::fan_out::SocketIdentity;
use crate::sockets::push;
use crate::subscribers::Subscriber;
use crate::wire::reply;
use crate::wire::resume::Standing;

/// A joiner who waits for nothing any more.
struct Entrant {
    socket: SocketId,
    subscriber: Subscriber,
    confirmation: Bytes,
    succeeds: bool,
    past: Past,
    /// Where the channel stood for it.
    at: Position,
    total: Option<u64>,
    last: Option<Box<Cached>>,
    /// Told to who can resume.
    standing: Option<Standing>,
}

impl Channels {
    pub(super) fn enter(&mut self, channel_id: &ChannelId, socket: SocketId) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let Some(joiner) = channel.joining.remove(&socket) else { return };
        self.joining -= 1;
        let Some(entrant) = channel.entrant(socket, joiner) else { return };
        let member = entrant.subscriber.member.as_ref();
        if let (Some(presence), Some(member)) = (&mut channel.presence, member)
            && let Some(change) = presence.let_in(member)
        {
            tell_change(channel_id, &channel.subscribers, &change, &mut self.to_flush);
        }
        let mut frames = channel.confirm(channel_id, &entrant);
        let held = channel.catch_up(channel_id, &entrant, &self.delta, &mut frames);
        frames.extend(channel.told_position(channel_id, &entrant));
        for frame in frames {
            push(&entrant.subscriber.write_buffer, frame, &mut self.to_flush);
        }
        let (is_user, next) = (channel.watch.is_some(), channel.next_seq());
        channel.subscribers.add(socket, entrant.subscriber, &held, next);
        if is_user {
            self.finish_look(socket);
        }
    }
}

impl Channel {
    fn entrant(&self, socket: SocketId, joiner: Joiner) -> Option<Entrant> {
        let Joiner { subscriber, confirmation, succeeds, mut past, stage } = joiner;
        let Stage::Placed { mut at, total, last, .. } = stage else { return None };
        if self.recent.as_ref().is_some_and(Recent::has_overflowed) {
            // It begins later instead.
            past.lose();
            at = self.sequencer.position().unwrap_or_default();
        }
        let standing = subscriber.options.positions.then(|| standing(&past, at));
        Some(Entrant { socket, subscriber, confirmation, succeeds, past, at, total, last, standing })
    }

    /// That it has succeeded.
    fn confirm(&mut self, channel_id: &ChannelId, entrant: &Entrant) -> Vec<Bytes> {
        if !entrant.succeeds {
            return Vec::new();
        }
        let (dialect, standing) = (entrant.subscriber.options.dialect, entrant.standing);
        let succeeded = match &mut self.presence {
            Some(presence) => Some(presence.succeeded(dialect, channel_id.channel(), standing)),
            // Without it, it is in the confirmation.
            None => standing.map(|_| reply::subscription_succeeded(dialect, channel_id.channel(), standing)),
        };
        succeeded.into_iter().chain([entrant.confirmation.clone()]).collect()
    }

    /// What it has missed, and what it begins with. Returns the bases that it holds
    /// then.
    fn catch_up(
        &mut self,
        channel_id: &ChannelId,
        entrant: &Entrant,
        config: &DeltaConfig,
        frames: &mut Vec<Bytes>,
    ) -> Chains {
        let Entrant { socket, subscriber, past, at, total, last, .. } = entrant;
        let (options, dialect) = (&subscriber.options, subscriber.options.dialect);
        let mut newcomer = Newcomer {
            channel: channel_id.channel(),
            options,
            identity: SocketIdentity { socket: *socket, former: &subscriber.former },
            config,
            deltas: &self.deltas,
            policy: self.policy.clone(),
            held: Chains::default(),
        };
        let is_new = total.is_some() && !matches!(past, Past::Found { .. });
        if is_new && ChannelName::is_cache_name(channel_id.channel()) {
            let cached = last.as_ref().map(|cached| newcomer.cached(cached)).filter(|it| !it.is_empty());
            frames.push(cached.unwrap_or_else(|| reply::cache_miss(dialect, channel_id.channel())));
        }
        if let Some(total) = total.filter(|_| self.tells_counts()) {
            // What its own coming has announced came before it was let in.
            frames.push(reply::subscription_count(dialect, channel_id.channel(), total));
        }
        if let Past::Found { missed, .. } = past {
            frames.push(missed.frames.clone());
            newcomer.held = missed.held.clone();
        }
        let mut epoch = at.epoch;
        for entry in &self.missed_since(*at) {
            if options.positions && std::mem::replace(&mut epoch, entry.epoch) != entry.epoch {
                frames.push(first_position(channel_id, dialect, entry, at.epoch != 0));
            }
            frames.push(missed_frames(channel_id, entry, dialect, &mut newcomer));
        }
        let held = newcomer.held;
        if past.keeps_bases() {
            return held;
        }
        match self.first_bases(channel_id, options, config) {
            Some((frame, bases)) => {
                frames.push(frame);
                bases
            }
            None => held,
        }
    }

    /// Where the channel stands by now, if it does not know that yet.
    fn told_position(&mut self, channel_id: &ChannelId, entrant: &Entrant) -> Option<Bytes> {
        let Position { epoch, seq, .. } = self.sequencer.position().unwrap_or_default();
        if self.subscribers.is_empty() {
            self.told_epoch = epoch;
        }
        let dialect = entrant.subscriber.options.dialect;
        let known = entrant.standing.filter(|standing| (standing.epoch, standing.seq) != (epoch, seq));
        known.map(|_| reply::position(dialect, channel_id.channel(), epoch, seq, false))
    }
}
