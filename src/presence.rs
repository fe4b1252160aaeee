//! Who is in a presence channel (protocol.md 2.6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;

/// A user as one of its connections has joined a channel.
#[derive(Debug)]
pub struct Member {
    pub user_id: Arc<str>,
    /// `user_info`, as JSON text; `null` where there is none.
    pub info: Bytes,
    refused: AtomicBool,
}

impl Member {
    pub fn new(user_id: Arc<str>, info: Bytes) -> Member {
        Member { user_id, info, refused: AtomicBool::new(false) }
    }

    /// The channel was full: this connection has not joined.
    pub fn refuse(&self) {
        self.refused.store(true, Ordering::Release);
    }

    /// It has asked again, and there was room.
    pub fn accept(&self) {
        self.refused.store(false, Ordering::Release);
    }

    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Acquire)
    }
}

/// A user's first connection came, or its last one left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    Added { user_id: Arc<str>, info: Bytes },
    Removed { user_id: Arc<str> },
}

/// The users of a presence channel, in the whole cluster, with their `user_info`
/// as JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster(BTreeMap<Arc<str>, Bytes>);

impl Roster {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In the order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Bytes)> {
        self.0.iter()
    }

    /// False if nothing is changed by it: the user is there already, or is not.
    /// The `user_info` of the first connection stays until all have left.
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
    fn only_what_changes_something_is_a_change() {
        let mut roster = Roster::default();
        assert!(roster.apply(&added("a")));
        assert!(!roster.apply(&added("a")));
        assert!(roster.apply(&removed("a")));
        assert!(!roster.apply(&removed("a")));
    }

    #[test]
    fn changes_lead_from_one_roster_to_the_other() {
        let of = |users: &[&str]| users.iter().map(|user| ((*user).into(), Bytes::new())).collect::<Roster>();
        let (mut from, to) = (of(&["a", "b", "c"]), of(&["b", "d"]));
        for change in from.changes_to(&to) {
            assert!(from.apply(&change), "{change:?}");
        }
        assert_eq!(from, to);
        assert!(from.changes_to(&to).is_empty());
    }
}
