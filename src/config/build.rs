//! Builds a [`Config`] from the settings and checks relations between keys.

use std::collections::HashMap;
use std::time::Duration;

use super::layers::Settings;
use super::origin::{Origin, Place};
use super::problem::{Problem, Warning};
use super::reader::Reader;
use super::value::Value;
use super::{Config, LogFormat};
use crate::app::{App, AppFeatures, AppLimits, AppRates, OriginPattern, Rate};
use crate::delta::settings::{DeltaConfig, MarkerStyle};
use crate::limits;

/// Builds the configuration. If `problems` is not empty afterwards, the result is
/// incomplete and must not be used.
pub(super) fn build(
    settings: &Settings,
    dev: bool,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Config {
    let top = Reader { settings, app: None };
    check_addresses(settings, problems);
    // A file that cannot be read may contain apps.
    let unread = |it: &Problem| matches!(it, Problem::FileUnreadable { .. } | Problem::Syntax { .. });
    // Redis may store apps, now or later.
    let redis = Place::top("redis");
    let has_redis = settings.get(redis).is_some() || settings.was_refused(redis);
    if settings.apps().is_empty() && !has_redis && !problems.iter().any(unread) {
        problems.push(Problem::NoApp);
    }
    let listen = top.address("listen");
    if settings.apps().contains(&Origin::Flag("--dev")) && !listen.ip().is_loopback() {
        warnings.push(Warning::DemoAppExposed { listen });
    }
    let apps = build_apps(settings, problems, warnings);
    Config {
        listen,
        metrics_listen: top.address("metrics_listen"),
        redis: top.redis_url(),
        redis_prefix: top.text("redis_prefix").unwrap_or_default(),
        path_prefix: top.text("path_prefix").unwrap_or_default(),
        trusted_proxies: top.networks(),
        activity_timeout: Duration::from_secs(top.count("activity_timeout")),
        keep_alive_timeout: Duration::from_secs(top.count("keep_alive_timeout")),
        drain_delay: Duration::from_secs_f64(top.number("drain_delay")),
        drain_window: Duration::from_secs_f64(top.number("drain_window")),
        apps,
        delta: build_delta(&top),
        tag_filtering: top.flag("tag_filtering.enabled"),
        log: top.text("log").unwrap_or_default(),
        log_format: top
            .text("log_format")
            .map(|it| if it == "json" { LogFormat::Json } else { LogFormat::Text }),
        dev,
    }
}

fn build_delta(top: &Reader<'_>) -> DeltaConfig {
    DeltaConfig {
        enabled: top.flag("delta_compression.enabled"),
        algorithm: top.algorithm(),
        markers: match top.text("delta_compression.markers").as_deref() {
            Some("plain") => MarkerStyle::Plain,
            _ => MarkerStyle::Underscore,
        },
        full_message_interval: top.count("delta_compression.full_message_interval"),
        min_message_bytes: top.size("delta_compression.min_message_size"),
        compression_ratio_max: top.number("delta_compression.min_compression_ratio"),
        base_age_max: Duration::from_secs(top.count("delta_compression.max_state_age_secs")),
        omit_algorithm: top.flag("delta_compression.omit_delta_algorithm"),
        refused_clients: top.list("delta_compression.refused_clients"),
        conflation_key: top.key_path(),
        keys_max: top.size("delta_compression.max_conflation_states_per_channel"),
        cache_sync: top.flag("delta_compression.cache_sync"),
        shows_tags: top.flag("tag_filtering.enabled") && top.flag("tag_filtering.enable_tags"),
    }
}

pub(super) fn build_apps(
    settings: &Settings,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Vec<App> {
    for name in ["id", "key"] {
        check_distinct(settings, name, problems);
    }
    (0..settings.apps().len()).filter_map(|app| build_app(settings, app, problems, warnings)).collect()
}

pub(super) fn build_app(
    settings: &Settings,
    number: usize,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Option<App> {
    let app = Reader { settings, app: Some(number) };
    let refused = |name: &str| settings.was_refused(Place::app(number, name));
    let secrets = app.secrets();
    let has_none = |name: &&str| match *name {
        "secret" => secrets.is_empty() && !refused("secret") && !refused("secrets"),
        name => app.text(name).is_none() && !refused(name),
    };
    for name in ["id", "key", "secret"].into_iter().filter(has_none) {
        let place = Place::app(number, name);
        let origin = settings.apps()[number].clone();
        let hint = format!("it to [[apps]], or set {}", place.key().variable());
        problems.push(Problem::Missing { place, hint, origin });
    }
    let (id, key) = (app.text("id")?, app.text("key")?);
    if secrets.is_empty() {
        return None;
    }
    if secrets.len() > limits::APP_SECRETS_MAX {
        let (place, count_max) = (Place::app(number, "secrets"), limits::APP_SECRETS_MAX);
        let origin = settings.get(place)?.origin.clone();
        problems.push(Problem::TooManySecrets { place, count_max, origin });
    }
    if !id.bytes().all(|byte| byte.is_ascii_digit()) {
        let place = Place::app(number, "id");
        let origin = settings.get(place)?.origin.clone();
        warnings.push(Warning::AppIdNotDigits { place, id: id.clone(), origin });
    }
    Some(App {
        id: id.into(),
        key,
        secrets,
        enabled: app.flag("enabled"),
        limits: app_limits(&app),
        rates: app_rates(&app),
        features: app_features(&app),
        origins: app.list("allowed_origins").into_iter().map(OriginPattern).collect(),
        webhooks: app.webhooks(),
        deltas: app.channel_deltas(),
    })
}

fn app_limits(app: &Reader<'_>) -> AppLimits {
    AppLimits {
        batch_events_max: app.size("max_event_batch_size"),
        payload_bytes_max: bytes_of_kb(app.number("max_event_payload_in_kb")),
        event_channels_max: app.size("max_event_channels_at_once"),
        event_name_chars_max: app.size("max_event_name_length"),
        channel_name_chars_max: app.size("max_channel_name_length"),
        batch_publications_max: app.size("max_batch_publications"),
        presence_members_max: app.size("max_presence_members_per_channel"),
        presence_member_bytes_max: bytes_of_kb(app.number("max_presence_member_size_in_kb")),
        connections_max: app.limit("max_connections"),
    }
}

fn app_rates(app: &Reader<'_>) -> AppRates {
    let rate = |name: &str, window: u64| {
        app.limit(name).map(|count| Rate { count, window: Duration::from_secs(window) })
    };
    let messages = app.message_rate();
    AppRates {
        backend_events: rate("max_backend_events_per_second", 1),
        read_requests: rate("max_read_requests_per_second", 1),
        client_events: rate("max_client_events_per_second", app.count("decay_seconds")),
        client_events_terminate: app.flag("terminate_on_limit"),
        messages: messages.map(|it| it.rate),
        messages_terminate: messages.is_some_and(|it| it.terminate),
    }
}

fn app_features(app: &Reader<'_>) -> AppFeatures {
    let timeout = Duration::from_secs(app.count("user_authentication_timeout"));
    AppFeatures {
        client_events: app.flag("enable_client_messages"),
        authorization_timeout: app.flag("enable_user_authentication").then_some(timeout),
        watchlists: app.flag("enable_watchlist_events"),
        subscription_counts: app.flag("enable_subscription_count"),
        cache_ttl: Duration::from_secs(app.count("cache_ttl_in_seconds")),
    }
}

/// The key's range keeps the number positive and far below the largest integer that a
/// float represents exactly.
fn bytes_of_kb(kilobytes: f64) -> usize {
    (kilobytes * 1024.0) as usize
}

/// Reports apps with equal ids or keys: a look-up would find only one of them.
fn check_distinct(settings: &Settings, name: &str, problems: &mut Vec<Problem>) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for app in 0..settings.apps().len() {
        let place = Place::app(app, name);
        let Some(setting) = settings.get(place) else { continue };
        let Value::Text(text) = &setting.value else { continue };
        if let Some(&other) = seen.get(text.as_str()) {
            problems.push(Problem::Duplicate { place, other, origin: setting.origin.clone() });
        } else {
            seen.insert(text, place);
        }
    }
}

/// Reports two listeners on one address: the second would fail to bind, with a less
/// specific error.
fn check_addresses(settings: &Settings, problems: &mut Vec<Problem>) {
    let (place, other) = (Place::top("metrics_listen"), Place::top("listen"));
    let (Some(metrics), Some(listen)) = (settings.get(place), settings.get(other)) else { return };
    let is_free_port = matches!(listen.value, Value::Address(address) if address.port() == 0);
    if metrics.value == listen.value && !is_free_port {
        problems.push(Problem::SameAddress { place, other, origin: metrics.origin.clone() });
    }
}
