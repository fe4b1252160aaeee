//! Webhook events (protocol.md 5), from the script that detects the transition to the
//! call that delivers it.

use std::fmt;
use std::sync::Arc;

use crate::channel::Partition;
use crate::event::Event;

/// Where the webhook events of an app's channels in one partition wait for their delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OutboxId {
    pub partition: Partition,
    pub app: Arc<str>,
}

/// The id of an entry in an outbox, `<ms>-<n>`. With app and partition as prefix it is the
/// `id` in calls: the same at every attempt, so that receivers recognise repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebhookEventId {
    /// Time of the transition, in ms since 1970 by the backend's clock.
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

/// One webhook event, as read from the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookEvent {
    pub id: WebhookEventId,
    pub app: Arc<str>,
    pub channel: String,
    pub what: WebhookEventKind,
}

/// Type of a webhook event, with the members that depend on it.
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
    /// `except` is the socket id of the sender.
    ClientEvent(Event),
    CacheMiss,
    SubscriptionCount(u64),
}

impl WebhookEventKind {
    /// The `name` in calls: one of [`crate::app::HookedEvents::NAMES`].
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
