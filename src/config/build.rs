//! Settings → [`Config`], with what concerns more than one key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::layers::{Origin, Place, Settings};
use super::problem::{Problem, Warning};
use super::value::Value;
use super::{Config, LogFormat};
use crate::app::{App, AppFeatures, AppLimits, AppRates, Secret};
use crate::delta::permit::ChannelPermits;
use crate::delta::settings::DeltaConfig;

/// With problems the configuration is only a sketch, and must not be used.
pub(super) fn build(
    settings: &Settings,
    dev: bool,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Config {
    let top = Reader { settings, app: None };
    check_addresses(settings, problems);
    // Nobody knows which apps stand in a file that cannot be read.
    let unread = |it: &Problem| matches!(it, Problem::FileUnreadable { .. } | Problem::Syntax { .. });
    if settings.apps().is_empty() && !problems.iter().any(unread) {
        problems.push(Problem::NoApp);
    }
    let listen = top.address("listen");
    if settings.apps().contains(&Origin::Flag("--dev")) && !listen.ip().is_loopback() {
        warnings.push(Warning::DemoAppExposed { listen });
    }
    for name in ["id", "key"] {
        check_distinct(settings, name, problems);
    }
    let apps =
        (0..settings.apps().len()).filter_map(|app| build_app(settings, app, problems, warnings)).collect();
    Config {
        listen,
        metrics_listen: top.address("metrics_listen"),
        redis: top.redis_url(),
        redis_prefix: top.text("redis_prefix").unwrap_or_default(),
        activity_timeout: Duration::from_secs(top.count("activity_timeout")),
        drain_delay: Duration::from_secs_f64(top.number("drain_delay")),
        drain_window: Duration::from_secs_f64(top.number("drain_window")),
        apps,
        delta: build_delta(&top),
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
        full_message_interval: top.count("delta_compression.full_message_interval"),
        min_message_bytes: top.size("delta_compression.min_message_size"),
        compression_ratio_max: top.number("delta_compression.min_compression_ratio"),
        base_age_max: Duration::from_secs(top.count("delta_compression.max_state_age_secs")),
        omit_algorithm: top.flag("delta_compression.omit_delta_algorithm"),
        refused_clients: top.list("delta_compression.refused_clients"),
    }
}

fn build_app(
    settings: &Settings,
    number: usize,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Option<App> {
    let missing = |name: &str| {
        let place = Place::app(number, name);
        settings.get(place).is_none() && !settings.was_refused(place)
    };
    for name in ["id", "key", "secret"].into_iter().filter(|name| missing(name)) {
        let place = Place::app(number, name);
        let origin = settings.apps()[number].clone();
        let hint = format!("it to [[apps]], or set {}", place.key().variable());
        problems.push(Problem::Missing { place, hint, origin });
    }
    let app = Reader { settings, app: Some(number) };
    let (id, key, secret) = (app.text("id")?, app.text("key")?, app.secret()?);
    if !id.bytes().all(|byte| byte.is_ascii_digit()) {
        let place = Place::app(number, "id");
        let origin = settings.get(place)?.origin.clone();
        warnings.push(Warning::AppIdNotDigits { place, id: id.clone(), origin });
    }
    Some(App {
        id: id.into(),
        key,
        secrets: vec![secret],
        enabled: app.flag("enabled"),
        limits: app_limits(&app),
        rates: AppRates::default(),
        features: AppFeatures::default(),
        origins: Vec::new(),
        webhooks: Vec::new(),
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
        ..AppLimits::default()
    }
}

/// The key's range keeps the number positive and far below what a float can
/// count exactly.
fn bytes_of_kb(kilobytes: f64) -> usize {
    (kilobytes * 1024.0) as usize
}

/// Of two apps with one id, one would never be found.
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

/// Two listeners on one address: the second would fail to bind, and say less.
fn check_addresses(settings: &Settings, problems: &mut Vec<Problem>) {
    let (place, other) = (Place::top("metrics_listen"), Place::top("listen"));
    let (Some(metrics), Some(listen)) = (settings.get(place), settings.get(other)) else { return };
    let is_free_port = matches!(listen.value, Value::Address(address) if address.port() == 0);
    if metrics.value == listen.value && !is_free_port {
        problems.push(Problem::SameAddress { place, other, origin: metrics.origin.clone() });
    }
}

/// Typed access. A key with a default always has a value of its kind, because
/// nothing gets into [`Settings`] but through `Kind::read`; tests.rs reads them
/// all once.
struct Reader<'a> {
    settings: &'a Settings,
    app: Option<usize>,
}

const TYPED: &str = "a key with a default has a value of its kind";

impl Reader<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        let place = self.app.map_or_else(|| Place::top(name), |app| Place::app(app, name));
        self.settings.get(place).map(|setting| &setting.value)
    }

    fn address(&self, name: &str) -> SocketAddr {
        let found =
            self.value(name).and_then(|it| if let Value::Address(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    fn flag(&self, name: &str) -> bool {
        let found = self.value(name).and_then(|it| if let Value::Flag(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    fn count(&self, name: &str) -> u64 {
        let found = self.value(name).and_then(|it| if let Value::Count(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.count(name)).expect("the table bounds it far below")
    }

    fn number(&self, name: &str) -> f64 {
        let found = self.value(name).and_then(|it| if let Value::Number(it) = it { Some(*it) } else { None });
        found.expect(TYPED)
    }

    fn list(&self, name: &str) -> Vec<String> {
        let found =
            self.value(name).and_then(|it| if let Value::List(it) = it { Some(it.clone()) } else { None });
        found.expect(TYPED)
    }

    fn channel_deltas(&self) -> ChannelPermits {
        match self.value("channel_delta_compression") {
            Some(Value::ChannelDeltas(patterns)) => ChannelPermits::new(patterns.clone()),
            _ => ChannelPermits::default(),
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name).and_then(|it| if let Value::Text(it) = it { Some(it.clone()) } else { None })
    }

    fn redis_url(&self) -> Option<String> {
        self.value("redis").and_then(|it| if let Value::RedisUrl(it) = it { Some(it.clone()) } else { None })
    }

    fn secret(&self) -> Option<Secret> {
        self.value("secret").and_then(|it| if let Value::Secret(it) = it { Some(it.clone()) } else { None })
    }
}
