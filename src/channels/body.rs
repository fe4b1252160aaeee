//! Decoding the body of an entry that another version may have written.

use crate::channel::ChannelId;
use crate::entry::{Body, Entry};
use crate::metrics::metrics;

/// `None`, logged and counted, for a body that this version cannot read.
pub(super) fn read(channel_id: &ChannelId, entry: &Entry) -> Option<Body> {
    match entry.read() {
        Ok(body) => Some(body),
        Err(error) => {
            metrics().entries_unreadable.increment(1);
            tracing::warn!(%channel_id, %error, "entry is unreadable; skipped");
            None
        }
    }
}
