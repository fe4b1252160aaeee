//! What one audience is sent of a delivery, and which of it a subscriber gets: one
//! buffer for the whole run, shared by all who hold the same.

use bytes::{Bytes, BytesMut};

use super::holds::Holds;

/// The events of a delivery that an audience is sent.
#[derive(Debug, Default)]
pub(super) struct Run {
    pieces: Vec<Piece>,
    /// The numbers of all bases that deltas here are made against, ascending.
    bases: Vec<u64>,
    /// The run for who holds all bases but the first `n`.
    buffers: Vec<Option<Bytes>>,
    /// From somebody its last event is withheld.
    pub(super) is_cut_short: bool,
}

#[derive(Debug)]
pub(super) struct Piece {
    /// Its place in the delivery.
    pub(super) event: usize,
    pub(super) seq: u64,
    pub(super) full: Bytes,
    /// The delta, and the number of its base.
    pub(super) delta: Option<(Bytes, u64)>,
    /// The chain that it is in.
    pub(super) chain: Option<Bytes>,
}

impl Piece {
    fn frame(&self, holds_base: impl FnOnce(u64) -> bool) -> &Bytes {
        match &self.delta {
            Some((delta, base)) if holds_base(*base) => delta,
            _ => &self.full,
        }
    }
}

impl Run {
    pub(super) fn push(&mut self, piece: Piece) {
        if let Some((_, base)) = &piece.delta {
            let at = self.bases.partition_point(|known| known <= base);
            self.bases.insert(at, *base);
        }
        self.pieces.push(piece);
    }

    /// Nothing more is pushed.
    pub(super) fn finish(&mut self) {
        self.buffers.resize(self.bases.len() + 1, None);
    }

    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// For a subscriber that nothing is withheld from.
    pub(super) fn whole(&mut self, holds: &mut Holds) -> Bytes {
        if holds.lacks_some() {
            return self.without(|_| false, holds);
        }
        let from = holds.starts_at();
        let lacked = self.bases.iter().take_while(|base| **base < from).count();
        match &self.buffers[lacked] {
            Some(buffer) => buffer.clone(),
            None => self.buffers[lacked].insert(joined(&self.pieces, from)).clone(),
        }
    }

    /// For a subscriber that some events are withheld from, by their place.
    pub(super) fn without(&mut self, is_withheld: impl Fn(usize) -> bool, holds: &mut Holds) -> Bytes {
        let mut run = BytesMut::new();
        self.is_cut_short |= self.pieces.last().is_some_and(|piece| is_withheld(piece.event));
        for piece in &self.pieces {
            let Some(chain) = &piece.chain else {
                if !is_withheld(piece.event) {
                    run.extend_from_slice(&piece.full);
                }
                continue;
            };
            if is_withheld(piece.event) {
                holds.miss(chain, piece.seq);
                continue;
            }
            run.extend_from_slice(piece.frame(|base| holds.holds(chain, base)));
            holds.mend(chain);
        }
        run.freeze()
    }
}

/// For who holds every base from the number `from` on.
fn joined(pieces: &[Piece], from: u64) -> Bytes {
    let holds = |base| base >= from;
    if let [only] = pieces {
        return only.frame(holds).clone();
    }
    let bytes = pieces.iter().map(|piece| piece.full.len()).sum();
    let mut run = BytesMut::with_capacity(bytes);
    for piece in pieces {
        run.extend_from_slice(piece.frame(holds));
    }
    run.freeze()
}
