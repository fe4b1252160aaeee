//! Every key that can be set: the one table behind the check for unknown keys,
//! the names of environment variables, the defaults and `--print-config`.

use crate::limits;

/// One key of the configuration.
#[derive(Debug)]
pub struct Key {
    /// As in the file, with its section: `listen`, `apps.id`,
    /// `delta_compression.enabled`.
    pub path: &'static str,
    pub kind: Kind,
    /// As one would write it in an environment variable.
    pub default: Option<&'static str>,
    /// One clause, shown beside the key in messages.
    pub doc: &'static str,
}

/// What may be written for a key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// `HOST:PORT`
    Address,
    /// ASCII letters, digits and these characters.
    Word(&'static str),
    /// Any text but none at all; never shown.
    Secret,
    /// Several, never shown.
    Secrets,
    /// Shown without its password.
    RedisUrl,
    Flag,
    Count(u64, u64),
    /// 1 to this, or no limit: 0, and -1 as soketi writes it. Read as a count,
    /// where 0 is no limit.
    Limit(u64),
    /// May have a fraction.
    Number(f64, f64),
    /// One of these, in any case.
    Choice(&'static [&'static str]),
    /// `client/<=version`, several
    ClientPatterns,
    LogFilter,
    /// Channel patterns and what deltas are there.
    ChannelDeltas,
    /// Where in an event's data something stands: `symbol`, `asset.id`.
    KeyPath,
    /// `https://*.example.com` and its like, several; `*` is all.
    Origins,
    /// Addresses and CIDRs, several.
    Networks,
    /// Nothing, or `/path` without a slash at its end.
    PathPrefix,
    /// A table of what one connection may send.
    MessageRate,
    /// A list of tables.
    Webhooks,
    /// Known from Sockudo, and about what there is no need to set here: any value
    /// is taken, and none changes anything.
    Moot,
    /// Known from Sockudo, and not built yet: refused but for false, 0, nothing, or
    /// a table whose `enabled` is false.
    Unbuilt,
}

/// Sections of the file; `apps` is a list of tables, the others are tables.
pub const SECTIONS: &[&str] = &["apps", "delta_compression", "tag_filtering"];

/// An event escaped to its worst must still fit a socket's outbox, or it would
/// close every subscriber as too slow.
const PAYLOAD_KB_MAX: f64 = (limits::WRITE_BUFFER_BYTES_MAX / limits::JSON_ESCAPE_FACTOR / 1024) as f64;

/// A member arrives in one message of its client, as JSON within JSON.
const PRESENCE_MEMBER_KB_MAX: f64 = (limits::MESSAGE_BYTES_MAX / 2 / 1024) as f64;

/// More than any server holds; a number that every part can still count with.
const U32: u64 = u32::MAX as u64;

const ID: Kind = Kind::Word("-_");
/// Stands in a URL path and, before a colon, in a subscription's `auth`.
const APP_KEY: Kind = Kind::Word("-_.~@=,;");
const REDIS_PREFIX: Kind = Kind::Word("-_.:");
const DAY: u64 = 86_400;

pub const KEYS: &[Key] = &[
    key("listen", Kind::Address, Some("0.0.0.0:6001"), "address of both APIs"),
    key("metrics_listen", Kind::Address, Some("127.0.0.1:9601"), "address of /metrics"),
    key("redis", Kind::RedisUrl, None, "URL of the shared backend; without it the memory of this process"),
    key("redis_prefix", REDIS_PREFIX, Some("fanfare"), "what every Redis key and topic begins with"),
    key("path_prefix", Kind::PathPrefix, Some(""), "what the paths of both APIs begin with"),
    key("trusted_proxies", Kind::Networks, Some(""), "proxies whose X-Forwarded-For is believed"),
    key("activity_timeout", Kind::Count(1, DAY), Some("120"), "seconds of silence before a ping"),
    key("keep_alive_timeout", Kind::Count(1, DAY), Some("75"), "seconds an idle HTTP connection stays open"),
    key("drain_delay", Kind::Number(0.0, 3600.0), Some("2"), "seconds unready before sockets are closed"),
    key("drain_window", Kind::Number(0.0, 3600.0), Some("10"), "seconds over which sockets are closed"),
    key("log", Kind::LogFilter, Some("info"), "what is logged, such as `info` or `info,fanfare=debug`"),
    key("log_format", Kind::Choice(&["text", "json"]), None, "text on a terminal, else json"),
    key("apps.id", ID, None, "in the path of API calls; digits only, for the Python library"),
    key("apps.key", APP_KEY, None, "public, what clients connect with"),
    key("apps.secret", Kind::Secret, None, "signs API calls and subscriptions"),
    key("apps.secrets", Kind::Secrets, None, "further secrets, while they are being rotated"),
    key("apps.enabled", Kind::Flag, Some("true"), "whether the app may be used"),
    key("apps.max_event_batch_size", Kind::Count(1, 10_000), Some("10"), "events in one batch"),
    key(
        "apps.max_event_payload_in_kb",
        Kind::Number(0.001, PAYLOAD_KB_MAX),
        Some("10"),
        "kilobytes of one event's data",
    ),
    key("apps.max_event_channels_at_once", Kind::Count(1, 10_000), Some("100"), "channels of one event"),
    key("apps.max_event_name_length", Kind::Count(1, 1_000), Some("200"), "characters of an event name"),
    key("apps.max_channel_name_length", Kind::Count(1, 1_000), Some("200"), "characters of a channel name"),
    key(
        "apps.max_batch_publications",
        Kind::Count(1, 100_000),
        Some("10000"),
        "events times channels in a batch",
    ),
    key("apps.max_connections", Kind::Limit(U32), Some("0"), "connections of the app, over all nodes"),
    key("apps.enable_client_messages", Kind::Flag, Some("false"), "events sent by clients"),
    key(
        "apps.max_client_events_per_second",
        Kind::Limit(1_000_000),
        Some("10"),
        "client events of one connection in decay_seconds",
    ),
    key(
        "apps.decay_seconds",
        Kind::Count(1, DAY),
        Some("1"),
        "seconds that max_client_events_per_second is about",
    ),
    key("apps.terminate_on_limit", Kind::Flag, Some("false"), "close who sends more client events"),
    key("apps.message_rate_limit", Kind::MessageRate, Some(""), "limit of all messages of one connection"),
    key(
        "apps.max_backend_events_per_second",
        Kind::Limit(U32),
        Some("0"),
        "events times channels that backends publish",
    ),
    key("apps.max_read_requests_per_second", Kind::Limit(U32), Some("0"), "queries of backends"),
    key(
        "apps.max_presence_members_per_channel",
        Kind::Count(1, limits::PRESENCE_MEMBERS_CEILING),
        Some("100"),
        "users of a presence channel",
    ),
    key(
        "apps.max_presence_member_size_in_kb",
        Kind::Number(0.001, PRESENCE_MEMBER_KB_MAX),
        Some("2"),
        "kilobytes of a presence member's user_info",
    ),
    key("apps.enable_user_authentication", Kind::Flag, Some("false"), "close who does not sign in"),
    key(
        "apps.user_authentication_timeout",
        Kind::Count(1, 3_600),
        Some("30"),
        "seconds to sign in, or to join a channel that needs authorisation",
    ),
    key("apps.enable_watchlist_events", Kind::Flag, Some("false"), "tell users who is online"),
    key("apps.enable_subscription_count", Kind::Flag, Some("false"), "tell subscribers how many they are"),
    key("apps.cache_ttl_in_seconds", Kind::Count(1, DAY), Some("1800"), "seconds a cache channel remembers"),
    key("apps.allowed_origins", Kind::Origins, Some("*"), "where browsers may connect from"),
    key("apps.channel_delta_compression", Kind::ChannelDeltas, Some(""), "what deltas are on which channels"),
    key("apps.channel_namespaces", Kind::Unbuilt, None, "channel namespaces"),
    key("apps.idempotency", Kind::Unbuilt, None, "requests that may be repeated safely"),
    key("apps.webhooks", Kind::Webhooks, Some(""), "who is told of what happens in the app"),
    key("delta_compression.enabled", Kind::Flag, Some("true"), "whether clients may ask for deltas"),
    key(
        "delta_compression.algorithm",
        Kind::Choice(&["fossil", "xdelta3", "vcdiff"]),
        Some("fossil"),
        "form of deltas where the client leaves the choice",
    ),
    key(
        "delta_compression.markers",
        Kind::Choice(&["underscore", "plain"]),
        Some("underscore"),
        "whether full events say __delta_seq, which clients strip, or sequence",
    ),
    key(
        "delta_compression.full_message_interval",
        Kind::Count(0, 1_000_000),
        Some("10"),
        "deltas between two full messages; 0 for no limit",
    ),
    key(
        "delta_compression.min_message_size",
        Kind::Count(0, 1_000_000_000),
        Some("100"),
        "bytes of a frame below which no delta is tried",
    ),
    key(
        "delta_compression.min_compression_ratio",
        Kind::Number(0.0, 1.0),
        Some("0.9"),
        "largest fraction of the full frame that a delta may have",
    ),
    key(
        "delta_compression.max_state_age_secs",
        Kind::Count(1, DAY),
        Some("300"),
        "age of the oldest usable base",
    ),
    key(
        "delta_compression.omit_delta_algorithm",
        Kind::Flag,
        Some("false"),
        "leave `algorithm` out of deltas",
    ),
    key(
        "delta_compression.refused_clients",
        Kind::ClientPatterns,
        Some("python/<=2.2"),
        "clients whose decoder is broken, as client/<=version",
    ),
    key(
        "delta_compression.max_conflation_states_per_channel",
        Kind::Count(1, limits::CHAINS_CEILING),
        Some("100"),
        "conflation keys of one channel whose events can be deltas",
    ),
    key(
        "delta_compression.conflation_key_path",
        Kind::KeyPath,
        None,
        "where an event's data has its conflation key, as in `asset.symbol`",
    ),
    key("delta_compression.cache_sync", Kind::Flag, Some("false"), "send bases to who joins a channel"),
    key(
        "delta_compression.max_channel_states_per_socket",
        Kind::Moot,
        None,
        "changes nothing: a subscription's delta state is a few bytes here",
    ),
    key(
        "delta_compression.cluster_coordination",
        Kind::Moot,
        None,
        "changes nothing: which events go out in full follows from their numbers, on every node alike",
    ),
    key("tag_filtering.enabled", Kind::Flag, Some("false"), "whether subscriptions may be filtered by tags"),
    key("tag_filtering.enable_tags", Kind::Flag, Some("true"), "whether delivered events show their tags"),
];

const fn key(path: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { path, kind, default, doc }
}

impl Key {
    /// Whether somebody may want to set it.
    pub fn matters(&self) -> bool {
        !matches!(self.kind, Kind::Moot | Kind::Unbuilt)
    }

    /// `""` for a key at the top.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or("", |(section, _)| section)
    }

    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// The environment variable of the same meaning. Only one app can be given
    /// there, so its variables need no number.
    pub fn variable(&self) -> String {
        let name = self.name().to_ascii_uppercase();
        match self.section() {
            "" => format!("FANFARE_{name}"),
            "apps" => format!("FANFARE_APP_{name}"),
            section => format!("FANFARE_{}__{name}", section.to_ascii_uppercase()),
        }
    }

    /// The variable that names a file with the value, for what must not stand
    /// in an environment that others can read.
    pub fn file_variable(&self) -> Option<String> {
        matches!(self.kind, Kind::Secret | Kind::Secrets | Kind::RedisUrl).then(|| self.variable() + "_FILE")
    }
}

/// The place of `path` in [`KEYS`].
pub fn position(path: &str) -> Option<usize> {
    KEYS.iter().position(|key| key.path == path)
}

/// The key or section that somebody who wrote `name` in `section` probably
/// meant.
pub fn nearest_key(section: &str, name: &str) -> String {
    let keys = KEYS.iter().map(|key| {
        // The right name in the wrong section is worth telling, if nothing in
        // this section is as near.
        let elsewhere = if key.section() == section { 0.0 } else { 0.05 };
        (similarity(name, key.name()) - elsewhere, key.path)
    });
    let sections = SECTIONS.iter().filter(|_| section.is_empty()).map(|it| (similarity(name, it), *it));
    best(keys.chain(sections)).to_owned()
}

/// The variable that somebody who wrote `name` probably meant.
pub fn nearest_variable(name: &str) -> String {
    let variables = KEYS.iter().flat_map(|key| [Some(key.variable()), key.file_variable()]).flatten();
    let variables = variables.chain([CONFIG_VARIABLE.to_owned()]);
    // All share the prefix, which would make all of them look alike.
    best(variables.map(|it| (similarity(bare(name), bare(&it)), it)))
}

/// The variable that names the file; like the flag it is no key of the file.
pub const CONFIG_VARIABLE: &str = "FANFARE_CONFIG";
/// Every variable that begins with it is ours, and must be known.
pub const VARIABLE_PREFIX: &str = "FANFARE_";

fn bare(variable: &str) -> &str {
    variable.strip_prefix(VARIABLE_PREFIX).unwrap_or(variable)
}

fn best<T>(scored: impl Iterator<Item = (f64, T)>) -> T {
    scored.max_by(|a, b| a.0.total_cmp(&b.0)).expect("the table is not empty").1
}

/// `maxEventBatchSize`, `max-event-batch-size` and `MAX_EVENT_BATCH_SIZE` are
/// spellings, not different words.
fn similarity(a: &str, b: &str) -> f64 {
    let fold = |text: &str| text.replace(['_', '-', '.'], "").to_ascii_lowercase();
    strsim::normalized_damerau_levenshtein(&fold(a), &fold(b))
}
