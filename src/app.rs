//! An app: one tenant with its key, secret and limits.

use std::sync::Arc;
use std::time::Duration;

use crate::delta::channels::ChannelDeltas;
use crate::limits;
use crate::metrics::apps::AppMetrics;

/// One tenant. Its secret authorises backends to publish; its key authorises clients to
/// connect.
#[derive(Debug)]
pub struct App {
    /// Part of the path of every API call. Most client libraries expect digits only.
    pub id: Arc<str>,
    /// Public: browsers connect to `/app/{key}`.
    pub key: String,
    /// Each of them verifies requests and subscriptions. At least one; more during a
    /// rotation, the newest first. The server signs webhooks with the oldest, the last.
    pub secrets: Vec<Secret>,
    /// For a disabled app, API calls return 403 and sockets are closed with 4003.
    pub enabled: bool,
    pub limits: AppLimits,
    pub rates: AppRates,
    pub features: AppFeatures,
    /// `allowed_origins`: an empty list allows all.
    pub origins: Vec<OriginPattern>,
    pub webhooks: Vec<Webhook>,
    /// `channel_delta_compression`: delta settings by channel pattern.
    pub deltas: ChannelDeltas,
    /// Shared by all versions of the app's settings.
    pub metrics: Arc<AppMetrics>,
}

impl App {
    /// The event types that at least one webhook of the app is configured for.
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

    /// Reads a secret, with one rule for the file, variables, secret files and standard input. Line
    /// breaks at the end are removed: editors and `echo` add one. Refuses an empty text, quotes
    /// around it, which some programs keep and others remove, white space around it, and control
    /// characters.
    pub fn parse(text: &str) -> Option<Secret> {
        let text = text.trim_end_matches(['\r', '\n']);
        let is_quoted = ['"', '\''].iter().any(|quote| text.starts_with(*quote) && text.ends_with(*quote));
        let is_plain = text == text.trim() && !text.contains(char::is_control);
        (!text.is_empty() && is_plain && !is_quoted).then(|| Secret::new(text))
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

/// Sizes and counts that an app may use (protocol.md 1.9). The configuration keys are
/// Sockudo's names.
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
    /// `max_subscriptions`: of one connection
    pub subscriptions_max: usize,
    /// `max_occupied_channels`, over all nodes, and of one node
    pub occupied_channels_max: u64,
}

/// Rate limits of an app (protocol.md 1.8, 6). `None` is unlimited.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AppRates {
    /// `max_backend_events_per_second`: an event counts once per channel
    pub backend_events: Option<Rate>,
    /// `max_read_requests_per_second`
    pub read_requests: Option<Rate>,
    /// `max_client_events_per_second` in `decay_seconds`, of one connection
    pub client_events: Option<Rate>,
    /// `terminate_on_limit`: close a connection above its limit with 4100 and the text of
    /// error 4301
    pub client_events_terminate: bool,
    /// `message_rate_limit`: all messages of one connection
    pub messages: Option<Rate>,
    /// `terminate_on_limit` within `message_rate_limit`
    pub messages_terminate: bool,
}

/// At most `count` events or requests in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u64,
    pub window: Duration,
}

/// Optional features of an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppFeatures {
    /// `enable_client_messages`
    pub client_events: bool,
    /// `enable_user_authentication`: time after which a connection without a sign-in and
    /// without a private or presence subscription is closed with 4009
    pub authorization_timeout: Option<Duration>,
    /// `enable_watchlist_events`
    pub watchlists: bool,
    /// `enable_subscription_count`: the event; the `info` attribute is always available
    pub subscription_counts: bool,
    /// `cache_ttl_in_seconds`: time for which a cache channel keeps its last event
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

/// An allowed origin of browsers: `https://a.com` or `a.com`, with `*` for any
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(pub String);

/// An endpoint of the app's backend that receives webhook events (protocol.md 5).
#[derive(Clone, PartialEq, Eq)]
pub struct Webhook {
    pub url: String,
    /// `event_types`
    pub events: HookedEvents,
    /// `headers`: sent with every call; they cannot replace the server's own headers
    pub headers: Vec<(String, String)>,
    /// `filter`: a channel has to match both, where given
    pub channel_prefix: Option<String>,
    pub channel_suffix: Option<String>,
}

impl Webhook {
    /// Host and port of the URL. All output names an endpoint by them, because path and query
    /// may be credentials.
    pub fn host(&self) -> &str {
        let rest = self.url.split_once("://").map_or(&*self.url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        authority.rsplit('@').next().unwrap_or_default()
    }
}

/// Implemented by hand: headers, and path and query of a URL, may be credentials.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook")
            .field("host", &self.host())
            .field("events", &self.events)
            .finish_non_exhaustive()
    }
}

/// A set of event types of protocol.md 5, one bit each. Scripts receive it as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HookedEvents(pub u8);

impl HookedEvents {
    /// Names as in `event_types` and in the body of a webhook, indexed by bit.
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

    /// Whether the set contains the event type of this name.
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
            subscriptions_max: limits::SOCKET_SUBSCRIPTIONS_MAX,
            occupied_channels_max: limits::OCCUPIED_CHANNELS_MAX,
        }
    }
}

impl AppLimits {
    /// The largest body, in bytes, of a valid batch of `events` events.
    ///
    /// It follows from the other limits: a character may be escaped to six bytes,
    /// [`limits::BATCH_BYTES_MAX`] bounds the events of the whole batch, and
    /// [`AppLimits::batch_publications_max`] its channel names.
    pub fn body_bytes_max(&self, events: usize) -> usize {
        let event_bytes = self.payload_bytes_max + self.event_name_chars_max * 4 + limits::TAGS_BYTES_MAX;
        let unescaped = (events * event_bytes).min(limits::BATCH_BYTES_MAX);
        let overhead = (events + 1) * limits::EVENT_OVERHEAD_BYTES_MAX;
        let channels = (events * self.event_channels_max).min(self.batch_publications_max + events);
        let per_channel = limits::JSON_ESCAPE_FACTOR * self.channel_name_chars_max + 4;
        limits::JSON_ESCAPE_FACTOR * unescaped + channels * per_channel + overhead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_ends_without_line_breaks_and_has_no_quotes_around_it() {
        for (text, secret) in [
            ("hush", Some("hush")),
            ("hush\n", Some("hush")),
            ("hush\r\n\n", Some("hush")),
            ("it's \"so\"", Some("it's \"so\"")),
            ("\"hush\"", None),
            ("'hush'\n", None),
            ("\"", None),
            (" hush", None),
            ("hush \n", None),
            ("hu\nsh", None),
            ("hu\u{1b}sh", None),
            ("", None),
            ("\n", None),
        ] {
            assert_eq!(Secret::parse(text), secret.map(Secret::new), "{text:?}");
        }
    }
}
