//! Subscription requests of a client, the first one and later ones.

use serde_json::{Value, json};

use super::payloads;
use super::subscription::{Position, State, Subscription};
use super::world::World;

/// Limit of the socket ids that a resume request may name.
const PREVIOUS_SOCKETS_MAX: usize = 8;

/// The state at the time of the last subscription request.
#[derive(Debug, Default)]
pub struct RequestState {
    /// Events with an index below this one are settled and may not arrive.
    pub settled: usize,
    /// The requested position, the number of received events up to it, and whether
    /// no such position can exist.
    pub from: Option<(Position, usize, bool)>,
    pub keeps_bases: bool,
    /// The client has announced its delta formats before: everything is marked.
    pub opted_in: bool,
    /// Subscribed already; the answer contains no position.
    pub again: bool,
    pub named: Vec<String>,
}

/// Kind of subscription request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// Without a position.
    Fresh,
    /// With the current position.
    Resume,
    /// The same, without bases.
    ResumeWithoutBases,
    /// With an earlier position.
    ResumeEarlier,
    /// With a position that never existed.
    ResumeInvalid,
}

impl Subscription {
    /// The members of a subscription. `socket` is the connection that it is sent
    /// on.
    pub fn subscribe_request(&mut self, world: &World, kind: RequestKind, socket: &str) -> Value {
        let mut members = json!({ "channel": self.name() });
        let seen_count = self.span.as_ref().map_or(0, |span| span.seen.len());
        let others: Vec<String> = self.previous_sockets.iter().filter(|it| *it != socket).cloned().collect();
        let can_name_all = others.len() <= PREVIOUS_SOCKETS_MAX;
        let kind = if self.resumes && self.position.is_some() && self.span.is_some() && can_name_all {
            kind
        } else {
            RequestKind::Fresh
        };
        let position = self.position.filter(|_| kind != RequestKind::Fresh);
        let from = position.map(|position| match kind {
            RequestKind::ResumeEarlier => {
                let (position, seen_count) = self.checkpoint.unwrap_or((position, seen_count));
                (position, seen_count, false)
            }
            RequestKind::ResumeInvalid if position.seq % 2 == 0 => {
                (Position { seq: position.seq ^ 0x3f00_0000, ..position }, seen_count, true)
            }
            // Epochs are times in µs: this one is a year away.
            RequestKind::ResumeInvalid => {
                (Position { epoch: position.epoch ^ 1 << 45, ..position }, seen_count, true)
            }
            _ => (position, seen_count, false),
        });
        let again = self.state == State::Subscribed && !self.resumes;
        let keeps_bases = kind == RequestKind::Resume && self.bases.from.is_some();
        let named = if from.is_some() { others } else { Vec::new() };
        if self.resumes {
            members["resume"] = match from {
                None => true.into(),
                Some((Position { epoch, seq }, ..)) => {
                    json!({ "epoch": epoch, "seq": seq, "socket_id": named, "token": self.token })
                }
            };
            if keeps_bases {
                members["resume"]["from"] = self.bases.from.into();
            }
        }
        if let Some((member, filter)) = payloads::filter(self.filter) {
            members[member] = filter;
        }
        let settled = world.logs[self.channel].lock().settled();
        let opted_in = self.algorithm.is_some();
        self.request = RequestState { settled, from, keeps_bases, opted_in, again, named };
        self.request.named.push(socket.to_owned());
        self.previous_sockets.retain(|it| it != socket);
        self.previous_sockets.push(socket.to_owned());
        if !again {
            self.state = State::Pending;
        }
        self.is_awaiting = true;
        self.note(&format!("sends on {socket}: {members}"));
        members
    }
}
