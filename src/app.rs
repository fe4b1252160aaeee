//! An app: one tenant with its key, secret and limits.

use std::sync::Arc;
use std::time::Duration;

use crate::delta::channels::ChannelDeltas;
use crate::limits;

/// One tenant. Whoever holds its secret may publish; whoever knows its key may
/// connect.
#[derive(Debug)]
pub struct App {
    /// In the path of every API call. All digits in most client libraries.
    pub id: Arc<str>,
    /// Public: browsers name it in `/app/{key}`.
    pub key: String,
    /// Each of them signs requests and subscriptions: more than one while they
    /// are being rotated, the newest first. What this server signs, it signs with
    /// the oldest. At least one.
    pub secrets: Vec<Secret>,
    /// A disabled app answers 403 and closes its sockets with 4003.
    pub enabled: bool,
    pub limits: AppLimits,
    pub rates: AppRates,
    pub features: AppFeatures,
    /// `allowed_origins`: empty allows all.
    pub origins: Vec<OriginPattern>,
    pub webhooks: Vec<Webhook>,
    /// `channel_delta_compression`: where clients may ask for deltas.
    pub deltas: ChannelDeltas,
}

impl App {
    /// The events that some webhook of the app wants to hear of.
    pub fn hooked_events(&self) -> HookedEvents {
        self.webhooks.iter().fold(HookedEvents::default(), |all, webhook| all.union(webhook.events))
    }
}

/// A secret that cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(secret: impl Into<String>) -> Secret {
        Secret(secret.into())
    }

    pub fn reveal(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[hidden]")
    }
}

/// What an app may send (protocol.md 1.9); the config keys are Sockudo's names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppLimits {
    /// `max_event_batch_size`
    pub batch_events_max: usize,
    /// `max_event_payload_in_kb`, in bytes
    pub payload_bytes_max: usize,
    /// `max_event_channels_at_once`
    pub event_channels_max: usize,
    /// `max_event_name_length`
    pub event_name_chars_max: usize,
    /// `max_channel_name_length`
    pub channel_name_chars_max: usize,
    /// `max_batch_publications`: events times channels of one batch
    pub batch_publications_max: usize,
    /// `max_presence_members_per_channel`: users of one presence channel, over all nodes
    pub presence_members_max: usize,
    /// `max_presence_member_size_in_kb`, in bytes: a member's `user_info`
    pub presence_member_bytes_max: usize,
    /// `max_connections`, over all nodes; None is unlimited
    pub connections_max: Option<u64>,
}

/// How often (protocol.md 1.8, 6).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppRates {
    /// `max_backend_events_per_second`: each event counts once per channel
    pub backend_events: Option<Rate>,
    /// `max_read_requests_per_second`
    pub read_requests: Option<Rate>,
    /// `max_client_events_per_second` in `decay_seconds`, of one connection
    pub client_events: Option<Rate>,
    /// `terminate_on_limit`: close who passes it, with 4301's text and 4100
    pub client_events_terminate: bool,
    /// `message_rate_limit`: all messages of one connection
    pub messages: Option<Rate>,
    pub messages_terminate: bool,
}

/// At most `count` in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub window: Duration,
}

/// What an app has switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppFeatures {
    /// `enable_client_messages`
    pub client_events: bool,
    /// `enable_user_authentication`: a connection that has neither signed in nor
    /// joined a private or presence channel by then is closed with 4009
    pub authorization_timeout: Option<Duration>,
    /// `enable_watchlist_events`
    pub watchlists: bool,
    /// `enable_subscription_count`: the event, not the attribute
    pub subscription_counts: bool,
    /// `cache_ttl_in_seconds`: how long a cache channel keeps its last event
    pub cache_ttl: Duration,
}

impl Default for AppFeatures {
    fn default() -> AppFeatures {
        AppFeatures {
            client_events: false,
            authorization_timeout: None,
            watchlists: false,
            subscription_counts: false,
            cache_ttl: limits::CACHE_TTL,
        }
    }
}

/// An origin that browsers may connect from: `https://a.com`, `a.com`, with `*`
/// for any characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(pub String);

/// Where the app's backend wants to hear of what happens (protocol.md 5).
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// `event_types`
    pub events: HookedEvents,
    /// `headers`: sent with every call, but never in place of ours
    pub headers: Vec<(String, String)>,
    /// `filter`: both, where given
    pub channel_prefix: Option<String>,
    pub channel_suffix: Option<String>,
}

/// By hand: headers, and the query of a URL, may be credentials.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("Webhook").field("url", &url).field("events", &self.events).finish_non_exhaustive()
    }
}

/// A set of the events of protocol.md 5. A script gets it as its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookedEvents(pub u8);

impl HookedEvents {
    /// Names, as in `event_types` and in the body of a webhook, by their bit.
    pub const NAMES: [&'static str; 7] = [
        "channel_occupied",
        "channel_vacated",
        "member_added",
        "member_removed",
        "client_event",
        "cache_miss",
        "subscription_count",
    ];

    pub const ALL: HookedEvents = HookedEvents((1 << Self::NAMES.len()) - 1);

    pub fn of(name: &str) -> Option<HookedEvents> {
        Self::NAMES.iter().position(|known| *known == name).map(|bit| HookedEvents(1 << bit))
    }

    #[must_use]
    pub fn union(self, other: HookedEvents) -> HookedEvents {
        HookedEvents(self.0 | other.0)
    }

    /// Whether the event of this name is among them.
    pub fn has(self, name: &str) -> bool {
        Self::of(name).is_some_and(|event| self.0 & event.0 != 0)
    }
}

impl Default for AppLimits {
    fn default() -> AppLimits {
        AppLimits {
            batch_events_max: limits::BATCH_EVENTS_MAX,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
            event_channels_max: limits::EVENT_CHANNELS_MAX,
            event_name_chars_max: limits::EVENT_NAME_CHARS_MAX,
            channel_name_chars_max: limits::CHANNEL_NAME_CHARS_MAX,
            batch_publications_max: limits::BATCH_PUBLICATIONS_MAX,
            presence_members_max: limits::PRESENCE_MEMBERS_MAX,
            presence_member_bytes_max: limits::PRESENCE_MEMBER_BYTES_MAX,
            connections_max: None,
        }
    }
}

impl AppLimits {
    /// The largest body that a valid batch of `events` events can have.
    ///
    /// It follows from the other limits: every character may be escaped to six
    /// bytes, and the names of all channels are bounded for the batch as a
    /// whole.
    pub fn body_bytes_max(&self, events: usize) -> usize {
        let per_event = limits::JSON_ESCAPE_FACTOR
            * (self.payload_bytes_max + self.event_name_chars_max * 4 + limits::TAGS_BYTES_MAX)
            + limits::EVENT_OVERHEAD_BYTES_MAX;
        let channels = (events * self.event_channels_max).min(self.batch_publications_max + events);
        let per_channel = limits::JSON_ESCAPE_FACTOR * self.channel_name_chars_max + 4;
        events * per_event + channels * per_channel + limits::EVENT_OVERHEAD_BYTES_MAX
    }
}
