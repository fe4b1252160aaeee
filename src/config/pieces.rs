//! Parts of a configuration that are read by themselves: an app as it is kept in
//! Redis, and where that Redis is.

use super::environment::Environment;
use super::layers::{self, Origin, Place, Settings};
use super::problem::{Problem, Problems};
use super::reader::Reader;
use super::{build, keys};
use crate::app::App;

/// The app that `text` describes: what would stand below `[[apps]]`.
pub fn read_app(text: &str, origin: &Origin) -> Result<App, Problems> {
    let mut problems = Vec::new();
    let settings = read_body(text, origin, &mut problems);
    // Which ids a library refuses was said when the app was added.
    let app = build::build_app(&settings, 0, &mut problems, &mut Vec::new());
    match app.filter(|_| problems.is_empty()) {
        Some(app) => Ok(app),
        None => Err(Problems(problems)),
    }
}

/// What is wrong with `value`, written as in TOML, for the key `name` of an app.
pub fn check_app_setting(name: &str, value: &str, origin: &Origin) -> Result<(), Problems> {
    let mut problems = Vec::new();
    read_body(&format!("{name} = {value}"), origin, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

/// Whether a file with nothing but these `[[apps]]` would be taken.
pub fn check_apps(text: &str) -> Result<(), Problems> {
    let mut problems = Vec::new();
    let mut settings = Settings::default();
    layers::read_text(&mut settings, &|_| Origin::Command, text, &mut problems);
    build::build_apps(&settings, &mut problems, &mut Vec::new());
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

fn read_body(text: &str, origin: &Origin, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::default();
    // A header of its own, so that a key of the text cannot be one of the top.
    layers::read_text(&mut settings, &|_| origin.clone(), &format!("[[apps]]\n{text}"), problems);
    // Nor may the text begin a section, or another app.
    if settings.apps().len() != 1 || settings.iter().any(|(place, _)| place.key().section() != "apps") {
        problems.push(Problem::NotOneApp { origin: origin.clone() });
    }
    settings
}

/// Every key that may stand in `[[apps]]`, but those without which there is none.
pub fn app_setting_names() -> impl Iterator<Item = &'static str> {
    let optional = |key: &&keys::Key| {
        key.section() == "apps" && !matches!(key.name(), "id" | "key" | "secret" | "secrets") && key.matters()
    };
    keys::KEYS.iter().filter(optional).map(|key| key.name())
}

/// Where the shared backend is.
#[derive(Clone)]
pub struct RedisTarget {
    /// May hold a password.
    pub url: String,
    pub prefix: String,
}

/// By hand, because the URL may hold a password.
impl std::fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTarget").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// `redis` and `redis_prefix`, from flags or the environment.
pub fn redis_target(
    url: Option<&str>,
    prefix: Option<&str>,
    environment: &Environment,
) -> Result<RedisTarget, Problems> {
    let mut problems = Vec::new();
    let settings = layers::read_redis(url, prefix, environment, &mut problems);
    let place = Place::top("redis");
    if settings.get(place).is_none() && !settings.was_refused(place) {
        let hint = "--redis URL, or set FANFARE_REDIS".to_owned();
        problems.push(Problem::Missing { place, hint, origin: Origin::Default });
    }
    let reader = Reader { settings: &settings, app: None };
    match (reader.redis_url(), reader.text("redis_prefix")) {
        (Some(url), Some(prefix)) if problems.is_empty() => Ok(RedisTarget { url, prefix }),
        _ => Err(Problems(problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Origin = Origin::Flag("--set");

    fn problems(text: &str) -> String {
        read_app(text, &STORED).expect_err("mistakes").to_string()
    }

    #[test]
    fn one_app_is_read() {
        let app =
            read_app("id = '7'\nkey = 'k'\nsecret = 's'\nmax_connections = 5", &STORED).expect("an app");
        assert_eq!((&*app.id, app.key.as_str(), app.limits.connections_max), ("7", "k", Some(5)));
    }

    #[test]
    fn nothing_else_is_read() {
        let good = "id = '7'\nkey = 'k'\nsecret = 's'\n";
        for more in ["[[apps]]\nid = '8'", "[delta_compression]\nenabled = false"] {
            assert!(read_app(&format!("{good}{more}"), &STORED).is_err(), "{more}");
        }
        assert!(problems("id = '7'\nkey = 'k'").contains("`apps[0].secret` is not set"));
        assert!(problems(&format!("{good}listen = '1'")).contains("`apps[0].listen` is not a setting"));
    }

    #[test]
    fn one_setting_is_checked_by_itself() {
        assert!(check_app_setting("max_connections", "-1", &STORED).is_ok());
        assert!(check_app_setting("max_connections", "\"many\"", &STORED).is_err());
        assert!(check_app_setting("max_conections", "1", &STORED).is_err());
        assert!(app_setting_names().all(|name| name != "id" && name != "idempotency"));
    }

    #[test]
    fn the_redis_is_given_by_flag_or_environment() {
        let environment: Environment =
            [("FANFARE_REDIS", "redis://env"), ("FANFARE_REDIS_PREFIX", "e"), ("FANFARE_LISTN", "x")]
                .into_iter()
                .collect();
        let target = redis_target(None, None, &environment).expect("a target");
        assert_eq!((target.url.as_str(), target.prefix.as_str()), ("redis://env", "e"));
        let target = redis_target(Some("redis://flag"), Some("f"), &environment).expect("a target");
        assert_eq!((target.url.as_str(), target.prefix.as_str()), ("redis://flag", "f"));
        let missing = redis_target(None, None, &Environment::default()).expect_err("none is set");
        assert!(missing.to_string().contains("add --redis URL, or set FANFARE_REDIS"), "{missing}");
    }
}
