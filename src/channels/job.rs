//! Jobs: the backend calls of a channel, as data.

use super::replay::{RecoveryRequests, RecoveryResults};
use crate::backend::{Backend, BackendError, MembershipUpdate, RosterRead, StoredBase, UpdatedMembership};
use crate::channel::ChannelId;
use crate::delta::settings::DeltaConfig;
use crate::entry::{EntryId, Log, Position};
use crate::limits;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobKind {
    /// Subscribes to the channel's topic.
    Listen,
    UpdateMembership,
    ReadRoster,
    /// Reads the history, or only the head when the byte budget is used up.
    RepairGap,
    /// Reads the history for clients that resume.
    Recover,
    ReadInitialBases,
    ToggleDeltas,
    OpenEpoch,
    /// Compares positions with heads. One call for up to
    /// [`limits::POSITION_CHECK_CHANNELS`] channels.
    CheckHead,
}

impl JobKind {
    pub(super) const ALL: [JobKind; 9] = [
        JobKind::Listen,
        JobKind::UpdateMembership,
        JobKind::ReadRoster,
        JobKind::RepairGap,
        JobKind::Recover,
        JobKind::ReadInitialBases,
        JobKind::ToggleDeltas,
        JobKind::OpenEpoch,
        JobKind::CheckHead,
    ];

    /// How many run at once on a node, at most. Further channels wait in a queue.
    pub(super) fn concurrent_max(self) -> usize {
        match self {
            JobKind::Listen => limits::LISTENS_MAX,
            JobKind::UpdateMembership => limits::MEMBERSHIP_UPDATES_MAX,
            JobKind::ReadRoster => limits::ROSTER_READS_MAX,
            JobKind::RepairGap => limits::REPAIRS_MAX,
            JobKind::Recover => limits::CATCH_UP_READS_MAX,
            JobKind::ReadInitialBases => limits::CATCH_UP_READS_MAX,
            JobKind::ToggleDeltas => limits::DELTA_TOGGLES_MAX,
            JobKind::OpenEpoch => limits::EPOCH_OPENS_MAX,
            JobKind::CheckHead => limits::POSITION_CHECKS_MAX,
        }
    }
}

/// The jobs of one channel that are in flight: at most one of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct JobSet(u16);

impl JobSet {
    pub(super) fn insert(&mut self, kind: JobKind) {
        self.0 |= 1 << kind as u16;
    }

    pub(super) fn remove(&mut self, kind: JobKind) {
        self.0 &= !(1 << kind as u16);
    }

    pub(super) fn contains(self, kind: JobKind) -> bool {
        self.0 & 1 << kind as u16 != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A backend call with its arguments, which the channel builds when the job starts: what
/// happened while it was queued is included.
#[derive(Debug)]
pub(super) enum Job {
    Listen,
    UpdateMembership(Box<MembershipUpdate>),
    ReadRoster,
    ReadLog { after: EntryId },
    ReadHead,
    Recover(Box<RecoveryRequests>),
    ReadInitialBases,
    ToggleDeltas { on: bool },
    OpenEpoch { epoch: u64, seen_seq: u64 },
}

/// The result of a job.
#[derive(Debug)]
pub(super) enum JobResult {
    Listened(Result<(), BackendError>),
    MembershipUpdated(Box<(MembershipUpdate, Result<UpdatedMembership, BackendError>)>),
    RosterRead(Result<RosterRead, BackendError>),
    LogRead(Result<Log, BackendError>),
    /// The head, read instead of the history.
    HeadRead(Result<Option<Position>, BackendError>),
    Recovered(Result<RecoveryResults, BackendError>),
    InitialBasesRead(Result<Vec<StoredBase>, BackendError>),
    DeltasToggled {
        on: bool,
        result: Result<(), BackendError>,
    },
    EpochOpened(Result<(), BackendError>),
    HeadChecked(Result<Option<Position>, BackendError>),
}

impl JobResult {
    pub(super) fn kind(&self) -> JobKind {
        match self {
            JobResult::Listened(_) => JobKind::Listen,
            JobResult::MembershipUpdated(_) => JobKind::UpdateMembership,
            JobResult::RosterRead(_) => JobKind::ReadRoster,
            JobResult::LogRead(_) | JobResult::HeadRead(_) => JobKind::RepairGap,
            JobResult::Recovered(_) => JobKind::Recover,
            JobResult::InitialBasesRead(_) => JobKind::ReadInitialBases,
            JobResult::DeltasToggled { .. } => JobKind::ToggleDeltas,
            JobResult::EpochOpened(_) => JobKind::OpenEpoch,
            JobResult::HeadChecked(_) => JobKind::CheckHead,
        }
    }

    /// Bytes of a history that was read, which count against the budget of repairs.
    pub(super) fn repair_bytes(&self) -> usize {
        match self {
            JobResult::LogRead(Ok(log)) => log.entries.iter().map(|entry| entry.body.len()).sum(),
            _ => 0,
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        match self {
            JobResult::Listened(result) | JobResult::EpochOpened(result) => result.is_err(),
            JobResult::MembershipUpdated(update) => update.1.is_err(),
            JobResult::RosterRead(result) => result.is_err(),
            JobResult::LogRead(result) => result.is_err(),
            JobResult::HeadRead(result) | JobResult::HeadChecked(result) => result.is_err(),
            JobResult::Recovered(result) => result.is_err(),
            JobResult::InitialBasesRead(result) => result.is_err(),
            JobResult::DeltasToggled { result, .. } => result.is_err(),
        }
    }
}

impl Job {
    pub(super) async fn run(
        self,
        channel_id: &ChannelId,
        backend: &Backend,
        config: &DeltaConfig,
    ) -> JobResult {
        match self {
            Job::Listen => JobResult::Listened(backend.listen(channel_id).await),
            Job::UpdateMembership(update) => {
                let result = backend.update_membership(&update).await;
                JobResult::MembershipUpdated(Box::new((*update, result)))
            }
            Job::ReadRoster => JobResult::RosterRead(backend.read_roster(channel_id).await),
            Job::ReadLog { after } => JobResult::LogRead(backend.read_log(channel_id, after).await),
            Job::ReadHead => {
                let heads = backend.read_heads(std::slice::from_ref(channel_id)).await;
                JobResult::HeadRead(heads.map(|heads| heads.first().copied().flatten()))
            }
            Job::Recover(requests) => {
                let results = match backend.read_log_since(channel_id, requests.oldest).await {
                    // Encoded here, outside the actor: many clients may have missed many
                    // events.
                    Ok(log) => Ok(requests.answer(channel_id, &log, config).await),
                    Err(error) => Err(error),
                };
                JobResult::Recovered(results)
            }
            Job::ReadInitialBases => JobResult::InitialBasesRead(backend.read_bases(channel_id).await),
            Job::ToggleDeltas { on } => {
                JobResult::DeltasToggled { on, result: backend.switch_deltas(channel_id, on).await }
            }
            Job::OpenEpoch { epoch, seen_seq } => {
                JobResult::EpochOpened(backend.open_epoch(channel_id, epoch, seen_seq).await)
            }
        }
    }
}
