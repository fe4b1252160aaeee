//! The table of all configuration keys. Each row has the type of a key, the setting in which its
//! value is stored, its default and its help. The check for unknown keys, the names of
//! environment variables, `--print-config` and the reference page derive from it.

use std::time::Duration;

use super::app_draft::AppDraft;
use super::raw::Raw;
use super::{Config, LogFormat};
use crate::app::{OriginPattern, Rate};
use crate::delta::Algorithm;
use crate::delta::channels::ChannelDeltas;
use crate::delta::settings::MarkerStyle;
use crate::limits::{self, DetectionTimes};
use crate::task::Task;

pub use super::kind::{AnyKind, Kind};

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Name in the file, with its section: `listen`, `apps.id`,
    /// `delta_compression.enabled`.
    pub path: &'static str,
    pub scope: Scope,
    /// In the notation of an environment variable.
    pub default: Option<&'static str>,
    /// A noun phrase with its unit, shown with the key in error messages and by
    /// `--print-config`.
    pub doc: &'static str,
}

/// The settings that a key is part of.
#[derive(Debug)]
pub enum Scope {
    Server(Kind<Config>),
    App(Kind<AppDraft>),
}

/// Sections of the file; `apps` is a list of tables, the others are tables.
pub const SECTIONS: &[&str] = &["apps", "delta_compression", "tag_filtering", TEST_SECTION];

/// The section of the settings for tests, which no page and no command lists.
pub const TEST_SECTION: &str = "test";

/// An event with every byte escaped must fit in a write buffer, otherwise it would
/// close the connection of every subscriber as too slow.
const PAYLOAD_KB_MAX: f64 = (limits::WRITE_BUFFER_BYTES_MAX / limits::JSON_ESCAPE_FACTOR / 1024) as f64;

const EVENT_NAME_CHARS_CEILING: u64 = 1_000;

/// The ceiling of events, of channels of an event, and of both multiplied: no setting permits a
/// batch that Redis could not publish in time.
const PUBLICATIONS_MAX: u64 = limits::BATCH_PUBLICATIONS_MAX as u64;

const _: () = assert!(
    PAYLOAD_KB_MAX as usize * 1024
        + 4 * EVENT_NAME_CHARS_CEILING as usize
        + limits::JSON_ESCAPE_FACTOR * limits::TAGS_BYTES_MAX
        <= limits::BATCH_BYTES_MAX,
    "the largest event can be published on one channel"
);

/// A client sends its member in one message, as JSON within JSON.
const PRESENCE_MEMBER_KB_MAX: f64 = (limits::MESSAGE_BYTES_MAX / 2 / 1024) as f64;

/// Above the capacity of any server, and small enough for arithmetic in every module.
const U32: u64 = u32::MAX as u64;

const DAY: u64 = 86_400;

/// Creates [`KEYS`] from rows: path, settings, default, kind, help.
macro_rules! keys {
    ($($path:literal: $scope:ident = $default:expr, $kind:ident $(($($argument:expr),*))?, $doc:literal;)*) => {
        pub const KEYS: &[Key] = &[$(Key {
            path: $path,
            scope: Scope::$scope(Kind::$kind $(($($argument),*))?),
            default: $default,
            doc: $doc,
        }),*];
    };
}

keys! {
    "listen": Server = Some("0.0.0.0:6001"), Address(|config, it| config.listen = it),
        "address of the HTTP API and of WebSocket connections";
    "metrics_listen": Server = Some("127.0.0.1:9601"), Address(|config, it| config.metrics_listen = it),
        "address of /metrics";
    "redis": Server = None, RedisUrl(|config, it| config.redis = Some(it)),
        "URL of the Redis that nodes share; without it, one node keeps its state in memory";
    "redis_prefix": Server = Some("fanfare"), Word("-_.:", |config, it| config.redis_prefix = it),
        "prefix of all Redis keys and topics";
    "path_prefix": Server = Some(""), PathPrefix(|config, it| config.path_prefix = it),
        "prefix of all paths, before /apps and /app";
    "trusted_proxies": Server = Some(""), Networks(|config, it| config.trusted_proxies = it),
        "networks of proxies whose X-Forwarded-For is trusted";
    "activity_timeout": Server = Some("120"),
        Count(1, DAY, |config, it| config.activity_timeout = Duration::from_secs(it)),
        "seconds of silence before a client pings";
    "keep_alive_timeout": Server = Some("75"),
        Count(1, DAY, |config, it| config.keep_alive_timeout = Duration::from_secs(it)),
        "seconds until an idle HTTP connection is closed";
    "max_http_connections": Server = Some("16384"),
        Count(1, U32, |config, it| config.http_connections_max = size(it)),
        "HTTP connections in all, and WebSockets that no app has admitted yet";
    "max_http_connections_per_address": Server = Some("1024"),
        Count(1, U32, |config, it| config.http_connections_per_address_max = size(it)),
        "HTTP connections of one client address that are open for more than 5 s";
    "drain_delay": Server = Some("2"),
        Number(0.0, 3600.0, |config, it| config.drain_delay = Duration::from_secs_f64(it)),
        "seconds from /ready failing to the first closed connection";
    "drain_window": Server = Some("10"),
        Number(0.0, 3600.0, |config, it| config.drain_window = Duration::from_secs_f64(it)),
        "seconds over which a drain closes connections";
    "log": Server = Some("info"), LogFilter(|config, it| config.log = it),
        "log filter, such as `info` or `info,fanfare=debug`";
    "log_format": Server = None,
        Choice(&["text", "json"], |config, it| config.log_format = Some(log_format(it))),
        "format of log lines; text on a terminal, otherwise json";

    "test.speedup": Server = Some("1"),
        Count(1, 16, |config, it| config.detection_times = DetectionTimes::divided_by(it as u32)),
        "divisor of the times after which a node notices a fault";
    "test.history_age": Server = Some("60"),
        Number(0.001, 3600.0, |config, it| config.history_age = Duration::from_secs_f64(it)),
        "seconds in which the memory backend keeps entries";
    "test.panic": Server = None, Choice(Task::NAMES, |config, it| config.test_panic = Some(it)),
        "a task that panics as soon as it starts";

    "apps.id": App = None, Word("-_", |draft, it| draft.app.id = it.into()),
        "app id, part of the path of API calls; digits only for Pusher's Python library";
    // Part of a URL path and, before a colon, of a subscription's `auth`.
    "apps.key": App = None, Word("-_.~@=,;", |draft, it| draft.app.key = it),
        "public app key that clients connect with";
    "apps.secret": App = None, Secret(|draft, it| draft.secret = Some(it)),
        "secret that signs API calls and subscriptions";
    "apps.secrets": App = None, Secrets(|draft, it| draft.further_secrets = it),
        "further valid secrets, during a rotation";
    "apps.enabled": App = Some("true"), Flag(|draft, it| draft.app.enabled = it),
        "acceptance of connections and API calls of the app";
    "apps.max_event_batch_size": App = Some("10"),
        Count(1, PUBLICATIONS_MAX, |draft, it| draft.app.limits.batch_events_max = size(it)),
        "events per batch";
    "apps.max_event_payload_in_kb": App = Some("10"),
        Number(0.001, PAYLOAD_KB_MAX, |draft, it| draft.app.limits.payload_bytes_max = bytes_of_kb(it)),
        "kilobytes of an event's data";
    "apps.max_event_channels_at_once": App = Some("100"),
        Count(1, PUBLICATIONS_MAX, |draft, it| draft.app.limits.event_channels_max = size(it)),
        "channels per event";
    "apps.max_event_name_length": App = Some("200"),
        Count(1, EVENT_NAME_CHARS_CEILING, |draft, it| draft.app.limits.event_name_chars_max = size(it)),
        "characters per event name";
    "apps.max_channel_name_length": App = Some("200"),
        Count(1, 1_000, |draft, it| draft.app.limits.channel_name_chars_max = size(it)),
        "characters per channel name";
    "apps.max_batch_publications": App = Some("1000"),
        Count(1, PUBLICATIONS_MAX, |draft, it| draft.app.limits.batch_publications_max = size(it)),
        "events times channels per batch";
    "apps.max_connections": App = Some("0"), Limit(U32, |draft, it| draft.app.limits.connections_max = it),
        "concurrent connections of the app, over all nodes";
    "apps.max_subscriptions": App = Some("1000"),
        Count(1, limits::SOCKET_SUBSCRIPTIONS_CEILING,
            |draft, it| draft.app.limits.subscriptions_max = size(it)),
        "subscriptions of one connection";
    "apps.max_occupied_channels": App = Some("100000"),
        Count(1, limits::OCCUPIED_CHANNELS_CEILING, |draft, it| draft.app.limits.occupied_channels_max = it),
        "channels with subscriptions, over all nodes";
    "apps.enable_client_messages": App = Some("false"),
        Flag(|draft, it| draft.app.features.client_events = it),
        "client events";
    "apps.max_client_events_per_second": App = Some("10"),
        Limit(1_000_000, |draft, it| draft.client_events = it),
        "client events per connection in decay_seconds";
    "apps.decay_seconds": App = Some("1"),
        Count(1, DAY, |draft, it| draft.client_event_window = Duration::from_secs(it)),
        "seconds in the window of max_client_events_per_second";
    "apps.terminate_on_limit": App = Some("false"),
        Flag(|draft, it| draft.app.rates.client_events_terminate = it),
        "close of connections above max_client_events_per_second";
    "apps.message_rate_limit": App = Some(""), MessageRate(|draft, it| draft.message_rate = it),
        "rate limit of all messages of a connection";
    "apps.max_backend_events_per_second": App = Some("0"),
        Limit(U32, |draft, it| draft.app.rates.backend_events = it.map(per_second)),
        "events times channels per second, published over HTTP";
    "apps.max_read_requests_per_second": App = Some("0"),
        Limit(U32, |draft, it| draft.app.rates.read_requests = it.map(per_second)),
        "queries per second over HTTP";
    "apps.max_presence_members_per_channel": App = Some("100"),
        Count(1, limits::PRESENCE_MEMBERS_CEILING,
            |draft, it| draft.app.limits.presence_members_max = size(it)),
        "users per presence channel, over all nodes";
    "apps.max_presence_member_size_in_kb": App = Some("2"),
        Number(0.001, PRESENCE_MEMBER_KB_MAX,
            |draft, it| draft.app.limits.presence_member_bytes_max = bytes_of_kb(it)),
        "kilobytes of a presence member's user_info";
    "apps.enable_user_authentication": App = Some("false"),
        Flag(|draft, it| draft.requires_authorization = it),
        "close of connections without a sign-in or authorised subscription";
    "apps.user_authentication_timeout": App = Some("30"),
        Count(1, 3_600, |draft, it| draft.authorization_timeout = Duration::from_secs(it)),
        "seconds until a sign-in or an authorised subscription is required";
    "apps.enable_watchlist_events": App = Some("false"),
        Flag(|draft, it| draft.app.features.watchlists = it),
        "online status of watched users, sent to signed-in users";
    "apps.enable_subscription_count": App = Some("false"),
        Flag(|draft, it| draft.app.features.subscription_counts = it),
        "subscription count events, sent to subscribers";
    "apps.cache_ttl_in_seconds": App = Some("1800"),
        Count(1, DAY, |draft, it| draft.app.features.cache_ttl = Duration::from_secs(it)),
        "seconds for which a cache channel keeps its last event";
    "apps.allowed_origins": App = Some("*"),
        Origins(|draft, it| draft.app.origins = it.into_iter().map(OriginPattern).collect()),
        "origins of pages that may connect";
    "apps.channel_delta_compression": App = Some(""),
        ChannelDeltas(|draft, it| draft.app.deltas = ChannelDeltas::new(it)),
        "delta settings by channel pattern";
    "apps.channel_namespaces": App = None, Unbuilt,
        "channel namespaces";
    "apps.idempotency": App = None, Unbuilt,
        "idempotent publish requests";
    "apps.webhooks": App = Some(""), Webhooks(|draft, it| draft.app.webhooks = it),
        "endpoints that receive webhook events of the app";

    "delta_compression.enabled": Server = Some("true"), Flag(|config, it| config.delta.enabled = it),
        "deltas for clients that enable them";
    "delta_compression.algorithm": Server = Some("fossil"),
        Choice(&["fossil", "xdelta3", "vcdiff"], |config, it| config.delta.algorithm = algorithm(it)),
        "delta format for clients without a preference";
    "delta_compression.markers": Server = Some("underscore"),
        Choice(&["underscore", "plain"], |config, it| config.delta.markers = markers(it)),
        "names of the markers in full events: __delta_seq, which clients remove, or sequence";
    "delta_compression.full_message_interval": Server = Some("10"),
        Count(0, 1_000_000, |config, it| config.delta.full_message_interval = it),
        "deltas between two events sent in full; 0 for no limit";
    "delta_compression.min_message_size": Server = Some("100"),
        Count(0, 1_000_000_000, |config, it| config.delta.min_message_bytes = size(it)),
        "bytes of an event's base text below which it is sent in full";
    "delta_compression.min_compression_ratio": Server = Some("0.9"),
        Number(0.0, 1.0, |config, it| config.delta.compression_ratio_max = it),
        "largest size of a delta frame, as a fraction of the full frame";
    "delta_compression.max_state_age_secs": Server = Some("300"),
        Count(1, DAY, |config, it| config.delta.base_age_max = Duration::from_secs(it)),
        "seconds until a base is too old for a delta";
    "delta_compression.omit_delta_algorithm": Server = Some("false"),
        Flag(|config, it| config.delta.omit_algorithm = it),
        "omission of `algorithm` from delta frames in the server's own format";
    "delta_compression.refused_clients": Server = Some("python/<=2.2"),
        ClientPatterns(|config, it| config.delta.refused_clients = it),
        "clients that never receive deltas, as client/<=version";
    "delta_compression.max_conflation_states_per_channel": Server = Some("100"),
        Count(1, limits::CHAINS_CEILING, |config, it| config.delta.keys_max = size(it)),
        "conflation keys per channel whose events can be sent as deltas";
    "delta_compression.conflation_key_path": Server = None,
        KeyPath(|config, it| config.delta.conflation_key = it),
        "path of the conflation key in an event's data, such as `asset.symbol`";
    "delta_compression.cache_sync": Server = Some("false"), Flag(|config, it| config.delta.cache_sync = it),
        "initial bases for new subscribers";
    "delta_compression.max_channel_states_per_socket": Server = None, Moot,
        "without effect: the delta state of a subscription is a few bytes";
    "delta_compression.cluster_coordination": Server = None, Moot,
        "without effect: sequence numbers select the full events, equally on every node";

    "tag_filtering.enabled": Server = Some("false"), Flag(|config, it| config.tag_filtering = it),
        "filters of subscriptions by tags";
    "tag_filtering.enable_tags": Server = Some("true"), Flag(|config, it| config.delta.shows_tags = it),
        "tags in delivered events";
}

pub const LISTEN: &Key = key("listen");
pub const METRICS_LISTEN: &Key = key("metrics_listen");
pub const REDIS: &Key = key("redis");
pub(super) const PATH_PREFIX: &Key = key("path_prefix");
pub(super) const REDIS_PREFIX: &Key = key("redis_prefix");
pub(super) const LOG: &Key = key("log");
pub const ID: &Key = key("apps.id");
pub const KEY: &Key = key("apps.key");
pub const SECRET: &Key = key("apps.secret");
pub(super) const SECRETS: &Key = key("apps.secrets");
pub const ALLOWED_ORIGINS: &Key = key("apps.allowed_origins");
pub const CACHE_TTL: &Key = key("apps.cache_ttl_in_seconds");
pub const ENABLE_CLIENT_MESSAGES: &Key = key("apps.enable_client_messages");
pub const MAX_CLIENT_EVENTS: &Key = key("apps.max_client_events_per_second");
pub const MAX_CONNECTIONS: &Key = key("apps.max_connections");
pub const MAX_EVENT_PAYLOAD: &Key = key("apps.max_event_payload_in_kb");
pub const MESSAGE_RATE_LIMIT: &Key = key("apps.message_rate_limit");
pub const WEBHOOKS: &Key = key("apps.webhooks");

/// Called at compile time, so that a path without a key is an error of the compiler.
const fn key(path: &str) -> &'static Key {
    let mut index = 0;
    while !is_equal(KEYS[index].path.as_bytes(), path.as_bytes()) {
        index += 1;
    }
    &KEYS[index]
}

/// `==` cannot be used at compile time.
const fn is_equal(a: &[u8], b: &[u8]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([a, rest_of_a @ ..], [b, rest_of_b @ ..]) => *a == *b && is_equal(rest_of_a, rest_of_b),
        _ => false,
    }
}

fn size(count: u64) -> usize {
    usize::try_from(count).expect("the table of keys bounds it below usize::MAX")
}

/// The key's range keeps the number positive and far below the largest integer that a
/// float represents exactly.
fn bytes_of_kb(kilobytes: f64) -> usize {
    (kilobytes * 1024.0) as usize
}

fn per_second(count: u64) -> Rate {
    Rate { count, window: Duration::from_secs(1) }
}

fn algorithm(name: &str) -> Algorithm {
    Algorithm::parse(name).expect("the choices are names of algorithms")
}

fn log_format(name: &str) -> LogFormat {
    if name == "json" { LogFormat::Json } else { LogFormat::Text }
}

fn markers(name: &str) -> MarkerStyle {
    if name == "plain" { MarkerStyle::Plain } else { MarkerStyle::Underscore }
}

impl Key {
    pub fn kind(&self) -> &dyn AnyKind {
        match &self.scope {
            Scope::Server(kind) => kind,
            Scope::App(kind) => kind,
        }
    }

    /// An invalid value as shown in error messages, without secrets.
    pub(super) fn shown(&self, raw: &Raw) -> String {
        match &self.scope {
            Scope::Server(kind) => kind.shown(raw),
            Scope::App(kind) => kind.shown(raw),
        }
    }

    /// Whether the key has an effect: neither moot nor unbuilt.
    pub fn matters(&self) -> bool {
        !self.kind().is_moot() && !self.kind().is_unbuilt()
    }

    /// `""` for a top-level key.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The name of the environment variable. The environment can configure only one
    /// app, so these names have no index.
    pub fn variable(&self) -> String {
        let name = self.name().to_ascii_uppercase();
        match self.section() {
            "" => format!("FANFARE_{name}"),
            "apps" => format!("FANFARE_APP_{name}"),
            section => format!("FANFARE_{}__{name}", section.to_ascii_uppercase()),
        }
    }

    /// Whether a variable of this name sets the key.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.variable() == name || self.file_variable().as_deref() == Some(name)
    }

    /// The name of the variable with the path of a file that contains the value, for
    /// values that must not be in an environment which others can read.
    pub fn file_variable(&self) -> Option<String> {
        self.kind().is_secret().then(|| self.variable() + "_FILE")
    }
}

/// The index of `path` in [`KEYS`].
pub fn position(path: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.path == path)
}

/// The key or section most similar to `name` in `section`, for error messages.
pub fn nearest_key(section: &str, name: &str) -> String {
    let keys = KEYS.iter().map(|key| {
        // The right name in the wrong section is suggested if no key of this section is
        // as similar.
        let elsewhere = if key.section() == section { 0.0 } else { 0.05 };
        (similarity(name, key.name()) - elsewhere, key.path)
    });
    let sections = SECTIONS.iter().filter(|_| section.is_empty()).map(|it| (similarity(name, it), *it));
    best(keys.chain(sections)).to_owned()
}

/// The variable most similar to `name`, for error messages.
pub fn nearest_variable(name: &str) -> String {
    let variables = KEYS.iter().flat_map(|key| [Some(key.variable()), key.file_variable()]).flatten();
    let variables = variables.chain([CONFIG_VARIABLE.to_owned()]);
    // The common prefix would make all of them similar.
    best(variables.map(|it| (similarity(bare(name), bare(&it)), it)))
}

/// The variable with the path of the configuration file. It is not a key of the file.
pub const CONFIG_VARIABLE: &str = "FANFARE_CONFIG";
/// Prefix of the server's variables. An unknown one with this prefix is an error.
pub const VARIABLE_PREFIX: &str = "FANFARE_";

fn bare(variable: &str) -> &str {
    variable.strip_prefix(VARIABLE_PREFIX).unwrap_or(variable)
}

fn best<T>(scored: impl Iterator<Item = (f64, T)>) -> T {
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).expect("the table is not empty").1
}

/// Similarity from 0 to 1. `maxEventBatchSize`, `max-event-batch-size` and
/// `MAX_EVENT_BATCH_SIZE` are equal: case and separators do not count.
fn similarity(a: &str, b: &str) -> f64 {
    let fold = |text: &str| text.replace(['_', '-', '.'], "").to_ascii_lowercase();
    strsim::normalized_damerau_levenshtein(&fold(a), &fold(b))
}
