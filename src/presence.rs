//! Members and rosters of presence channels (protocol.md 2.6).

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

/// A user of a presence channel, as one of its connections subscribes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub user_id: Arc<str>,
    /// `user_info` as JSON text; `null` without one.
    pub info: Bytes,
}

impl Member {
    pub fn new(user_id: Arc<str>, info: Bytes) -> Member {
        Member { user_id, info }
    }
}

/// The first connection of a user in the cluster has subscribed, or the last one has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    Added { user_id: Arc<str>, info: Bytes },
    Removed { user_id: Arc<str> },
}

/// The users of a presence channel, in the whole cluster, with their `user_info` as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster(BTreeMap<Arc<str>, Bytes>);

impl Roster {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates in the order of user ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Bytes)> {
        self.0.iter()
    }

    /// Applies a change and returns whether the roster differs: false if the user is already a
    /// member, or not one. The `user_info` of the first connection stays until the user has
    /// left.
    pub fn apply(&mut self, change: &MemberChange) -> bool {
        match change {
            MemberChange::Added { user_id, .. } if self.0.contains_key(user_id) => false,
            MemberChange::Added { user_id, info } => {
                self.0.insert(user_id.clone(), info.clone());
                true
            }
            MemberChange::Removed { user_id } => self.0.remove(user_id).is_some(),
        }
    }

    /// The changes that lead from this roster to `other`.
    pub fn changes_to(&self, other: &Roster) -> Vec<MemberChange> {
        let removed = self.0.keys().filter(|user| !other.0.contains_key(*user));
        let removed = removed.map(|user_id| MemberChange::Removed { user_id: user_id.clone() });
        let added = other.0.iter().filter(|(user, _)| !self.0.contains_key(*user));
        let added =
            added.map(|(user_id, info)| MemberChange::Added { user_id: user_id.clone(), info: info.clone() });
        removed.chain(added).collect()
    }
}

impl FromIterator<(Arc<str>, Bytes)> for Roster {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Bytes)>>(users: I) -> Roster {
        Roster(users.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn added(user: &str) -> MemberChange {
        MemberChange::Added { user_id: user.into(), info: Bytes::from_static(b"null") }
    }

    fn removed(user: &str) -> MemberChange {
        MemberChange::Removed { user_id: user.into() }
    }

    #[test]
    fn roster_reports_only_effective_changes() {
        let mut roster = Roster::default();
        assert!(roster.apply(&added("a")));
        assert!(!roster.apply(&added("a")));
        assert!(roster.apply(&removed("a")));
        assert!(!roster.apply(&removed("a")));
    }

    #[test]
    fn roster_changes_transform_one_roster_into_the_other() {
        let roster =
            |users: &[&str]| users.iter().map(|user| ((*user).into(), Bytes::new())).collect::<Roster>();
        let (mut from, to) = (roster(&["a", "b", "c"]), roster(&["b", "d"]));
        for change in from.changes_to(&to) {
            assert!(from.apply(&change), "{change:?}");
        }
        assert_eq!(from, to);
        assert!(from.changes_to(&to).is_empty());
    }
}
