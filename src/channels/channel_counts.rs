//! The channels of each app on this node.

use std::collections::HashMap;

use crate::channel::{ChannelId, ChannelKind};

/// Counts the channels of each app. User channels do not count: they need a signed-in connection,
/// which has one of them.
#[derive(Debug, Default)]
pub(super) struct ChannelCounts(HashMap<Box<str>, u64>);

impl ChannelCounts {
    /// Counts a new channel. Returns the number of its app's channels; `None` if it does not count.
    pub(super) fn add(&mut self, channel_id: &ChannelId) -> Option<u64> {
        if channel_id.kind() == ChannelKind::User {
            return None;
        }
        let count = self.0.entry(channel_id.app().into()).or_default();
        *count += 1;
        Some(*count)
    }

    pub(super) fn remove(&mut self, channel_id: &ChannelId) {
        if channel_id.kind() == ChannelKind::User {
            return;
        }
        let Some(count) = self.0.get_mut(channel_id.app()) else { return };
        *count -= 1;
        if *count == 0 {
            self.0.remove(channel_id.app());
        }
    }
}
