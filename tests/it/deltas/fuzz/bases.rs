//! The bases that a client holds of one channel, as clients keep them: from the
//! markers and deltas they receive (protocol.md 3.5).

use std::collections::HashMap;

use super::frames::{CacheSync, Delta, strip};
use crate::support::frame::Envelope;
use crate::support::resuming_client::is_later;

#[derive(Debug, Default)]
pub struct Bases {
    /// By chain: the number and the text of its newest event.
    held: HashMap<String, (u32, String)>,
    /// The client holds every marked event after this number.
    pub from: Option<u32>,
}

impl Bases {
    /// Drops all bases. `from` is the position at that time, if known.
    pub fn forget(&mut self, from: Option<u32>) {
        *self = Bases { held: HashMap::new(), from };
    }

    /// Replaces all bases with those of a cache sync. Returns their count.
    pub fn replace(&mut self, sync: CacheSync, from: Option<u32>) -> usize {
        self.forget(from);
        let states = sync.states.into_iter().flat_map(|(key, states)| {
            states.into_iter().map(move |state| (key.clone(), (state.seq, state.content)))
        });
        self.held.extend(states);
        self.held.len()
    }

    /// A full event.
    pub fn keep(&mut self, text: &str, envelope: &Envelope<'_>, plain: bool) -> Result<(), String> {
        let Some(seq) = envelope.marker else { return Ok(()) };
        let key = envelope.key.as_deref().unwrap_or_default();
        // Earlier events carried no markers for this client.
        self.from = self.from.or(Some(seq.wrapping_sub(1) & 0x7fff_ffff));
        self.held.insert(key.to_owned(), (seq, strip(text, plain)?));
        Ok(())
    }

    /// Decodes a delta. The result is the next base.
    pub fn decode(&mut self, delta: &Delta<'_>) -> Result<&str, String> {
        let numbers = || self.held.iter().map(|(key, (seq, _))| (key, seq)).collect::<Vec<_>>();
        let Some((seq, base)) = self.held.get(&*delta.key) else {
            return Err(format!("a delta without a base, holding {:?}", numbers()));
        };
        if *seq != delta.base_index || !is_later(delta.seq, *seq) {
            return Err(format!("a delta with another base than {seq} of {:?}", numbers()));
        }
        let whole = delta.decode(base).map_err(|error| format!("{error} against {base}"))?;
        let slot = self.held.entry(delta.key.to_string()).insert_entry((delta.seq, whole)).into_mut();
        Ok(&slot.1)
    }
}
