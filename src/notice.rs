//! What a webhook tells (protocol.md 5), from the script that decided it to the
//! call that delivers it.

use std::fmt;
use std::sync::Arc;

use crate::event::Event;

/// Names a notice, the same at every delivery: receivers tell repetitions by it.
/// The place in the outbox, `<ms>-<n>`, behind the name of the partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NoticeId {
    /// When it was decided, in ms of the backend's clock.
    pub time_ms: u64,
    pub number: u64,
}

impl NoticeId {
    pub fn parse(text: &str) -> Option<NoticeId> {
        let (time_ms, number) = text.split_once('-')?;
        Some(NoticeId { time_ms: time_ms.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for NoticeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time_ms, self.number)
    }
}

/// One event of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub id: NoticeId,
    pub app: Arc<str>,
    pub channel: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    ChannelOccupied,
    ChannelVacated,
    MemberAdded {
        user_id: String,
    },
    MemberRemoved {
        user_id: String,
    },
    /// `except` is the connection that sent it.
    ClientEvent(Event),
    CacheMiss,
    SubscriptionCount(u64),
}

impl What {
    /// As in [`crate::app::HookedEvents::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            What::ChannelOccupied => "channel_occupied",
            What::ChannelVacated => "channel_vacated",
            What::MemberAdded { .. } => "member_added",
            What::MemberRemoved { .. } => "member_removed",
            What::ClientEvent(_) => "client_event",
            What::CacheMiss => "cache_miss",
            What::SubscriptionCount(_) => "subscription_count",
        }
    }
}
