//! The settings of one app as stored in Redis: the TOML below `[[apps]]`, one key per
//! line.

use std::fmt;
use std::path::Path;

use toml::{Table, Value};

use crate::app::Secret;
use crate::cli::error::{CliError, TomlFault};
use crate::cli::input::read_text;
use crate::config::keys::position;
use crate::config::{self, Origin};

#[derive(Default)]
pub(super) struct AppSettings {
    members: Table,
    /// Number of secrets that the last change removed.
    pub(super) dropped: usize,
}

/// Implemented by hand, because the settings contain secrets.
impl fmt::Debug for AppSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppSettings").field("id", &self.text("id")).finish_non_exhaustive()
    }
}

/// Changes of settings, without those of the credentials.
#[derive(Default)]
pub(super) struct Changes {
    set: Table,
    unset: Vec<String>,
}

impl Changes {
    /// `file` contains TOML as below `[[apps]]`, and `set` pairs `KEY=VALUE`, which override those
    /// of the file. A value that is not TOML is a text. `unset` contains keys.
    pub(super) fn read(file: Option<&Path>, set: &[String], unset: &[String]) -> Result<Changes, CliError> {
        let mut changes = Changes::default();
        if let Some(path) = file {
            let text = read_text(path)?;
            let fault =
                |error| CliError::NotToml { path: path.to_owned(), error: TomlFault::new(&text, &error) };
            changes.set = text.parse().map_err(fault)?;
            if let Some(name) = changes.set.keys().find(|name| !is_settable(name)) {
                return Err(CliError::BadSetting { setting: name.clone() });
            }
        }
        for setting in set {
            let bad = || CliError::BadSetting { setting: setting.clone() };
            let (name, value) =
                setting.split_once('=').filter(|(name, _)| is_settable(name)).ok_or_else(bad)?;
            changes.set.insert(name.to_owned(), value_of(value));
        }
        if let Some(name) = unset.iter().find(|name| config::app_setting(name).is_none()) {
            return Err(CliError::BadSetting { setting: name.clone() });
        }
        changes.unset = unset.to_vec();
        Ok(changes)
    }
}

/// Whether the name can be that of a setting, and is none of the credentials.
fn is_settable(name: &str) -> bool {
    let is_bare = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c));
    !name.is_empty() && is_bare && !["id", "key", "secret", "secrets"].contains(&name)
}

impl AppSettings {
    pub(super) fn new(id: &str, key: &str, secret: &Secret, changes: &Changes) -> AppSettings {
        let secret = String::from_utf8_lossy(secret.reveal()).into_owned();
        let own = [("id", id.to_owned()), ("key", key.to_owned()), ("secret", secret)];
        let members = own.map(|(name, text)| (name.to_owned(), Value::String(text))).into_iter().collect();
        let mut app = AppSettings { members, dropped: 0 };
        app.apply(changes);
        app
    }

    pub(super) fn apply(&mut self, changes: &Changes) {
        self.members.extend(changes.set.clone());
        changes.unset.iter().for_each(|name| drop(self.members.remove(name)));
    }

    pub(super) fn parse(text: &str) -> Option<AppSettings> {
        Some(AppSettings { members: text.parse().ok()?, dropped: 0 })
    }

    /// Validates the settings with the parser that nodes use.
    pub(super) fn check(&self) -> Result<(), CliError> {
        config::read_app(&self.to_string(), &Origin::Command)?;
        Ok(())
    }

    /// A member as text; empty if it is absent or not a text.
    pub(super) fn text(&self, name: &str) -> &str {
        self.members.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// All secrets, the newest first.
    pub(super) fn secrets(&self) -> Vec<String> {
        let further = self.members.get("secrets").and_then(Value::as_array);
        let further = further.into_iter().flatten().filter_map(Value::as_str);
        let first = Some(self.text("secret")).filter(|secret| !secret.is_empty());
        first.into_iter().chain(further).map(str::to_owned).collect()
    }

    pub(super) fn set_enabled(&mut self, enabled: bool) {
        self.members.insert("enabled".to_owned(), Value::Boolean(enabled));
    }

    pub(super) fn add_secret(&mut self, secret: &Secret) {
        let older = self.secrets();
        let newest = String::from_utf8_lossy(secret.reveal()).into_owned();
        self.members.insert("secret".to_owned(), Value::String(newest));
        self.members.insert("secrets".to_owned(), older.into());
    }

    pub(super) fn drop_old_secrets(&mut self) {
        let secrets = self.secrets();
        self.dropped = secrets.len().saturating_sub(1);
        self.members.remove("secrets");
        if let Some(newest) = secrets.into_iter().next() {
            self.members.insert("secret".to_owned(), Value::String(newest));
        }
    }
}

pub(super) fn is_enabled(app: &AppSettings) -> bool {
    app.members.get("enabled").and_then(Value::as_bool).unwrap_or(true)
}

fn value_of(text: &str) -> Value {
    let parsed = toml::from_str::<Table>(&format!("value = {text}"));
    let value = parsed.ok().filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    value.unwrap_or_else(|| Value::String(text.to_owned()))
}

impl fmt::Display for AppSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut members: Vec<_> = self.members.iter().collect();
        members.sort_by_key(|(name, _)| position(&format!("apps.{name}")));
        // One line per key, inline tables included, so that all keys belong to the app.
        members.into_iter().try_for_each(|(name, value)| writeln!(f, "{name} = {value}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(set: &[&str]) -> AppSettings {
        AppSettings::new("7", "k", &Secret::new("s"), &changes(set, &[]).expect("settings"))
    }

    fn changes(set: &[&str], unset: &[&str]) -> Result<Changes, CliError> {
        let owned = |list: &[&str]| list.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
        Changes::read(None, &owned(set), &owned(unset))
    }

    #[test]
    fn values_are_toml_or_texts() {
        let app = app(&[
            "max_connections=5",
            "allowed_origins=https://a.example",
            "enabled=false",
            "webhooks=[{url=\"http://a\", headers={A=\"b\"}}]",
        ]);
        app.check().expect("good settings");
        assert_eq!(
            app.to_string(),
            "id = \"7\"\nkey = \"k\"\nsecret = \"s\"\nenabled = false\nmax_connections = 5\n\
             allowed_origins = \"https://a.example\"\n\
             webhooks = [{ headers = { A = \"b\" }, url = \"http://a\" }]\n"
        );
    }

    #[test]
    fn invalid_settings_are_rejected() {
        for setting in ["max_connections", "=5", "id=8", "secret=x", "secrets=[]", "a.b=1", "a b=1"] {
            assert!(changes(&[setting], &[]).is_err(), "{setting}");
        }
        for setting in ["id", "secret", "max_conections", "listen"] {
            assert!(changes(&[], &[setting]).is_err(), "{setting}");
        }
        assert!(app(&["max_conections=5"]).check().is_err());
        assert!(app(&["max_connections=many"]).check().is_err());
        assert!(app(&["max_connections=1\nlisten=2"]).check().is_err());
    }

    #[test]
    fn changes_replace_and_remove_settings() {
        let mut app = app(&["max_connections=5", "enabled=false"]);
        app.apply(&changes(&["max_connections=6", "decay_seconds=2"], &["enabled"]).expect("changes"));
        let expect = "id = \"7\"\nkey = \"k\"\nsecret = \"s\"\nmax_connections = 6\ndecay_seconds = 2\n";
        assert_eq!(app.to_string(), expect);
    }

    #[test]
    fn rotation_keeps_old_secrets_until_they_are_dropped() {
        let mut app = app(&[]);
        app.add_secret(&Secret::new("s2"));
        app.add_secret(&Secret::new("s3"));
        assert_eq!(app.secrets(), ["s3", "s2", "s"]);
        let read = config::read_app(&app.to_string(), &Origin::Command).expect("an app");
        assert_eq!(
            read.secrets.iter().map(|it| it.reveal()).collect::<Vec<_>>(),
            [b"s3".as_slice(), b"s2", b"s"]
        );
        app.drop_old_secrets();
        assert_eq!((app.secrets(), app.dropped), (vec!["s3".to_owned()], 2));
    }
}
