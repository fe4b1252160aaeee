//! Watchlists (protocol.md 2.10). Entries on a user channel report that the user comes
//! online or goes offline; this node sends them to the watchers.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::Channels;
use crate::app::App;
use crate::channel::{ChannelId, USER_CHANNEL};
use crate::entry::{EntryId, Position};
use crate::event::SocketId;
use crate::sockets::push;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

/// The watch state of one user on this node.
#[derive(Debug, Default)]
pub(super) struct Watch {
    online: Option<bool>,
    watchers: HashMap<SocketId, Watcher>,
}

/// A connection that watches a user, with the event prefix of its frames.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) write_buffer: Arc<WriteBuffer>,
    pub(super) event_prefix: EventPrefix,
}

/// The first frame of a watcher: the status of all users at once, when all are known.
#[derive(Debug)]
pub(super) struct InitialStatus {
    /// The watcher's own user channel. Its subscription is confirmed, as part of the
    /// sign-in, before any status of others is sent.
    own: ChannelId,
    watcher: Watcher,
    unknown: HashSet<ChannelId>,
    /// Users and whether they are online, as known so far.
    known: BTreeMap<String, bool>,
}

impl Watch {
    pub(super) fn is_unwatched(&self) -> bool {
        self.watchers.is_empty()
    }

    /// A watcher waits for a status that is not known yet.
    pub(super) fn is_awaited(&self) -> bool {
        self.online.is_none() && !self.watchers.is_empty()
    }
}

impl Channels {
    pub(super) fn watch(
        &mut self,
        app: &App,
        own: ChannelId,
        users: Vec<ChannelId>,
        socket: SocketId,
        watcher: Watcher,
    ) {
        let mut initial_status =
            InitialStatus { own, watcher, unknown: HashSet::new(), known: BTreeMap::new() };
        for channel_id in users {
            let channel = self.channel_of(&channel_id, app);
            channel.idle_since = None;
            let watch = channel.watch.get_or_insert_default();
            watch.watchers.insert(socket, initial_status.watcher.clone());
            match watch.online {
                Some(online) => initial_status.record(&channel_id, online),
                None => {
                    channel.membership.stale = true;
                    initial_status.unknown.insert(channel_id.clone());
                    self.join(channel_id);
                }
            }
        }
        self.initial_statuses.insert(socket, initial_status);
        self.send_initial_status(socket);
    }

    pub(super) fn unwatch(&mut self, users: &[ChannelId], socket: SocketId) {
        self.initial_statuses.remove(&socket);
        for channel_id in users {
            let Some(channel) = self.channels.get_mut(channel_id) else { continue };
            let Some(watch) = &mut channel.watch else { continue };
            watch.watchers.remove(&socket);
            self.mark_if_idle(channel_id);
        }
    }

    /// Applies the status that a membership update returned with position `at`. Entries
    /// handled after `at` are newer and take precedence.
    pub(super) fn apply_status(&mut self, channel_id: &ChannelId, online: bool, at: Position) {
        let Some(channel) = self.channels.get_mut(channel_id) else { return };
        let Some(watch) = &channel.watch else { return };
        let is_known = at.id != EntryId::NONE;
        let is_newest = channel.sequencer.position().is_none_or(|position| position.id == at.id || !is_known);
        if watch.online.is_none() || is_newest || !channel.sequencer.has_passed(at) {
            self.change_status(channel_id, online);
        }
    }

    /// Sets the status of a user and notifies watchers if it has changed.
    pub(super) fn change_status(&mut self, channel_id: &ChannelId, online: bool) {
        let Some(watch) = self.channels.get_mut(channel_id).and_then(|channel| channel.watch.as_mut()) else {
            return;
        };
        let before = watch.online.replace(online);
        if before == Some(online) {
            return;
        }
        let user = [user_of(channel_id)];
        let (now_online, now_offline): (&[&str], &[&str]) = if online { (&user, &[]) } else { (&[], &user) };
        let frame = |event_prefix| reply::watchlist_events(event_prefix, now_online, now_offline);
        let (pusher, sockudo) = (frame(EventPrefix::Pusher), frame(EventPrefix::Sockudo));
        let mut awaiting_initial = Vec::new();
        for (socket, watcher) in &watch.watchers {
            match self.initial_statuses.get_mut(socket) {
                Some(initial_status) => {
                    initial_status.record(channel_id, online);
                    awaiting_initial.push(*socket);
                }
                None => {
                    let frame = match watcher.event_prefix {
                        EventPrefix::Pusher => pusher.clone(),
                        EventPrefix::Sockudo => sockudo.clone(),
                    };
                    push(&watcher.write_buffer, frame, &mut self.to_flush);
                }
            }
        }
        for socket in awaiting_initial {
            self.send_initial_status(socket);
        }
    }

    pub(super) fn send_initial_status(&mut self, socket: SocketId) {
        let Some(initial_status) =
            self.initial_statuses.get(&socket).filter(|initial_status| initial_status.unknown.is_empty())
        else {
            return;
        };
        if self.channels.get(&initial_status.own).is_some_and(|channel| channel.pending.contains_key(&socket))
        {
            return;
        }
        let with_status = |wanted: bool| {
            let users = initial_status.known.iter().filter(move |(_, online)| **online == wanted);
            users.map(|(user, _)| user.as_str()).collect::<Vec<_>>()
        };
        let frame = reply::watchlist_events(
            initial_status.watcher.event_prefix,
            &with_status(true),
            &with_status(false),
        );
        push(&initial_status.watcher.write_buffer, frame, &mut self.to_flush);
        self.initial_statuses.remove(&socket);
    }
}

impl InitialStatus {
    fn record(&mut self, channel_id: &ChannelId, online: bool) {
        self.unknown.remove(channel_id);
        self.known.insert(user_of(channel_id).to_owned(), online);
    }
}

fn user_of(channel_id: &ChannelId) -> &str {
    channel_id.channel().strip_prefix(USER_CHANNEL).unwrap_or_default()
}
