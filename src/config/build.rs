//! Builds a [`Config`] from the settings and checks relations between keys.

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use super::Config;
use super::app_draft::AppDraft;
use super::keys::{self, Key};
use super::layers::Settings;
use super::origin::Origin;
use super::place::Place;
use super::problem::{Problem, Warning};
use super::redis_url::hide_password;
use crate::app::App;
use crate::limits;

/// Builds the configuration. If `problems` is not empty afterwards, the result is
/// incomplete and must not be used.
pub(super) fn build(
    settings: &mut Settings,
    dev: bool,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Config {
    check_addresses(settings, problems);
    // A file that cannot be read may contain apps.
    let unread = |it: &Problem| matches!(it, Problem::FileUnreadable { .. } | Problem::Syntax { .. });
    // Redis may store apps, now or later.
    let redis = Place::of(keys::REDIS);
    let has_redis = settings.get(redis).is_some() || settings.was_refused(redis);
    if settings.apps.is_empty() && !has_redis && !problems.iter().any(unread) {
        problems.push(Problem::NoApp);
    }
    let mut config = std::mem::replace(&mut settings.config, Config::unset());
    let has_demo_app = settings.apps.iter().any(|draft| draft.origin == Origin::Flag("--dev"));
    if has_demo_app && !config.listen.ip().is_loopback() {
        warnings.push(Warning::DemoAppExposed { listen: config.listen });
    }
    check_secrecy(settings, config.redis.as_deref(), warnings);
    config.apps = build_apps(settings, problems, warnings);
    config.delta.shows_tags &= config.tag_filtering;
    config.dev = dev;
    config
}

pub(super) fn build_apps(
    settings: &mut Settings,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Vec<App> {
    check_distinct(settings, keys::ID, |draft| &draft.app.id, problems);
    check_distinct(settings, keys::KEY, |draft| &draft.app.key, problems);
    let drafts = std::mem::take(&mut settings.apps).into_iter().enumerate();
    drafts.filter_map(|(number, draft)| build_app(settings, number, draft, problems, warnings)).collect()
}

pub(super) fn build_app(
    settings: &Settings,
    number: usize,
    draft: AppDraft,
    problems: &mut Vec<Problem>,
    warnings: &mut Vec<Warning>,
) -> Option<App> {
    let origin_of = |key: &Key| Some(settings.get(Place::of_app(number, key))?.origin.clone());
    let was_refused = |key: &Key| settings.was_refused(Place::of_app(number, key));
    let secrets = draft.secrets().len();
    let has_secret = secrets > 0 || was_refused(keys::SECRETS);
    for (key, is_set) in [
        (keys::ID, !draft.app.id.is_empty()),
        (keys::KEY, !draft.app.key.is_empty()),
        (keys::SECRET, has_secret),
    ] {
        if !is_set && !was_refused(key) {
            let hint = format!("it to [[apps]], or set {}", key.variable());
            let place = Place::of_app(number, key);
            problems.push(Problem::Missing { place, hint, origin: draft.origin.clone() });
        }
    }
    if draft.app.id.is_empty() || draft.app.key.is_empty() || secrets == 0 {
        return None;
    }
    if secrets > limits::APP_SECRETS_MAX {
        let (place, count_max) = (Place::of_app(number, keys::SECRETS), limits::APP_SECRETS_MAX);
        problems.push(Problem::TooManySecrets { place, count_max, origin: origin_of(keys::SECRETS)? });
    }
    if !draft.app.id.bytes().all(|byte| byte.is_ascii_digit()) {
        let (place, id) = (Place::of_app(number, keys::ID), draft.app.id.to_string());
        warnings.push(Warning::AppIdNotDigits { place, id, origin: origin_of(keys::ID)? });
    }
    Some(draft.into_app())
}

/// Warns of secrets that other users of the machine can read: in a file whose mode has the bit
/// for reading by others, and in an argument of the command.
fn check_secrecy(settings: &Settings, redis: Option<&str>, warnings: &mut Vec<Warning>) {
    let has_password = redis.is_some_and(|url| hide_password(url) != url);
    let is_redis = |place: Place| place.key().path == keys::REDIS.path;
    let is_secret = |place: Place| place.key().kind().is_secret() && (!is_redis(place) || has_password);
    let origins = settings.iter().filter(|(place, _)| is_secret(*place)).map(|(_, setting)| &setting.origin);
    let origins: Vec<&Origin> = origins.collect();
    if origins.contains(&&Origin::Flag("--redis")) {
        warnings.push(Warning::PasswordInArgument);
    }
    let Some((path, _)) = &settings.file else { return };
    if origins.iter().any(|origin| matches!(origin, Origin::File { .. }))
        && let Ok(metadata) = std::fs::metadata(path)
        && metadata.permissions().mode() & 0o004 != 0
    {
        let mode = metadata.permissions().mode() & 0o777;
        warnings.push(Warning::FileReadable { path: path.clone(), mode });
    }
}

/// Reports apps with equal ids or keys: a look-up would find only one of them.
fn check_distinct(
    settings: &Settings,
    key: &Key,
    value: impl Fn(&AppDraft) -> &str,
    problems: &mut Vec<Problem>,
) {
    let mut seen: HashMap<&str, Place> = HashMap::new();
    for (app, draft) in settings.apps.iter().enumerate() {
        let place = Place::of_app(app, key);
        let Some(setting) = settings.get(place) else { continue };
        if let Some(&other) = seen.get(value(draft)) {
            problems.push(Problem::Duplicate { place, other, origin: setting.origin.clone() });
        } else {
            seen.insert(value(draft), place);
        }
    }
}

/// Reports two listeners on one address: the second would fail to bind, with a less
/// specific error.
fn check_addresses(settings: &Settings, problems: &mut Vec<Problem>) {
    let (place, other) = (Place::of(keys::METRICS_LISTEN), Place::of(keys::LISTEN));
    let Some(metrics) = settings.get(place) else { return };
    let config = &settings.config;
    if config.metrics_listen == config.listen && config.listen.port() != 0 {
        problems.push(Problem::SameAddress { place, other, origin: metrics.origin.clone() });
    }
}
