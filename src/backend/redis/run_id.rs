//! The identity of the Redis process that this node uses, as of the last renewal of the lease.

use fred::bytes_utils::Str;
use fred::prelude::Value;
use parking_lot::RwLock;

/// Characters of it that scripts receive and heads keep: 64 random bits.
const RUN_ID_CHARS: usize = 16;

/// Another process may have lost entries: it was restarted from a file, or was a replica. Its
/// scripts open a new epoch of each channel (`lua/include/append.lua`).
#[derive(Debug, Default)]
pub(super) struct RunId(RwLock<Str>);

impl RunId {
    /// Calls `on_change` before scripts receive the id of another process. Returns whether it is
    /// another one.
    pub(super) fn adopt(&self, run_id: &str, on_change: impl FnOnce()) -> bool {
        let run_id = run_id.get(..RUN_ID_CHARS).unwrap_or(run_id);
        if **self.0.read() == *run_id {
            return false;
        }
        let is_first = self.0.read().is_empty();
        if !is_first {
            on_change();
        }
        let before = std::mem::replace(&mut *self.0.write(), run_id.into());
        if !is_first {
            tracing::warn!(%before, now = run_id, "another Redis process answers: channels continue in new epochs");
        }
        !is_first
    }

    pub(super) fn argument(&self) -> Value {
        Value::String(self.0.read().clone())
    }
}
