//! The settings that take effect at start only: a reload reports those that differ.

use super::Config;
use super::keys::{KEYS, LOG};
use super::layers::Settings;
use super::place::Place;

/// The values of all settings that a running server does not change.
#[derive(PartialEq)]
pub struct StartSettings {
    /// By position in the table of keys, as shown; `None` is not set.
    values: Vec<(&'static str, Option<String>)>,
    /// With its password, which the shown value does not have.
    redis: Option<String>,
}

impl StartSettings {
    pub fn new(settings: &Settings, config: &Config) -> StartSettings {
        let keys = KEYS.iter().filter(|key| key.section() != "apps" && key.path != LOG.path && key.matters());
        let value = |key| Some(settings.get(Place::of(key))?.value.clone());
        StartSettings {
            values: keys.map(|key| (key.path, value(key))).collect(),
            redis: config.redis.clone(),
        }
    }

    /// The keys whose values differ in `other`.
    pub fn differing(&self, other: &StartSettings) -> Vec<&'static str> {
        let pairs = self.values.iter().zip(&other.values);
        let differs = |path: &str, is_shown: bool| is_shown || path == "redis" && self.redis != other.redis;
        pairs.filter(|(a, b)| differs(a.0, a != b)).map(|(a, _)| a.0).collect()
    }
}

/// Implemented by hand, because a Redis URL may contain a password.
impl std::fmt::Debug for StartSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StartSettings").field("values", &self.values).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Flags, load};

    fn settings(variables: &[(&str, &str)]) -> StartSettings {
        let environment: Environment = variables.iter().copied().collect();
        let loaded = load(&Flags { dev: true, ..Flags::default() }, &environment);
        StartSettings::new(&loaded.settings, &loaded.config.expect("valid"))
    }

    #[test]
    fn changed_settings_are_named_except_those_of_a_reload() {
        let before = settings(&[("FANFARE_REDIS", "redis://:a@h")]);
        let differing = |variables| before.differing(&settings(variables));
        assert_eq!(differing(&[("FANFARE_REDIS", "redis://:a@h")]), [""; 0]);
        assert_eq!(differing(&[("FANFARE_REDIS", "redis://:b@h")]), ["redis"]);
        let apps_and_log = [("FANFARE_REDIS", "redis://:a@h"), ("FANFARE_LOG", "debug")];
        assert_eq!(differing(&apps_and_log), [""; 0]);
        let several = [("FANFARE_PATH_PREFIX", "/x"), ("FANFARE_DELTA_COMPRESSION__ENABLED", "false")];
        assert_eq!(differing(&several), ["redis", "path_prefix", "delta_compression.enabled"]);
    }
}
