//! Presence on this node (design.md 5, protocol.md 2.6): users of this node's
//! connections that are not yet reported to the cluster, and the roster of the whole
//! cluster.
//!
//! A roster is the result of a read from the backend, with all changes applied that
//! were published since the read began. Changes are absolute, so applying one that the
//! read already includes is harmless.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{RosterRead, UserCount};
use crate::capacity::Shrink;
use crate::limits;
use crate::presence::{Member, MemberChange, Roster};
use crate::wire::event_prefix::EventPrefix;
use crate::wire::reply;
use crate::wire::resume::Standing;

#[derive(Debug, Default)]
pub(super) struct Presence {
    /// None until the first read.
    roster: Option<Roster>,
    /// Changes since the start of the read that is in flight.
    changes_since_read: Option<Vec<MemberChange>>,
    /// To be read again: Redis may have lost members, or the last read has failed.
    is_stale: bool,
    /// `subscription_succeeded` for each event prefix in use, cached until the roster
    /// changes. At most two.
    succeeded_frames: Vec<(EventPrefix, Bytes)>,
    /// Users of this node's connections, by user id.
    local_users: HashMap<Arc<str>, LocalUser>,
    /// Users whose connection count is not yet reported to the cluster.
    dirty: BTreeSet<Arc<str>>,
}

/// A user of this node's connections.
#[derive(Debug)]
struct LocalUser {
    /// With the `user_info` of the first connection on this node.
    member: Arc<Member>,
    connections: u64,
    /// The connection count that was last acknowledged.
    reported: u64,
}

impl Presence {
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn is_removable(&self) -> bool {
        self.dirty.is_empty()
    }

    pub(super) fn is_known(&self) -> bool {
        self.roster.is_some()
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale
    }

    pub(super) fn mark_stale(&mut self) {
        self.is_stale = true;
    }

    /// A read of the roster begins: it includes every change up to now.
    pub(super) fn begin_read(&mut self) {
        self.changes_since_read = Some(Vec::new());
        self.is_stale = false;
    }

    /// The read has failed, or there were too many changes during it.
    pub(super) fn read_failed(&mut self) {
        self.changes_since_read = None;
        self.is_stale = true;
    }

    /// More than [`limits::ROSTER_CHANGES_MAX`] changes were published during the read.
    pub(super) fn has_overflowed(&self) -> bool {
        self.changes_since_read.as_ref().is_some_and(|it| it.len() > limits::ROSTER_CHANGES_MAX)
    }

    /// Counts one more connection of the user.
    pub(super) fn add_connection(&mut self, member: &Arc<Member>) {
        let user = member.user_id.clone();
        let local = self.local_users.entry(user.clone()).or_insert_with(|| LocalUser {
            member: member.clone(),
            connections: 0,
            reported: 0,
        });
        if local.connections == 0 {
            // The user rejoins and is reported with this `user_info`, unless the departure
            // was never reported.
            local.member = member.clone();
        }
        local.connections += 1;
        self.dirty.insert(user);
    }

    /// Adds an admitted member to the roster, since its member entry may be lost.
    /// Returns the change if subscribers have not received it yet.
    pub(super) fn admit(&mut self, member: &Member) -> Option<MemberChange> {
        let (user_id, info) = (member.user_id.clone(), member.info.clone());
        let change = MemberChange::Added { user_id, info };
        self.apply(&change).then_some(change)
    }

    /// Counts one connection less of the user.
    pub(super) fn remove_connection(&mut self, member: &Member) {
        if let Some(local) = self.local_users.get_mut(&member.user_id) {
            local.connections -= 1;
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
            let Some(local) = self.local_users.get(&user) else { continue };
            let (member, count) = (local.member.clone(), local.connections);
            users.push(UserCount { member, count, is_new: local.reported == 0 });
        }
        users.sort_by_key(|user| user.count > 0);
        users
    }

    /// A user's last connection has left, and this is not reported yet.
    pub(super) fn has_dirty_departures(&self) -> bool {
        self.dirty.iter().any(|user| self.local_users.get(user).is_some_and(|local| local.connections == 0))
    }

    /// Marks these users to be reported again.
    pub(super) fn mark_dirty(&mut self, users: &[UserCount]) {
        self.dirty.extend(users.iter().map(|user| user.member.user_id.clone()));
    }

    pub(super) fn mark_all_dirty(&mut self) {
        self.dirty.extend(self.local_users.keys().cloned());
    }

    /// Handles the acknowledgement of a user's count. A departed user is kept and can
    /// be reported again while an earlier, unanswered update `may_yet_arrive`.
    pub(super) fn acknowledge(&mut self, user: &UserCount, may_yet_arrive: bool) {
        let Some(local) = self.local_users.get_mut(&user.member.user_id) else { return };
        local.reported = user.count;
        if local.connections == 0 && local.reported == 0 && !may_yet_arrive {
            self.local_users.remove(&user.member.user_id);
            self.local_users.shrink_if_sparse();
        }
    }

    /// Applies a change to the roster. Returns true if subscribers must be notified.
    pub(super) fn apply(&mut self, change: &MemberChange) -> bool {
        if let Some(changes) = &mut self.changes_since_read {
            changes.push(change.clone());
        }
        let Some(roster) = &mut self.roster else { return false };
        let changes = roster.apply(change);
        if changes {
            self.succeeded_frames.clear();
        }
        changes
    }

    /// Encodes `subscription_succeeded` with the roster; for a subscriber with
    /// positions, with its own position too.
    pub(super) fn succeeded(
        &mut self,
        event_prefix: EventPrefix,
        channel: &str,
        start: Option<Standing>,
    ) -> Bytes {
        let roster = self.roster.get_or_insert_default();
        if start.is_some() {
            return reply::presence_succeeded(event_prefix, channel, roster, start);
        }
        if let Some((_, frame)) = self.succeeded_frames.iter().find(|(of, _)| *of == event_prefix) {
            return frame.clone();
        }
        let frame = reply::presence_succeeded(event_prefix, channel, roster, None);
        self.succeeded_frames.push((event_prefix, frame.clone()));
        frame
    }

    /// Replaces the roster by the one read. Returns the changes to send to subscribers.
    pub(super) fn replace_roster(&mut self, read: RosterRead) -> Vec<MemberChange> {
        let mut roster = read.roster;
        for change in self.changes_since_read.take().unwrap_or_default() {
            roster.apply(&change);
        }
        // Redis may have lost the departure of these users.
        for user in read.own {
            let departed = || LocalUser {
                member: Arc::new(Member::new(user.clone(), Bytes::new())),
                connections: 0,
                reported: 1,
            };
            if self.local_users.entry(user.clone()).or_insert_with(departed).connections == 0 {
                self.dirty.insert(user);
            }
        }
        let changes = self.roster.as_ref().map(|known| known.changes_to(&roster)).unwrap_or_default();
        self.roster = Some(roster);
        self.succeeded_frames.clear();
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(info: &'static str) -> Arc<Member> {
        Arc::new(Member::new("ann".into(), Bytes::from_static(info.as_bytes())))
    }

    #[test]
    fn presence_rejoin_before_leave_ack_resends_user_info() {
        let mut presence = Presence::default();
        presence.add_connection(&member("1"));
        let joined = presence.take_dirty();
        presence.acknowledge(&joined[0], false);
        presence.remove_connection(&member("1"));
        let left = presence.take_dirty();
        assert_eq!(left[0].count, 0);
        presence.add_connection(&member("2"));
        presence.acknowledge(&left[0], false);
        let rejoined = presence.take_dirty();
        assert_eq!((rejoined[0].count, &*rejoined[0].member.info), (1, b"2".as_slice()));
        assert!(rejoined[0].is_new);
    }
}
