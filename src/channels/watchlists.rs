//! Watchlists (protocol.md 2.10): connections that watch the online status of users. The
//! status of each user is an entry on its user channel; this is the one thing that spans
//! channels.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use super::context::UserEvent;
use crate::capacity::Shrink;
use crate::channel::{ChannelId, USER_CHANNEL};
use crate::event::SocketId;
use crate::sockets::push;
use crate::sockets::write_buffer::WriteBuffer;
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;

#[derive(Debug, Default)]
pub(super) struct Watchlists {
    /// By user channel. Contains only users with watchers.
    users: HashMap<ChannelId, WatchedUser>,
    /// Watchers that have not received their first status frame.
    initial: HashMap<SocketId, InitialStatus>,
}

#[derive(Debug, Default)]
struct WatchedUser {
    online: Option<bool>,
    watchers: HashMap<SocketId, Watcher>,
}

/// A connection that watches users, with the event prefix of its frames.
#[derive(Debug, Clone)]
pub(super) struct Watcher {
    pub(super) write_buffer: Arc<WriteBuffer>,
    pub(super) event_prefix: EventPrefix,
}

/// The first frame of a watcher: the status of all users at once, when all are known and
/// the watcher's own sign-in is confirmed.
#[derive(Debug)]
struct InitialStatus {
    watcher: Watcher,
    is_signed_in: bool,
    unknown: HashSet<ChannelId>,
    /// Users and whether they are online, as known so far.
    known: BTreeMap<String, bool>,
}

impl Watchlists {
    /// Adds a watcher. Returns the user channels that were not watched before: their
    /// status must be requested.
    pub(super) fn watch(
        &mut self,
        users: Vec<ChannelId>,
        socket: SocketId,
        watcher: &Watcher,
    ) -> Vec<ChannelId> {
        let mut initial = InitialStatus {
            watcher: watcher.clone(),
            is_signed_in: false,
            unknown: HashSet::new(),
            known: BTreeMap::new(),
        };
        let mut unwatched = Vec::new();
        for channel_id in users {
            let user = self.users.entry(channel_id.clone()).or_default();
            if user.watchers.is_empty() {
                unwatched.push(channel_id.clone());
            }
            user.watchers.insert(socket, watcher.clone());
            match user.online {
                Some(online) => initial.record(&channel_id, online),
                None => drop(initial.unknown.insert(channel_id)),
            }
        }
        self.initial.insert(socket, initial);
        unwatched
    }

    /// Removes a watcher. Returns the user channels that are not watched any more.
    pub(super) fn unwatch(&mut self, users: Vec<ChannelId>, socket: SocketId) -> Vec<ChannelId> {
        self.initial.remove(&socket);
        let mut unwatched = Vec::new();
        for channel_id in users {
            let Some(user) = self.users.get_mut(&channel_id) else { continue };
            user.watchers.remove(&socket);
            user.watchers.shrink_if_sparse();
            if user.watchers.is_empty() {
                self.users.remove(&channel_id);
                unwatched.push(channel_id);
            }
        }
        unwatched
    }

    pub(super) fn shrink(&mut self) {
        self.users.shrink_if_sparse();
        self.initial.shrink_if_sparse();
    }

    pub(super) fn on_user_event(
        &mut self,
        channel_id: &ChannelId,
        event: UserEvent,
        to_flush: &mut Vec<Arc<WriteBuffer>>,
    ) {
        match event {
            UserEvent::Status { online } => self.change_status(channel_id, online, to_flush),
            UserEvent::SignedIn(socket) => {
                if let Some(initial) = self.initial.get_mut(&socket) {
                    initial.is_signed_in = true;
                    self.send_initial_status(socket, to_flush);
                }
            }
        }
    }

    /// Sets the status of a user and notifies watchers if it has changed.
    fn change_status(&mut self, channel_id: &ChannelId, online: bool, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        let Some(user) = self.users.get_mut(channel_id) else { return };
        if user.online.replace(online) == Some(online) {
            return;
        }
        let name = [user_of(channel_id)];
        let (now_online, now_offline): (&[&str], &[&str]) = if online { (&name, &[]) } else { (&[], &name) };
        let frame = |event_prefix| reply::watchlist_events(event_prefix, now_online, now_offline);
        let (pusher, sockudo) = (frame(EventPrefix::Pusher), frame(EventPrefix::Sockudo));
        let mut awaiting_initial = Vec::new();
        for (socket, watcher) in &user.watchers {
            match self.initial.get_mut(socket) {
                Some(initial) => {
                    initial.record(channel_id, online);
                    awaiting_initial.push(*socket);
                }
                None => {
                    let frame = match watcher.event_prefix {
                        EventPrefix::Pusher => pusher.clone(),
                        EventPrefix::Sockudo => sockudo.clone(),
                    };
                    push(&watcher.write_buffer, frame, to_flush);
                }
            }
        }
        for socket in awaiting_initial {
            self.send_initial_status(socket, to_flush);
        }
    }

    fn send_initial_status(&mut self, socket: SocketId, to_flush: &mut Vec<Arc<WriteBuffer>>) {
        let Some(initial) = self.initial.get(&socket).filter(|initial| initial.is_complete()) else { return };
        let with_status = |wanted: bool| {
            let users = initial.known.iter().filter(move |(_, online)| **online == wanted);
            users.map(|(user, _)| user.as_str()).collect::<Vec<_>>()
        };
        let Watcher { write_buffer, event_prefix } = &initial.watcher;
        let frame = reply::watchlist_events(*event_prefix, &with_status(true), &with_status(false));
        push(write_buffer, frame, to_flush);
        self.initial.remove(&socket);
    }
}

impl InitialStatus {
    fn record(&mut self, channel_id: &ChannelId, online: bool) {
        self.unknown.remove(channel_id);
        self.known.insert(user_of(channel_id).to_owned(), online);
    }

    fn is_complete(&self) -> bool {
        self.is_signed_in && self.unknown.is_empty()
    }
}

fn user_of(channel_id: &ChannelId) -> &str {
    channel_id.channel().strip_prefix(USER_CHANNEL).unwrap_or_default()
}
