//! Presence on this node (design.md 5, protocol.md 2.6): who of its own sockets'
//! users the cluster must be told of, and the roster of the whole cluster.
//!
//! A roster is what was read from the backend, with all changes that were
//! announced since the reading began. Changes are absolute, so that it does not
//! matter if some of them were in what was read already.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::delivery::broadcast_member_change;
use super::{Channels, JobResult};
use crate::backend::{BackendError, RosterRead, UserCount};
use crate::channel::ChannelId;
use crate::limits;
use crate::metrics::metrics;
use crate::presence::{Member, MemberChange, Roster};
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;
use crate::wire::resume::Standing;

#[derive(Debug, Default)]
pub(super) struct Presence {
    /// None until it was read.
    roster: Option<Roster>,
    /// Announced since the reading that is under way began.
    since: Option<Vec<MemberChange>>,
    /// The frame of the roster in each event_prefix that was asked for, until the roster
    /// changes: two at most.
    initial_bases_reads: Vec<(EventPrefix, Bytes)>,
    /// Users of this node's sockets.
    own: HashMap<Arc<str>, Own>,
    /// Those whose number the cluster must be results.
    dirty: BTreeSet<Arc<str>>,
}

/// A user of this node's sockets.
#[derive(Debug)]
struct Own {
    /// As its first connection here has joined.
    member: Arc<Member>,
    connections: u64,
    /// The number that was last acknowledged.
    reported: u64,
}

/// Rosters to be read, some at once.
#[derive(Debug, Default)]
pub(super) struct Rosters {
    queue: VecDeque<ChannelId>,
    under_way: usize,
}

impl Presence {
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn is_forgettable(&self) -> bool {
        self.dirty.is_empty() && self.since.is_none()
    }

    pub(super) fn is_known(&self) -> bool {
        self.roster.is_some()
    }

    /// A connection of the user has come.
    pub(super) fn add_connection(&mut self, member: &Arc<Member>) {
        let user = member.user_id.clone();
        let own = self.own.entry(user.clone()).or_insert_with(|| Own {
            member: member.clone(),
            connections: 0,
            reported: 0,
        });
        if own.connections == 0 {
            // Is told anew, unless nobody was told that the user had left.
            own.member = member.clone();
        }
        own.connections += 1;
        self.dirty.insert(user);
    }

    /// Whoever is let in is there, also where that has not been heard: what came
    /// before may be lost. Returns what is changed by it for subscribers.
    pub(super) fn admit(&mut self, member: &Member) -> Option<MemberChange> {
        let (user_id, info) = (member.user_id.clone(), member.info.clone());
        member.accept();
        let change = MemberChange::Added { user_id, info };
        self.apply(&change).then_some(change)
    }

    /// A connection of the user has left.
    pub(super) fn remove_connection(&mut self, member: &Member) {
        if let Some(own) = self.own.get_mut(&member.user_id) {
            own.connections -= 1;
            self.dirty.insert(member.user_id.clone());
        }
    }

    /// The users that the next script tells of: who leaves first, to make room for
    /// who comes.
    pub(super) fn take_dirty(&mut self) -> Vec<UserCount> {
        let mut users = Vec::new();
        while users.len() < limits::UPDATED_USERS_MAX
            && let Some(user) = self.dirty.pop_first()
        {
            let Some(own) = self.own.get(&user) else { continue };
            let (member, count) = (own.member.clone(), own.connections);
            users.push(UserCount { member, count, is_new: own.reported == 0 });
        }
        users.sort_by_key(|user| user.count > 0);
        users
    }

    /// Some have left, and the cluster is yet to be results.
    pub(super) fn has_dirty_departures(&self) -> bool {
        self.dirty.iter().any(|user| self.own.get(user).is_some_and(|own| own.connections == 0))
    }

    /// These are told again.
    pub(super) fn mark_dirty(&mut self, users: &[UserCount]) {
        self.dirty.extend(users.iter().map(|user| user.member.user_id.clone()));
    }

    pub(super) fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.own.keys().cloned());
    }

    /// The cluster has been results. Who has left is kept in mind, and told again, for
    /// as long as an earlier script `may_yet_arrive` that says otherwise.
    pub(super) fn acknowledge(&mut self, user: &UserCount, may_yet_arrive: bool) {
        let Some(own) = self.own.get_mut(&user.member.user_id) else { return };
        own.reported = user.count;
        if own.connections == 0 && own.reported == 0 && !may_yet_arrive {
            self.own.remove(&user.member.user_id);
        }
    }

    /// True if it changes what subscribers know.
    pub(super) fn apply(&mut self, change: &MemberChange) -> bool {
        if let Some(since) = &mut self.since {
            since.push(change.clone());
        }
        let Some(roster) = &mut self.roster else { return false };
        let changes = roster.apply(change);
        if changes {
            self.initial_bases_reads.clear();
        }
        changes
    }

    /// `subscription_succeeded`, with everyone who is here; who can resume is told
    /// its own standing in it.
    pub(super) fn succeeded(
        &mut self,
        event_prefix: EventPrefix,
        channel: &str,
        standing: Option<Standing>,
    ) -> Bytes {
        let roster = self.roster.get_or_insert_default();
        if standing.is_some() {
            return reply::presence_succeeded(event_prefix, channel, roster, standing);
        }
        if let Some((_, frame)) = self.initial_bases_reads.iter().find(|(of, _)| *of == event_prefix) {
            return frame.clone();
        }
        let frame = reply::presence_succeeded(event_prefix, channel, roster, None);
        self.initial_bases_reads.push((event_prefix, frame.clone()));
        frame
    }

    /// Takes over what was read; returns what is changed by it for subscribers.
    fn adopt(&mut self, read: RosterRead) -> Vec<MemberChange> {
        let mut roster = read.roster;
        for change in self.since.take().unwrap_or_default() {
            roster.apply(&change);
        }
        // Redis may have lost that they left.
        for user in read.own {
            let gone = || Own {
                member: Arc::new(Member::new(user.clone(), Bytes::new())),
                connections: 0,
                reported: 1,
            };
            if self.own.entry(user.clone()).or_insert_with(gone).connections == 0 {
                self.dirty.insert(user);
            }
        }
        let changes = self.roster.as_ref().map(|known| known.changes_to(&roster)).unwrap_or_default();
        self.roster = Some(roster);
        self.initial_bases_reads.clear();
        changes
    }
}

impl Channels {
    /// Has the roster read, unless that is under way.
    pub(super) fn request_roster(&mut self, channel_id: &ChannelId) {
        let Some(presence) = self.channels.get_mut(channel_id).and_then(|channel| channel.presence.as_mut())
        else {
            return;
        };
        if presence.since.is_none() {
            presence.since = Some(Vec::new());
            self.rosters.queue.push_back(channel_id.clone());
        }
    }

    /// Redis may have lost members, and nodes are telling it of theirs: what it
    /// says is right only when all of them have.
    pub(super) fn request_all_rosters(&mut self) {
        let due = Instant::now() + limits::ROSTER_DELAY;
        let known = self
            .channels
            .iter()
            .filter(|(_, channel)| channel.presence.as_ref().is_some_and(|presence| presence.is_known()));
        self.stale_rosters.extend(known.map(|(channel_id, _)| (due, channel_id.clone())));
    }

    pub(super) fn read_stale_rosters(&mut self, now: Instant) {
        while self.stale_rosters.first().is_some_and(|(due, _)| *due <= now) {
            let (_, channel_id) = self.stale_rosters.pop_first().expect("it was just seen");
            self.request_roster(&channel_id);
        }
    }

    pub(super) fn start_roster_reads(&mut self) {
        while self.rosters.under_way < limits::REPAIRS_MAX {
            let Some(channel_id) = self.rosters.queue.pop_front() else { return };
            let Some(presence) =
                self.channels.get_mut(&channel_id).and_then(|channel| channel.presence.as_mut())
            else {
                continue;
            };
            // Only what comes from now on may be missing in what is read.
            presence.since = Some(Vec::new());
            self.rosters.under_way += 1;
            let backend = self.backend.clone();
            self.jobs.spawn(async move {
                let read = backend.read_roster(&channel_id).await;
                JobResult::RosterRead(channel_id, read)
            });
        }
    }

    pub(super) fn roster_read(&mut self, channel_id: ChannelId, read: Result<RosterRead, BackendError>) {
        self.rosters.under_way -= 1;
        let Some(channel) = self.channels.get_mut(&channel_id) else { return };
        let Some(presence) = &mut channel.presence else { return };
        let too_many = presence.since.as_ref().is_some_and(|it| it.len() > limits::ROSTER_CHANGES_MAX);
        let Some(read) = read.ok().filter(|_| !too_many) else {
            presence.since = None;
            self.stale_rosters.insert((Instant::now() + limits::RETRY_DELAY, channel_id));
            return;
        };
        metrics().rosters_read.increment(1);
        for change in presence.adopt(read) {
            broadcast_member_change(&channel_id, &channel.subscribers, &change, &mut self.to_flush);
        }
        self.admit(&channel_id);
        self.queue_membership_update(channel_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(info: &'static str) -> Arc<Member> {
        Arc::new(Member::new("ann".into(), Bytes::from_static(info.as_bytes())))
    }

    #[test]
    fn who_is_back_before_the_leaving_is_acknowledged_says_anew_who_it_is() {
        let mut presence = Presence::default();
        presence.add_connection(&member("1"));
        let said = presence.take_dirty();
        presence.acknowledge(&said[0], false);
        presence.remove_connection(&member("1"));
        let leaving = presence.take_dirty();
        assert_eq!(leaving[0].count, 0);
        presence.add_connection(&member("2"));
        presence.acknowledge(&leaving[0], false);
        let back = presence.take_dirty();
        assert_eq!((back[0].count, &*back[0].member.info), (1, b"2".as_slice()));
        assert!(back[0].is_new);
    }
}
