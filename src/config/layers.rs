//! The four sources of a value, lowest first: defaults, file, environment, flags.
//! Each layer overrides single keys of the layers below it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeArray, DeString, DeTable, DeValue};

use super::app_draft::AppDraft;
use super::environment::Environment;
use super::fault::{Fault, Mistake, Wrong};
use super::keys::{self, CONFIG_VARIABLE, KEYS, Key, SECTIONS, Scope};
use super::origin::Origin;
use super::place::Place;
use super::problem::Problem;
use super::raw::Raw;
use super::{Config, DEV_APP_ID, DEV_APP_KEY, DEV_APP_SECRET, DEV_LISTEN, Flags};

/// A value and its source.
#[derive(Debug, Clone)]
pub struct Setting {
    /// TOML notation, with secrets hidden.
    pub value: String,
    pub origin: Origin,
}

/// The effective value of each key: that of the highest layer.
#[derive(Debug)]
pub struct Settings {
    entries: BTreeMap<Place, Setting>,
    /// Keys with an invalid value. They are not reported as missing as well.
    refused: BTreeSet<Place>,
    pub(super) config: Config,
    pub(super) apps: Vec<AppDraft>,
    /// The path of the configuration file and the source of that path.
    pub(super) file: Option<(String, Origin)>,
}

impl Settings {
    /// Without any setting, defaults included.
    pub(super) fn new() -> Settings {
        let (entries, refused) = (BTreeMap::new(), BTreeSet::new());
        Settings { entries, refused, config: Config::unset(), apps: Vec::new(), file: None }
    }

    pub fn get(&self, place: Place) -> Option<&Setting> {
        self.entries.get(&place)
    }

    pub fn iter(&self) -> impl Iterator<Item = (Place, &Setting)> {
        self.entries.iter().map(|(place, setting)| (*place, setting))
    }

    pub(super) fn was_refused(&self, place: Place) -> bool {
        self.refused.contains(&place)
    }

    fn put(&mut self, place: Place, raw: &Raw, origin: Origin, problems: &mut Vec<Problem>) {
        let inside = String::new();
        let problem = match self.store(place, raw) {
            Ok(value) => {
                self.entries.insert(place, Setting { value, origin });
                return;
            }
            Err(Wrong::Expected(expected)) => {
                Problem::Wrong { place, inside, expected, found: place.key().shown(raw), origin }
            }
            Err(Wrong::Unsupported) => Problem::Unsupported { place, inside, origin },
            Err(Wrong::UnsupportedValue(value)) => Problem::UnsupportedValue { place, value, origin },
            Err(Wrong::Inside(mistakes)) => {
                self.refused.insert(place);
                return problems.extend(mistakes.into_iter().map(|it| problem_inside(place, it, &origin)));
            }
        };
        self.refused.insert(place);
        problems.push(problem);
    }

    /// Stores a value in the configuration or in its app.
    fn store(&mut self, place: Place, raw: &Raw) -> Result<String, Wrong> {
        match &place.key().scope {
            Scope::Server(kind) => kind.read(raw, &mut self.config),
            Scope::App(kind) => kind.read(raw, &mut self.apps[place.app.expect("a key of an app")]),
        }
    }

    fn add_app(&mut self, origin: Origin) -> usize {
        let app = self.apps.len();
        self.apps.push(AppDraft::new(origin));
        self.put_defaults(Some(app));
        app
    }

    fn put_defaults(&mut self, app: Option<usize>) {
        for (position, key) in KEYS.iter().enumerate() {
            if let Some(default) = key.default.filter(|_| (key.section() == "apps") == app.is_some()) {
                let place = Place { app, position };
                let value = self.store(place, &Raw::Text(default.to_owned()));
                let value = value.expect("every default is valid for its key");
                self.entries.insert(place, Setting { value, origin: Origin::Default });
            }
        }
    }
}

fn problem_inside(place: Place, mistake: Mistake, origin: &Origin) -> Problem {
    let Mistake { inside, fault } = mistake;
    let origin = origin.clone();
    match fault {
        Fault::Expected { expected, found } => Problem::Wrong { place, inside, expected, found, origin },
        Fault::Unsupported => Problem::Unsupported { place, inside, origin },
        Fault::Unknown { nearest } => {
            Problem::UnknownKey { key: format!("{place}{inside}"), nearest: nearest.to_owned(), origin }
        }
    }
}

pub(super) fn read(flags: &Flags, environment: &Environment, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::new();
    settings.put_defaults(None);
    if flags.dev {
        let listen = Raw::Text(DEV_LISTEN.to_owned());
        settings.put(Place::of(keys::LISTEN), &listen, Origin::Flag("--dev"), problems);
    }
    read_file(&mut settings, flags, environment, problems);
    read_environment(&mut settings, environment, problems);
    read_flags(&mut settings, flags, problems);
    settings.config.redis_file = redis_file(&settings, environment);
    if flags.dev && settings.apps.is_empty() {
        add_dev_app(&mut settings, problems);
    }
    settings
}

fn read_file(settings: &mut Settings, flags: &Flags, environment: &Environment, problems: &mut Vec<Problem>) {
    let flag = flags.config.as_deref().map(|path| (path, Origin::Flag("--config")));
    let variable = environment.get(CONFIG_VARIABLE);
    let variable = variable.map(|path| (Path::new(path), Origin::Env(CONFIG_VARIABLE.to_owned())));
    let Some((path, origin)) = flag.or(variable) else { return };
    settings.file = Some((path.display().to_string(), origin.clone()));
    match std::fs::read_to_string(path) {
        Ok(text) => read_text(settings, &origin_in(path, &text), &text, problems),
        Err(error) => problems.push(Problem::FileUnreadable { path: path.to_owned(), origin, error }),
    }
}

/// Maps a byte offset in `text` to its line in the file at `path`.
fn origin_in<'a>(path: &Path, text: &'a str) -> impl Fn(usize) -> Origin + use<'a> {
    let name = path.display().to_string();
    move |at: usize| {
        let line = text.as_bytes()[..at.min(text.len())].iter().filter(|byte| **byte == b'\n').count() + 1;
        Origin::File { name: name.clone(), line }
    }
}

/// Reads settings from TOML. `origin` maps a byte offset in `text` to its source.
pub(super) fn read_text(
    settings: &mut Settings,
    origin: &impl Fn(usize) -> Origin,
    text: &str,
    problems: &mut Vec<Problem>,
) {
    match DeTable::parse(text) {
        Ok(table) => FileReader { settings, problems, origin }.read_root(table.get_ref()),
        Err(error) => {
            let at = error.span().map_or(0, |span| span.start);
            problems.push(Problem::Syntax { origin: origin(at), message: error.message().to_owned() });
        }
    }
}

struct FileReader<'a, F> {
    settings: &'a mut Settings,
    problems: &'a mut Vec<Problem>,
    /// Maps a byte offset in the text to its source.
    origin: F,
}

impl<F: Fn(usize) -> Origin> FileReader<'_, F> {
    fn read_root(&mut self, root: &DeTable<'_>) {
        for (name, value) in in_order(root) {
            let at = name.span().start;
            let section = SECTIONS.iter().find(|section| **section == name.get_ref());
            match (section, value.get_ref()) {
                (None, value) => self.read_key(None, "", name.get_ref(), value, at),
                (Some(&"apps"), DeValue::Array(apps)) => self.read_apps(apps, at),
                (Some(&section), DeValue::Table(table)) if section != "apps" => {
                    self.read_table(None, section, table);
                }
                (Some(&section), _) => self.refuse_section(section, at),
            }
        }
    }

    fn read_apps(&mut self, apps: &DeArray<'_>, at: usize) {
        for app in apps.iter() {
            let DeValue::Table(table) = app.get_ref() else { return self.refuse_section("apps", at) };
            let number = self.settings.add_app((self.origin)(app.span().start));
            self.read_table(Some(number), "apps", table);
        }
    }

    fn read_table(&mut self, app: Option<usize>, section: &str, table: &DeTable<'_>) {
        for (name, value) in in_order(table) {
            self.read_key(app, section, name.get_ref(), value.get_ref(), name.span().start);
        }
    }

    fn read_key(
        &mut self,
        app: Option<usize>,
        section: &str,
        name: &DeString<'_>,
        value: &DeValue<'_>,
        at: usize,
    ) {
        let origin = (self.origin)(at);
        let path = if section.is_empty() { name.to_string() } else { format!("{section}.{name}") };
        // A quoted "apps.id" at the top level is not the key of an app.
        let position = keys::position(&path).filter(|position| KEYS[*position].section() == section);
        if let Some(position) = position {
            return self.settings.put(Place { app, position }, &value.into(), origin, self.problems);
        }
        let key = app.map_or(path, |app| format!("apps[{app}].{name}"));
        self.problems.push(Problem::UnknownKey { key, nearest: keys::nearest_key(section, name), origin });
    }

    fn refuse_section(&mut self, section: &'static str, at: usize) {
        let expected = if section == "apps" { "[[apps]]".to_owned() } else { format!("[{section}]") };
        self.problems.push(Problem::NotASection { section, expected, origin: (self.origin)(at) });
    }
}

/// In the order of the file, so that mistakes are reported from its top to its end.
fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Spanned<DeString<'i>>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

fn read_environment(settings: &mut Settings, environment: &Environment, problems: &mut Vec<Problem>) {
    let given: Vec<(&'static Key, Origin, String)> = environment
        .iter()
        .filter(|(name, _)| *name != CONFIG_VARIABLE)
        .filter_map(|(name, value)| read_variable(name, value, environment, problems))
        .collect();
    let app = env_app(settings, &given);
    for (key, origin, value) in given {
        let app = app.filter(|_| key.section() == "apps");
        settings.put(Place { app, ..Place::of(key) }, &Raw::Text(value), origin, problems);
    }
}

/// The app that the variables configure: the app of the file with the same id; without
/// an id, the only app of the file (a file without the secret); otherwise a new one.
fn env_app(settings: &mut Settings, given: &[(&'static Key, Origin, String)]) -> Option<usize> {
    let (_, origin, _) = given.iter().find(|(key, ..)| key.section() == "apps")?;
    let id = given.iter().find(|(key, ..)| key.path == keys::ID.path);
    let known = match id {
        Some((_, _, id)) => settings.apps.iter().position(|draft| *draft.app.id == **id),
        None => Some(0).filter(|_| settings.apps.len() == 1),
    };
    Some(known.unwrap_or_else(|| settings.add_app(origin.clone())))
}

fn read_variable(
    name: &str,
    value: &str,
    environment: &Environment,
    problems: &mut Vec<Problem>,
) -> Option<(&'static Key, Origin, String)> {
    let origin = Origin::Env(name.to_owned());
    if let Some(key) = KEYS.iter().find(|key| key.variable() == name) {
        return Some((key, origin, value.to_owned()));
    }
    let Some(key) = KEYS.iter().find(|key| key.file_variable().as_deref() == Some(name)) else {
        problems
            .push(Problem::UnknownVariable { name: name.to_owned(), nearest: keys::nearest_variable(name) });
        return None;
    };
    if environment.get(&key.variable()).is_some() {
        problems.push(Problem::GivenTwice { name: key.variable() });
        return None;
    }
    match std::fs::read_to_string(value) {
        // Editors and `echo` end a file with a line break, which is not part of the value.
        Ok(text) => Some((key, origin, text.trim_end_matches(['\r', '\n']).to_owned())),
        Err(error) => {
            problems.push(Problem::ValueFileUnreadable { path: value.to_owned(), origin, error });
            None
        }
    }
}

/// The file that the effective Redis URL was read from.
fn redis_file(settings: &Settings, environment: &Environment) -> Option<PathBuf> {
    let (setting, variable) = (settings.get(Place::of(keys::REDIS))?, keys::REDIS.file_variable()?);
    let path = environment.get(&variable).filter(|_| setting.origin == Origin::Env(variable.clone()));
    path.map(PathBuf::from)
}

fn read_flags(settings: &mut Settings, flags: &Flags, problems: &mut Vec<Problem>) {
    let texts = [
        (keys::LISTEN, "--listen", &flags.listen),
        (keys::REDIS, "--redis", &flags.redis),
        (keys::REDIS_PREFIX, "--redis-prefix", &flags.redis_prefix),
        (keys::METRICS_LISTEN, "--metrics-listen", &flags.metrics_listen),
    ];
    for (key, flag, text) in texts {
        if let Some(text) = text {
            settings.put(Place::of(key), &Raw::Text(text.clone()), Origin::Flag(flag), problems);
        }
    }
}

fn add_dev_app(settings: &mut Settings, problems: &mut Vec<Problem>) {
    let origin = Origin::Flag("--dev");
    let app = settings.add_app(origin.clone());
    for (key, value) in [(keys::ID, DEV_APP_ID), (keys::KEY, DEV_APP_KEY), (keys::SECRET, DEV_APP_SECRET)] {
        settings.put(Place::of_app(app, key), &Raw::Text(value.to_owned()), origin.clone(), problems);
    }
}
