//! Recovers missed events from a channel's history when clients resume. Clients at the
//! same position with the same options share one encoded buffer. No IO.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::body;
use super::catch_up::CatchUpEncoder;
use crate::channel::ChannelId;
use crate::delta::chain::Chains;
use crate::delta::channels::ChannelDelta;
use crate::delta::policy::Policy;
use crate::delta::settings::DeltaConfig;
use crate::encode::DeliveryOptions;
use crate::entry::{Body, Entry, Kind, Log, Position};
use crate::event::{Event, SocketId};
use crate::limits;
use crate::metrics::metrics;
use crate::subscribers::SocketIdentity;
use crate::wire::resume::Resume;

/// The request of one client.
#[derive(Debug)]
pub(super) struct RecoveryRequest {
    pub(super) socket: SocketId,
    pub(super) options: DeliveryOptions,
    pub(super) resume: Resume,
    /// The channel's position when the client subscribed.
    pub(super) at: Position,
}

/// The events that a client missed, up to the position of its subscription.
#[derive(Debug, Default)]
pub(super) struct RecoveredEvents {
    pub(super) frames: Bytes,
    /// The bases that the client has after these frames.
    pub(super) held: Chains,
    /// Bytes of the history that was read for them.
    pub(super) read_bytes: usize,
}

/// The result for each request; None where the history does not cover all missed
/// events.
pub(super) type RecoveryResults = Vec<(SocketId, Option<Arc<RecoveredEvents>>)>;

/// The requests that one read of the history serves, with the settings of the channel.
#[derive(Debug)]
pub(super) struct RecoveryRequests {
    pub(super) requests: Vec<RecoveryRequest>,
    /// The oldest sequence number among the requests.
    pub(super) oldest: u32,
    pub(super) deltas: ChannelDelta,
    pub(super) policy: Policy,
}

impl RecoveryRequests {
    /// Encodes the missed events of every request. Yields to other tasks between
    /// requests.
    pub(super) async fn answer(
        self,
        channel_id: &ChannelId,
        log: &Log,
        config: &DeltaConfig,
    ) -> RecoveryResults {
        let RecoveryRequests { requests, deltas, policy, .. } = self;
        Replay::new(channel_id, log, config, &deltas, &policy).encode_all(requests).await
    }
}

/// A history read, decoded once for all requests.
struct Replay<'a> {
    channel: &'a str,
    config: &'a DeltaConfig,
    deltas: &'a ChannelDelta,
    policy: &'a Policy,
    head: Option<Position>,
    entries: Vec<(&'a Entry, Vec<Event>)>,
    /// The sequence number at which the history begins.
    first_seq: u64,
    excluded: HashSet<SocketId>,
    /// An entry of the history could not be decoded.
    is_unreadable: bool,
}

/// The part of the history that one client needs, in full sequence numbers.
struct Range {
    /// The client has received everything up to this number.
    seq: u64,
    /// The client still has the bases that it received after this number.
    from: Option<u64>,
    at: Position,
}

/// Requests with equal keys have equal results: delivery options, `seq` and `from` of
/// the range, and the sequence number of `at`.
type RecoveryKey = (DeliveryOptions, u64, Option<u64>, u64);

impl<'a> Replay<'a> {
    fn new(
        channel_id: &'a ChannelId,
        log: &'a Log,
        config: &'a DeltaConfig,
        deltas: &'a ChannelDelta,
        policy: &'a Policy,
    ) -> Replay<'a> {
        let mut replay = Replay {
            channel: channel_id.channel(),
            config,
            deltas,
            policy,
            head: log.head,
            entries: Vec::new(),
            first_seq: log.entries.first().map_or(u64::MAX, |first| first.first_seq),
            excluded: HashSet::new(),
            is_unreadable: false,
        };
        for entry in &log.entries {
            match body::read(channel_id, entry) {
                Some(Body::Events(events) | Body::ClientEvents(events)) => {
                    replay.excluded.extend(events.iter().filter_map(|event| event.except));
                    replay.entries.push((entry, events));
                }
                Some(_) => {}
                None => replay.is_unreadable = true,
            }
        }
        replay
    }

    async fn encode_all(self, recovery_requests: Vec<RecoveryRequest>) -> RecoveryResults {
        #[expect(clippy::mutable_key_type, reason = "filters are compared by their content")]
        let mut by_key: HashMap<RecoveryKey, Option<Arc<RecoveredEvents>>> = HashMap::new();
        let mut results = Vec::with_capacity(recovery_requests.len());
        for request in recovery_requests {
            let Some(range) = self.range(&request) else {
                results.push((request.socket, None));
                continue;
            };
            let is_excluded = self.excluded.contains(&request.socket)
                || request.resume.previous_socket_ids.iter().any(|previous| self.excluded.contains(previous));
            let missed = match is_excluded {
                true => self.encode_missed(&range, &request),
                false => by_key
                    .entry((request.options.clone(), range.seq, range.from, range.at.seq))
                    .or_insert_with(|| self.encode_missed(&range, &request))
                    .clone(),
            };
            results.push((request.socket, missed));
            tokio::task::yield_now().await;
        }
        results
    }

    /// None if the history does not cover all events since the client's position.
    fn range(&self, request: &RecoveryRequest) -> Option<Range> {
        let RecoveryRequest { resume, at, .. } = request;
        let head = self.head.filter(|head| head.epoch == resume.epoch && head.epoch == at.epoch)?;
        let seq = full_seq(resume.seq, head.seq);
        let is_complete = !self.is_unreadable && self.first_seq <= seq + 1;
        // An epoch begins at its own number; the history may contain entries of earlier ones.
        if !(head.epoch..=at.seq).contains(&seq) || (seq < head.seq && !is_complete) {
            return None;
        }
        let from = resume.from.map(|from| full_seq(from, seq));
        Some(Range { seq, from, at: *at })
    }

    /// None if the frames exceed [`limits::CATCH_UP_BYTES_MAX`].
    fn encode_missed(&self, range: &Range, request: &RecoveryRequest) -> Option<Arc<RecoveredEvents>> {
        let mut encoder = CatchUpEncoder {
            channel: self.channel,
            options: &request.options,
            identity: SocketIdentity {
                socket: request.socket,
                previous_socket_ids: &request.resume.previous_socket_ids,
            },
            config: self.config,
            deltas: self.deltas,
            policy: self.policy.clone(),
            held: Chains::default(),
        };
        let (mut frames, mut read_bytes) = (BytesMut::new(), 0);
        for (entry, events) in &self.entries {
            if entry.is_after(range.at) {
                break;
            }
            read_bytes += entry.body.len();
            let had = (range.seq + 1).saturating_sub(entry.first_seq).min(events.len() as u64) as usize;
            if let Some(from) = range.from.filter(|_| entry.kind == Kind::Events) {
                // Not sent: the client has received these events, and has their bases.
                encoder.frames(entry, &events[..had], from + 1);
            }
            frames.extend_from_slice(&encoder.frames(entry, events, range.seq + 1));
            if frames.len() > limits::CATCH_UP_BYTES_MAX {
                metrics().resumes_too_large.increment(1);
                return None;
            }
        }
        Some(Arc::new(RecoveredEvents { frames: frames.freeze(), held: encoder.held, read_bytes }))
    }
}

/// The largest sequence number up to `now` whose low 31 bits are `low`; 0 if there is
/// none.
pub(super) fn full_seq(low: u32, now: u64) -> u64 {
    let distance = now.wrapping_sub(u64::from(low)) & 0x7fff_ffff;
    now.saturating_sub(distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_sequence_numbers_are_restored_to_64_bits() {
        let now = 5 << 31 | 10;
        assert_eq!(full_seq(10, now), now);
        assert_eq!(full_seq(3, now), now - 7);
        assert_eq!(full_seq(0x7fff_ffff, now), (5 << 31) - 1);
        assert_eq!(full_seq(11, now), (4 << 31) | 11, "never above the current number");
        assert_eq!(full_seq(7, 3), 0, "no such number");
    }
}
