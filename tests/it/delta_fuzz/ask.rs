//! How a client subscribes, for the first time and again.

use serde_json::{Value, json};

use super::payloads;
use super::subscription::{Position, State, Subscription};
use super::world::World;

/// As many as a client may name.
const FORMER_MAX: usize = 8;

/// What was asked when it subscribed.
#[derive(Debug, Default)]
pub struct Asked {
    /// What was settled then is not to come.
    pub settled: usize,
    /// As which position, how much of what it has seen counts, and whether there
    /// can be no such position.
    pub from: Option<(Position, usize, bool)>,
    pub keeps_bases: bool,
    /// It has said by then which deltas it understands: everything is marked.
    pub opted_in: bool,
    /// Subscribed already, and not to be answered with a position.
    pub again: bool,
    pub named: Vec<String>,
}

/// How a client subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// As if it had had nothing.
    Fresh,
    /// With the position that it has.
    Resume,
    /// The same, having lost its bases.
    Forgetful,
    /// With an earlier one.
    Back,
    /// With one that nobody has had.
    Wrong,
}

impl Subscription {
    /// The members of a subscription. `socket` is the connection that it is sent on.
    pub fn ask(&mut self, world: &World, how: How, socket: &str) -> Value {
        let mut members = json!({ "channel": self.name() });
        let place = self.span.as_ref().map_or(0, |span| span.seen.len());
        let how =
            if self.resumes && self.position.is_some() && self.span.is_some() { how } else { How::Fresh };
        let position = self.position.filter(|_| how != How::Fresh);
        let from = position.map(|position| match how {
            How::Back => {
                let (position, place) = self.checkpoint.unwrap_or((position, place));
                (position, place, false)
            }
            How::Wrong if position.seq % 2 == 0 => {
                (Position { seq: position.seq ^ 0x3f00_0000, ..position }, place, true)
            }
            How::Wrong => (Position { epoch: position.epoch + 1, ..position }, place, true),
            _ => (position, place, false),
        });
        let again = self.state == State::In && !self.resumes;
        let keeps_bases = how == How::Resume && self.bases.from.is_some();
        let named = if from.is_some() { self.former.clone() } else { Vec::new() };
        if self.resumes {
            members["resume"] = match from {
                None => true.into(),
                Some((Position { epoch, seq }, ..)) => {
                    json!({ "epoch": epoch, "seq": seq, "socket_id": named })
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
        self.asked = Asked { settled, from, keeps_bases, opted_in, again, named };
        self.asked.named.push(socket.to_owned());
        self.former.retain(|it| it != socket);
        self.former.push(socket.to_owned());
        if self.former.len() > FORMER_MAX {
            self.former.remove(0);
        }
        if !again {
            self.state = State::Asked;
        }
        self.is_awaiting = true;
        self.note(&format!("asks on {socket}: {members}"));
        members
    }
}
