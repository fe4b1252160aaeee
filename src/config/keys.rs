//! The table of all configuration keys. The check for unknown keys, the names of
//! environment variables, the defaults and `--print-config` derive from it.

use crate::limits;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// Name in the file, with its section: `listen`, `apps.id`,
    /// `delta_compression.enabled`.
    pub path: &'static str,
    pub kind: Kind,
    /// In the notation of an environment variable.
    pub default: Option<&'static str>,
    /// A noun phrase with its unit, shown with the key in error messages and by
    /// `--print-config`.
    pub doc: &'static str,
}

/// The type of a key: its valid values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `HOST:PORT`
    Address,
    /// ASCII letters, digits and these characters.
    Word(&'static str),
    /// A non-empty text; never shown.
    Secret,
    /// A list of secrets; never shown.
    Secrets,
    /// Shown without its password.
    RedisUrl,
    Flag,
    /// A whole number in this range, bounds included.
    Count(u64, u64),
    /// 1 to this number, or no limit: 0, or -1 as in soketi. Parsed as a count, in
    /// which 0 is no limit.
    Limit(u64),
    /// A number in this range, bounds included, that may have a fraction.
    Number(f64, f64),
    /// One of these, in any case.
    Choice(&'static [&'static str]),
    /// A list of `client/<=version`.
    ClientPatterns,
    LogFilter,
    /// Channel patterns and their delta settings.
    ChannelDeltas,
    /// Path of a member within an event's data: `symbol`, `asset.id`.
    KeyPath,
    /// A list of origins such as `https://*.example.com`; `*` is all.
    Origins,
    /// A list of addresses and CIDRs.
    Networks,
    /// Empty, or `/path` without a trailing slash.
    PathPrefix,
    /// A table: the rate limit of one connection's messages.
    MessageRate,
    /// A list of tables.
    Webhooks,
    /// A key of Sockudo for something that needs no setting here. Any value is accepted
    /// and has no effect.
    Moot,
    /// A key of Sockudo for a feature that is not implemented yet. Only values that
    /// disable it are accepted: false, 0, empty, or a table with `enabled = false`.
    Unbuilt,
}

/// Sections of the file; `apps` is a list of tables, the others are tables.
pub const SECTIONS: &[&str] = &["apps", "delta_compression", "tag_filtering"];

/// An event with every byte escaped must fit in a write buffer, otherwise it would
/// close the connection of every subscriber as too slow.
const PAYLOAD_KB_MAX: f64 = (limits::WRITE_BUFFER_BYTES_MAX / limits::JSON_ESCAPE_FACTOR / 1024) as f64;

/// A client sends its member in one message, as JSON within JSON.
const PRESENCE_MEMBER_KB_MAX: f64 = (limits::MESSAGE_BYTES_MAX / 2 / 1024) as f64;

/// Above the capacity of any server, and small enough for arithmetic in every module.
const U32: u64 = u32::MAX as u64;

const ID: Kind = Kind::Word("-_");
/// Part of a URL path and, before a colon, of a subscription's `auth`.
const APP_KEY: Kind = Kind::Word("-_.~@=,;");
const REDIS_PREFIX: Kind = Kind::Word("-_.:");
const DAY: u64 = 86_400;

pub const KEYS: &[Key] = &[
    key(
        "listen",
        Kind::Address,
        Some("0.0.0.0:6001"),
        "address of the HTTP API and of WebSocket connections",
    ),
    key("metrics_listen", Kind::Address, Some("127.0.0.1:9601"), "address of /metrics"),
    key(
        "redis",
        Kind::RedisUrl,
        None,
        "URL of the Redis that nodes share; without it, one node keeps its state in memory",
    ),
    key("redis_prefix", REDIS_PREFIX, Some("fanfare"), "prefix of all Redis keys and topics"),
    key("path_prefix", Kind::PathPrefix, Some(""), "prefix of all paths, before /apps and /app"),
    key("trusted_proxies", Kind::Networks, Some(""), "networks of proxies whose X-Forwarded-For is trusted"),
    key("activity_timeout", Kind::Count(1, DAY), Some("120"), "seconds of silence before a client pings"),
    key(
        "keep_alive_timeout",
        Kind::Count(1, DAY),
        Some("75"),
        "seconds until an idle HTTP connection is closed",
    ),
    key(
        "drain_delay",
        Kind::Number(0.0, 3600.0),
        Some("2"),
        "seconds from /ready failing to the first closed connection",
    ),
    key(
        "drain_window",
        Kind::Number(0.0, 3600.0),
        Some("10"),
        "seconds over which a drain closes connections",
    ),
    key("log", Kind::LogFilter, Some("info"), "log filter, such as `info` or `info,fanfare=debug`"),
    key(
        "log_format",
        Kind::Choice(&["text", "json"]),
        None,
        "format of log lines; text on a terminal, otherwise json",
    ),
    key(
        "apps.id",
        ID,
        None,
        "app id, part of the path of API calls; digits only for Pusher's Python library",
    ),
    key("apps.key", APP_KEY, None, "public app key that clients connect with"),
    key("apps.secret", Kind::Secret, None, "secret that signs API calls and subscriptions"),
    key("apps.secrets", Kind::Secrets, None, "further valid secrets, during a rotation"),
    key("apps.enabled", Kind::Flag, Some("true"), "acceptance of connections and API calls of the app"),
    key("apps.max_event_batch_size", Kind::Count(1, 10_000), Some("10"), "events per batch"),
    key(
        "apps.max_event_payload_in_kb",
        Kind::Number(0.001, PAYLOAD_KB_MAX),
        Some("10"),
        "kilobytes of an event's data",
    ),
    key("apps.max_event_channels_at_once", Kind::Count(1, 10_000), Some("100"), "channels per event"),
    key("apps.max_event_name_length", Kind::Count(1, 1_000), Some("200"), "characters per event name"),
    key("apps.max_channel_name_length", Kind::Count(1, 1_000), Some("200"), "characters per channel name"),
    key(
        "apps.max_batch_publications",
        Kind::Count(1, 100_000),
        Some("10000"),
        "events times channels per batch",
    ),
    key(
        "apps.max_connections",
        Kind::Limit(U32),
        Some("0"),
        "concurrent connections of the app, over all nodes",
    ),
    key("apps.enable_client_messages", Kind::Flag, Some("false"), "client events"),
    key(
        "apps.max_client_events_per_second",
        Kind::Limit(1_000_000),
        Some("10"),
        "client events per connection in decay_seconds",
    ),
    key(
        "apps.decay_seconds",
        Kind::Count(1, DAY),
        Some("1"),
        "seconds in the window of max_client_events_per_second",
    ),
    key(
        "apps.terminate_on_limit",
        Kind::Flag,
        Some("false"),
        "close of connections above max_client_events_per_second",
    ),
    key("apps.message_rate_limit", Kind::MessageRate, Some(""), "rate limit of all messages of a connection"),
    key(
        "apps.max_backend_events_per_second",
        Kind::Limit(U32),
        Some("0"),
        "events times channels per second, published over HTTP",
    ),
    key("apps.max_read_requests_per_second", Kind::Limit(U32), Some("0"), "queries per second over HTTP"),
    key(
        "apps.max_presence_members_per_channel",
        Kind::Count(1, limits::PRESENCE_MEMBERS_CEILING),
        Some("100"),
        "users per presence channel, over all nodes",
    ),
    key(
        "apps.max_presence_member_size_in_kb",
        Kind::Number(0.001, PRESENCE_MEMBER_KB_MAX),
        Some("2"),
        "kilobytes of a presence member's user_info",
    ),
    key(
        "apps.enable_user_authentication",
        Kind::Flag,
        Some("false"),
        "close of connections without a sign-in or authorised subscription",
    ),
    key(
        "apps.user_authentication_timeout",
        Kind::Count(1, 3_600),
        Some("30"),
        "seconds until a sign-in or an authorised subscription is required",
    ),
    key(
        "apps.enable_watchlist_events",
        Kind::Flag,
        Some("false"),
        "online status of watched users, sent to signed-in users",
    ),
    key(
        "apps.enable_subscription_count",
        Kind::Flag,
        Some("false"),
        "subscription count events, sent to subscribers",
    ),
    key(
        "apps.cache_ttl_in_seconds",
        Kind::Count(1, DAY),
        Some("1800"),
        "seconds for which a cache channel keeps its last event",
    ),
    key("apps.allowed_origins", Kind::Origins, Some("*"), "origins of pages that may connect"),
    key("apps.channel_delta_compression", Kind::ChannelDeltas, Some(""), "delta settings by channel pattern"),
    key("apps.channel_namespaces", Kind::Unbuilt, None, "channel namespaces"),
    key("apps.idempotency", Kind::Unbuilt, None, "idempotent publish requests"),
    key("apps.webhooks", Kind::Webhooks, Some(""), "endpoints that receive webhook events of the app"),
    key("delta_compression.enabled", Kind::Flag, Some("true"), "deltas for clients that enable them"),
    key(
        "delta_compression.algorithm",
        Kind::Choice(&["fossil", "xdelta3", "vcdiff"]),
        Some("fossil"),
        "delta format for clients without a preference",
    ),
    key(
        "delta_compression.markers",
        Kind::Choice(&["underscore", "plain"]),
        Some("underscore"),
        "names of the markers in full events: __delta_seq, which clients remove, or sequence",
    ),
    key(
        "delta_compression.full_message_interval",
        Kind::Count(0, 1_000_000),
        Some("10"),
        "deltas between two events sent in full; 0 for no limit",
    ),
    key(
        "delta_compression.min_message_size",
        Kind::Count(0, 1_000_000_000),
        Some("100"),
        "bytes of an event's base text below which it is sent in full",
    ),
    key(
        "delta_compression.min_compression_ratio",
        Kind::Number(0.0, 1.0),
        Some("0.9"),
        "largest size of a delta frame, as a fraction of the full frame",
    ),
    key(
        "delta_compression.max_state_age_secs",
        Kind::Count(1, DAY),
        Some("300"),
        "seconds until a base is too old for a delta",
    ),
    key(
        "delta_compression.omit_delta_algorithm",
        Kind::Flag,
        Some("false"),
        "omission of `algorithm` from delta frames in the server's own format",
    ),
    key(
        "delta_compression.refused_clients",
        Kind::ClientPatterns,
        Some("python/<=2.2"),
        "clients that never receive deltas, as client/<=version",
    ),
    key(
        "delta_compression.max_conflation_states_per_channel",
        Kind::Count(1, limits::CHAINS_CEILING),
        Some("100"),
        "conflation keys per channel whose events can be sent as deltas",
    ),
    key(
        "delta_compression.conflation_key_path",
        Kind::KeyPath,
        None,
        "path of the conflation key in an event's data, such as `asset.symbol`",
    ),
    key("delta_compression.cache_sync", Kind::Flag, Some("false"), "initial bases for new subscribers"),
    key(
        "delta_compression.max_channel_states_per_socket",
        Kind::Moot,
        None,
        "without effect: the delta state of a subscription is a few bytes",
    ),
    key(
        "delta_compression.cluster_coordination",
        Kind::Moot,
        None,
        "without effect: sequence numbers select the full events, equally on every node",
    ),
    key("tag_filtering.enabled", Kind::Flag, Some("false"), "filters of subscriptions by tags"),
    key("tag_filtering.enable_tags", Kind::Flag, Some("true"), "tags in delivered events"),
];

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

impl Key {
    /// Whether the key has an effect: neither moot nor unbuilt.
    pub fn matters(&self) -> bool {
        !matches!(self.kind, Kind::Moot | Kind::Unbuilt)
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

    /// The name of the variable with the path of a file that contains the value, for
    /// values that must not be in an environment which others can read.
    pub fn file_variable(&self) -> Option<String> {
        matches!(self.kind, Kind::Secret | Kind::Secrets | Kind::RedisUrl).then(|| self.variable() + "_FILE")
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
