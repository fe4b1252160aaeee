//! WebhookEventKind a webhook tells (protocol.md 5), from the script that decided it to the
//! call that delivers it.

use std::fmt;
use std::sync::Arc;

use crate::event::Event;

/// Names a webhook_event, the same at every delivery: receivers tell repetitions by it.
/// The place in the outbox, `<ms>-<n>`, behind the name of the partition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookEventId {
    /// When it was decided, in ms of the backend's clock.
    pub time_ms: u64,
    pub number: u64,
}

impl WebhookEventId {
    pub fn parse(text: &str) -> Option<WebhookEventId> {
        let (time_ms, number) = text.split_once('-')?;
        Some(WebhookEventId { time_ms: time_ms.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for WebhookEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time_ms, self.number)
    }
}

/// One event of a webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    pub id: WebhookEventId,
    pub app: Arc<str>,
    pub channel: String,
    pub what: WebhookEventKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookEventKind {
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

impl WebhookEventKind {
    /// As in [`crate::app::HookedEvents::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            WebhookEventKind::ChannelOccupied => "channel_occupied",
            WebhookEventKind::ChannelVacated => "channel_vacated",
            WebhookEventKind::MemberAdded { .. } => "member_added",
            WebhookEventKind::MemberRemoved { .. } => "member_removed",
            WebhookEventKind::ClientEvent(_) => "client_event",
            WebhookEventKind::CacheMiss => "cache_miss",
            WebhookEventKind::SubscriptionCount(_) => "subscription_count",
        }
    }
}
