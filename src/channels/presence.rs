//! Presence on this node (design.md 5, protocol.md 2.6): users of this node's
//! connections that are not yet reported to the cluster, and the roster of the whole
//! cluster.
//!
//! A roster is the result of a read from the backend, with all changes applied that
//! were published since the read began. Changes are absolute, so applying one that the
//! read already includes is harmless.

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
    /// None until the first read.
    roster: Option<Roster>,
    /// Changes since the start of the read that is queued or in flight.
    since: Option<Vec<MemberChange>>,
    /// `subscription_succeeded` for each event prefix in use, cached until the roster
    /// changes. At most two.
    initial_bases_reads: Vec<(EventPrefix, Bytes)>,
    /// Users of this node's connections, by user id.
    own: HashMap<Arc<str>, Own>,
    /// Users whose connection count is not yet reported to the cluster.
    dirty: BTreeSet<Arc<str>>,
}

/// A user of this node's connections.
#[derive(Debug)]
struct Own {
    /// With the `user_info` of the first connection on this node.
    member: Arc<Member>,
    connections: u64,
    /// The connection count that was last acknowledged.
    reported: u64,
}

/// Roster reads, up to [`limits::REPAIRS_MAX`] at once.
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

    /// Counts one more connection of the user.
    pub(super) fn add_connection(&mut self, member: &Arc<Member>) {
        let user = member.user_id.clone();
        let own = self.own.entry(user.clone()).or_insert_with(|| Own {
            member: member.clone(),
            connections: 0,
            reported: 0,
        });
        if own.connections == 0 {
            // Reported with this `user_info`, unless the departure was never reported.
            own.member = member.clone();
        }
        own.connections += 1;
        self.dirty.insert(user);
    }

    /// Adds an admitted member to the roster, since its member entry may be lost.
    /// Returns the change if subscribers have not received it yet.
    pub(super) fn admit(&mut self, member: &Member) -> Option<MemberChange> {
        let (user_id, info) = (member.user_id.clone(), member.info.clone());
        member.accept();
        let change = MemberChange::Added { user_id, info };
        self.apply(&change).then_some(change)
    }

    /// Counts one connection less of the user.
    pub(super) fn remove_connection(&mut self, member: &Member) {
        if let Some(own) = self.own.get_mut(&member.user_id) {
            own.connections -= 1;
            self.dirty.insert(member.user_id.clone());
        }
    }

    /// The users for the next membership update, at most [`limits::UPDATED_USERS_MAX`].
    /// Departures come first, so that they free capacity for new members.
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

    /// A user's last connection has left, and this is not reported yet.
    pub(super) fn has_dirty_departures(&self) -> bool {
        self.dirty.iter().any(|user| self.own.get(user).is_some_and(|own| own.connections == 0))
    }

    /// Marks these users to be reported again.
    pub(super) fn mark_dirty(&mut self, users: &[UserCount]) {
        self.dirty.extend(users.iter().map(|user| user.member.user_id.clone()));
    }

    pub(super) fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.own.keys().cloned());
    }

    /// Handles the acknowledgement of a user's count. A departed user is kept and can
    /// be reported again while an earlier, unanswered update `may_yet_arrive`.
    pub(super) fn acknowledge(&mut self, user: &UserCount, may_yet_arrive: bool) {
        let Some(own) = self.own.get_mut(&user.member.user_id) else { return };
        own.reported = user.count;
        if own.connections == 0 && own.reported == 0 && !may_yet_arrive {
            self.own.remove(&user.member.user_id);
        }
    }

    /// Applies a change to the roster. Returns true if subscribers must be notified.
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

    /// Encodes `subscription_succeeded` with the roster; for a subscriber with
    /// positions, with its own position too.
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

    /// Replaces the roster by the one read. Returns the changes to send to subscribers.
    fn adopt(&mut self, read: RosterRead) -> Vec<MemberChange> {
        let mut roster = read.roster;
        for change in self.since.take().unwrap_or_default() {
            roster.apply(&change);
        }
        // Redis may have lost the departure of these users.
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
    /// Queues a read of the roster, unless one is queued or in flight.
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

    /// Schedules a read of all rosters. Redis may have lost members, and a roster is
    /// complete only when all nodes have reported theirs.
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
            // The read includes every change up to now.
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
