//! Parts of a configuration that are read separately: an app stored in Redis, the address of that
//! Redis, and the address and the apps of a server for the commands that connect to it.

use std::net::SocketAddr;
use std::path::Path;

use super::Flags;
use super::build;
use super::environment::Environment;
use super::keys::{self, Key};
use super::layers::{self, Settings};
use super::origin::Origin;
use super::place::Place;
use super::problem::{Problem, Problems};
use crate::app::{App, Secret};

/// Parses the settings of one app: `text` is TOML as below `[[apps]]`.
pub fn read_app(text: &str, origin: &Origin) -> Result<App, Problems> {
    let mut problems = Vec::new();
    let mut settings = read_body(text, origin, &mut problems);
    let draft = std::mem::take(&mut settings.apps).into_iter().next();
    // `fanfare app add` has already printed the warnings.
    let app = draft.and_then(|draft| build::build_app(&settings, 0, draft, &mut problems, &mut Vec::new()));
    match app.filter(|_| problems.is_empty()) {
        Some(app) => Ok(app),
        None => Err(Problems(problems)),
    }
}

/// Checks `value`, in TOML notation, for the key `name` of an app.
pub fn check_app_setting(name: &str, value: &str, origin: &Origin) -> Result<(), Problems> {
    let mut problems = Vec::new();
    read_body(&format!("{name} = {value}"), origin, &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

/// Checks the text of a configuration file that contains only `[[apps]]`.
pub fn check_apps(text: &str) -> Result<(), Problems> {
    let mut problems = Vec::new();
    let mut settings = Settings::new();
    layers::read_text(&mut settings, &|_| Origin::Command, text, &mut problems);
    build::build_apps(&mut settings, &mut problems, &mut Vec::new());
    if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
}

fn read_body(text: &str, origin: &Origin, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::new();
    // With a header, so that no key of the text is a top-level key.
    layers::read_text(&mut settings, &|_| origin.clone(), &format!("[[apps]]\n{text}"), problems);
    // The text must not contain another section or a second app either.
    if settings.apps.len() != 1 || settings.iter().any(|(place, _)| place.key().section() != "apps") {
        problems.push(Problem::NotOneApp { origin: origin.clone() });
    }
    settings
}

/// The optional key of `[[apps]]` with this name.
pub fn app_setting(name: &str) -> Option<&'static Key> {
    let credentials = [keys::ID, keys::KEY, keys::SECRET, keys::SECRETS].map(|key| key.path);
    let key = &keys::KEYS[keys::position(&format!("apps.{name}"))?];
    Some(key).filter(|key| !credentials.contains(&key.path))
}

/// The address of the Redis backend.
#[derive(Clone)]
pub struct RedisTarget {
    /// May contain a password.
    pub url: String,
    pub prefix: String,
}

/// Implemented by hand, because the URL may contain a password.
impl std::fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisTarget").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// Reads `redis` and `redis_prefix` of `flags`, or else as a server does that was started with this
/// file and this environment. Mistakes in other settings do not matter.
pub fn redis_target(flags: &Flags, environment: &Environment) -> Result<RedisTarget, Problems> {
    let settings = read_keys(flags, environment, &[keys::REDIS, keys::REDIS_PREFIX])?;
    let place = Place::of(keys::REDIS);
    match settings.config.redis {
        Some(url) => Ok(RedisTarget { url, prefix: settings.config.redis_prefix }),
        None => {
            let hint = "--redis URL, or set FANFARE_REDIS".to_owned();
            Err(Problems(vec![Problem::Missing { place, hint, origin: Origin::Default }]))
        }
    }
}

/// Where a server serves.
#[derive(Debug)]
pub struct ServerAddress {
    pub listen: SocketAddr,
    pub path_prefix: String,
}

/// Reads `listen` and `path_prefix` as a server does that was started with this file and this
/// environment. Mistakes in other settings do not matter.
pub fn server_address(file: Option<&Path>, environment: &Environment) -> Result<ServerAddress, Problems> {
    let settings = read_keys(&with_file(file), environment, &[keys::LISTEN, keys::PATH_PREFIX])?;
    Ok(ServerAddress { listen: settings.config.listen, path_prefix: settings.config.path_prefix })
}

/// What authorises to publish as an app. The texts are empty where they are not set.
#[derive(Debug, Default)]
pub struct AppCredentials {
    pub id: String,
    pub key: String,
    /// The newest one.
    pub secret: Option<Secret>,
}

/// Reads the credentials of all configured apps, as [`server_address`].
pub fn app_credentials(
    file: Option<&Path>,
    environment: &Environment,
) -> Result<Vec<AppCredentials>, Problems> {
    let needed = [keys::ID, keys::KEY, keys::SECRET, keys::SECRETS];
    let settings = read_keys(&with_file(file), environment, &needed)?;
    let credentials = settings.apps.into_iter().map(|draft| AppCredentials {
        secret: draft.secrets().into_iter().next(),
        id: draft.app.id.to_string(),
        key: draft.app.key,
    });
    Ok(credentials.collect())
}

fn with_file(file: Option<&Path>) -> Flags {
    Flags { config: file.map(Path::to_owned), ..Flags::default() }
}

/// All settings, without the mistakes of keys other than these.
fn read_keys(flags: &Flags, environment: &Environment, needed: &[&Key]) -> Result<Settings, Problems> {
    let mut problems = Vec::new();
    let settings = layers::read(flags, environment, &mut problems);
    problems.retain(|problem| problem.concerns(needed));
    if problems.is_empty() { Ok(settings) } else { Err(Problems(problems)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORED: Origin = Origin::Flag("--set");

    fn problems(text: &str) -> String {
        read_app(text, &STORED).expect_err("mistakes").to_string()
    }

    #[test]
    fn read_app_returns_one_app() {
        let app =
            read_app("id = '7'\nkey = 'k'\nsecret = 's'\nmax_connections = 5", &STORED).expect("an app");
        assert_eq!((&*app.id, app.key.as_str(), app.limits.connections_max), ("7", "k", Some(5)));
    }

    #[test]
    fn read_app_with_other_sections_or_missing_keys_fails() {
        let good = "id = '7'\nkey = 'k'\nsecret = 's'\n";
        for more in ["[[apps]]\nid = '8'", "[delta_compression]\nenabled = false"] {
            assert!(read_app(&format!("{good}{more}"), &STORED).is_err(), "{more}");
        }
        assert!(read_app("id = = '7'", &STORED).is_err());
        assert!(problems("id = '7'\nkey = 'k'").contains("`apps[0].secret` is not set"));
        assert!(problems(&format!("{good}listen = '1'")).contains("`apps[0].listen` is not a setting"));
    }

    #[test]
    fn check_app_setting_checks_one_setting() {
        assert!(check_app_setting("max_connections", "-1", &STORED).is_ok());
        assert!(check_app_setting("max_connections", "\"many\"", &STORED).is_err());
        assert!(check_app_setting("max_conections", "1", &STORED).is_err());
        assert!(app_setting("max_connections").is_some());
        assert!(["id", "secrets", "listen"].into_iter().all(|name| app_setting(name).is_none()));
    }

    #[test]
    fn redis_target_comes_from_flag_environment_or_file() {
        let environment: Environment =
            [("FANFARE_REDIS", "redis://env"), ("FANFARE_REDIS_PREFIX", "e"), ("FANFARE_LISTN", "x")]
                .into_iter()
                .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "redis = 'redis://file'\nactivity_timeot = 1").expect("written");
        let by_file = with_file(Some(file.path()));
        let target = |flags: &Flags, environment: &Environment| {
            let target = redis_target(flags, environment).expect("a target");
            [target.url, target.prefix]
        };
        assert_eq!(target(&by_file, &Environment::default()), ["redis://file", "fanfare"]);
        assert_eq!(target(&by_file, &environment), ["redis://env", "e"]);
        let text = |text: &str| Some(text.to_owned());
        let flags = Flags { redis: text("redis://flag"), redis_prefix: text("f"), ..by_file };
        assert_eq!(target(&flags, &environment), ["redis://flag", "f"]);
        let missing = redis_target(&Flags::default(), &Environment::default()).expect_err("none is set");
        assert!(missing.to_string().contains("add --redis URL, or set FANFARE_REDIS"), "{missing}");
    }
}
