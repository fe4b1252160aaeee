//! The shared state of one channel, as the scripts keep it in Redis, with another node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::{BackendError, MembershipUpdate, RosterRead, UpdatedMembership};
use crate::channels::job::{Job, JobResult};
use crate::entry::{Entry, EntryId, Kind, Log, Position, encode_members};
use crate::event::{Event, encode_events};
use crate::presence::{MemberChange, Roster};

#[derive(Debug, Default)]
pub(super) struct Backend {
    head: Option<Position>,
    /// The Redis process has opened no epoch of the channel: another one has.
    is_restarted: bool,
    log: VecDeque<Entry>,
    log_max: usize,
    ids: u64,
    /// There was an entry that is not a subscription count.
    has_events: bool,
    is_listened: bool,
    /// Entries on their way to the node.
    pub(super) link: VecDeque<Entry>,
    /// Subscriptions that the node has reported.
    pub(super) count: u64,
    /// Connections of users that the node has reported.
    pub(super) users: BTreeMap<Arc<str>, u64>,
    /// Users with connections to another node.
    others: BTreeSet<Arc<str>>,
    is_presence: bool,
    members_max: usize,
    /// The app may not occupy another channel.
    pub(super) is_full: bool,
}

impl Backend {
    pub(super) fn new(is_presence: bool, log_max: usize, members_max: usize) -> Backend {
        Backend { is_presence, log_max, members_max, ..Backend::default() }
    }

    fn append(&mut self, kind: Kind, count: u32, body: Bytes) {
        self.ids += 1;
        self.has_events |= kind != Kind::SubscriptionCount;
        let epoch = self.ids * 1_000;
        let id = self.head.unwrap_or_default().id;
        let opens_epoch = std::mem::take(&mut self.is_restarted);
        let head = self.head.filter(|_| !opens_epoch);
        let head = head.unwrap_or(Position { epoch, seq: epoch, id, ..Position::default() });
        let entry = Entry {
            kind,
            epoch: head.epoch,
            first_seq: head.seq + 1,
            count,
            time_ms: self.ids,
            offset: 0,
            id: EntryId::from_bytes(&self.ids.to_be_bytes()).expect("8 bytes"),
            prev: head.id,
            body,
        };
        self.head = Some(entry.position());
        self.log.push_back(entry.clone());
        if self.log.len() > self.log_max {
            self.log.pop_front();
        }
        if self.is_listened {
            self.link.push_back(entry);
        }
    }

    pub(super) fn publish(&mut self, events: &[Event]) {
        self.append(Kind::Events, events.len() as u32, encode_events(events));
    }

    /// Another node reports that a user has joined, or left.
    pub(super) fn other(&mut self, user: &str, is_member: bool) {
        let before = self.roster();
        if is_member && (before.len() < self.members_max || self.is_member(user)) {
            self.others.insert(user.into());
        } else {
            self.others.remove(user);
        }
        self.append_changes(&before);
    }

    fn is_member(&self, user: &str) -> bool {
        self.others.contains(user) || self.users.contains_key(user)
    }

    pub(super) fn roster(&self) -> Roster {
        let users = self.others.iter().chain(self.users.keys());
        users.map(|user| (user.clone(), Bytes::from_static(b"null"))).collect()
    }

    fn append_changes(&mut self, before: &Roster) {
        let changes: Vec<MemberChange> = before.changes_to(&self.roster());
        if !changes.is_empty() {
            self.append(Kind::Members, 1, encode_members(&changes));
        }
    }

    /// All data is lost, as after a restart without persistence.
    pub(super) fn flush(&mut self) {
        (self.head, self.count, self.has_events) = (None, 0, false);
        self.log.clear();
        self.users.clear();
        self.others.clear();
    }

    /// Another process continues from a file that lacks the last entries, up to `lost` of them.
    /// Returns whether it lacks any.
    pub(super) fn restart(&mut self, lost: u8) -> bool {
        self.is_restarted = true;
        let kept = self.log.len().saturating_sub(usize::from(lost)).max(1);
        let has_lost = kept < self.log.len();
        self.log.truncate(kept);
        self.head = self.log.back().map(Entry::position).filter(|_| has_lost).or(self.head);
        has_lost
    }

    pub(super) fn head(&self) -> Option<Position> {
        self.head
    }

    /// The connection that listens is gone until the next `Listen`: the node unlistens.
    pub(super) fn unlisten(&mut self) {
        self.is_listened = false;
    }

    /// Executes the script of a job.
    pub(super) fn execute(&mut self, job: &Job) -> JobResult {
        match job {
            Job::Listen => {
                self.is_listened = true;
                JobResult::Listened(Ok(()))
            }
            Job::UpdateMembership(update) => {
                let updated = self.update_membership(update);
                JobResult::MembershipUpdated(Box::new(((**update).clone(), Ok(updated))))
            }
            Job::ReadRoster => {
                let own = self.users.keys().cloned().collect();
                JobResult::RosterRead(Ok(RosterRead { roster: self.roster(), own }))
            }
            Job::ReadLog { after } => {
                let from = self.log.iter().position(|entry| entry.id == *after).map_or(0, |at| at + 1);
                let entries = self.log.iter().skip(from).cloned().collect();
                JobResult::LogRead(Ok(Log { head: self.head, entries }))
            }
            Job::ReadHead => JobResult::HeadRead(Ok(self.head)),
            Job::Recover(_) => JobResult::Recovered(Err(BackendError::Unavailable)),
            Job::ReadInitialBases => JobResult::InitialBasesRead(Ok(Vec::new())),
            Job::ToggleDeltas { on } => {
                self.append(Kind::Deltas, 1, Bytes::copy_from_slice(&[u8::from(*on)]));
                JobResult::DeltasToggled { on: *on, result: Ok(()) }
            }
            Job::OpenEpoch { epoch, seen_seq } => {
                if let Some(head) = self.head.as_mut().filter(|head| head.epoch == *epoch) {
                    head.epoch += 500;
                    head.seq = head.seq.max(head.epoch).max(*seen_seq);
                }
                JobResult::EpochOpened(Ok(()))
            }
        }
    }

    fn update_membership(&mut self, update: &MembershipUpdate) -> UpdatedMembership {
        let before = self.roster();
        if self.is_full && update.is_new && update.count > 0 && self.count == 0 && self.others.is_empty() {
            let at = self.head.unwrap_or_default();
            return UpdatedMembership { at, is_refused: true, ..UpdatedMembership::default() };
        }
        let mut refused = Vec::new();
        let mut count = update.count;
        for (index, user) in update.users.iter().enumerate() {
            let id = &user.member.user_id;
            let is_full = self.roster().len() >= self.members_max && !self.is_member(id);
            if user.count == 0 {
                self.users.remove(id);
            } else if is_full && user.is_new {
                refused.push(index);
                count -= user.count;
            } else {
                self.users.insert(id.clone(), user.count);
            }
        }
        self.append_changes(&before);
        if std::mem::replace(&mut self.count, count) != count && !self.is_presence {
            self.append(Kind::SubscriptionCount, 1, Bytes::copy_from_slice(&count.to_be_bytes()));
        }
        let at = self.head.unwrap_or_default();
        if self.count == 0 && !self.has_events {
            self.head = None;
            self.log.clear();
        }
        let total = self.count + self.others.len() as u64;
        UpdatedMembership { at, total, last: None, refused, deltas_off: false, is_refused: false }
    }
}

/// The result of a job that has failed.
pub(super) fn failed(job: Job) -> JobResult {
    let error = BackendError::OutcomeUnknown;
    match job {
        Job::Listen => JobResult::Listened(Err(error)),
        Job::UpdateMembership(update) => JobResult::MembershipUpdated(Box::new((*update, Err(error)))),
        Job::ReadRoster => JobResult::RosterRead(Err(error)),
        Job::ReadLog { .. } => JobResult::LogRead(Err(error)),
        Job::ReadHead => JobResult::HeadRead(Err(error)),
        Job::Recover(_) => JobResult::Recovered(Err(error)),
        Job::ReadInitialBases => JobResult::InitialBasesRead(Err(error)),
        Job::ToggleDeltas { on } => JobResult::DeltasToggled { on, result: Err(error) },
        Job::OpenEpoch { .. } => JobResult::EpochOpened(Err(error)),
    }
}
