//! `channel_delta_compression`: a table from channel patterns to delta settings
//! (protocol.md 3.11).

use std::collections::BTreeMap;

use super::fault::{Fault, Mistake, Wrong};
use super::raw::{Raw, quoted};
use super::table::Table;
use crate::delta::Algorithm;
use crate::delta::channels::ChannelSetting;
use crate::delta::conflation::KeyPath;
use crate::limits::CHAINS_CEILING;

pub(super) const EXPECTED: &str = "a table from channel names, with at most one `*`, to \"inherit\", \"disabled\", \
     \"fossil\", \"xdelta3\" or a table; in a variable that table as in the file, or `NAME=WORD` with commas between";

pub(super) const KEY_PATH: &str = "names with dots between them, such as `symbol` or `asset.id`";

const PATTERN: &str = "under a channel name with at most one `*`";
const SETTING: &str = "\"inherit\", \"disabled\", \"fossil\", \"xdelta3\" or a table of `enabled`, `algorithm`, \
     `conflation_key`, `max_messages_per_key`, `max_conflation_keys`, `enable_tags` and `cache_sync`";
const NAMES: &[&str] = &[
    "enabled",
    "algorithm",
    "conflation_key",
    "max_messages_per_key",
    "max_conflation_keys",
    "enable_tags",
    "cache_sync",
];
const FLAG: &str = "true or false";

/// Parses the table into pairs of a pattern and its setting.
pub(super) fn read(raw: &Raw) -> Result<Vec<(String, ChannelSetting)>, Wrong> {
    let parsed = raw.parsed();
    match parsed.as_ref().unwrap_or(raw) {
        // Before `is_empty`, because a channel may have the name `enabled`.
        Raw::Table(patterns) => read_patterns(patterns),
        raw if raw.is_empty() => Ok(Vec::new()),
        // In an environment variable: `quiet-*=disabled,loud=fossil`.
        Raw::Text(text) => read_words(text).ok_or_else(expected).and_then(|it| read_patterns(&it)),
        _ => Err(expected()),
    }
}

fn expected() -> Wrong {
    Wrong::Expected(EXPECTED.to_owned())
}

/// `None` if an item is not a pair, or if a pattern occurs twice.
fn read_words(text: &str) -> Option<BTreeMap<String, Raw>> {
    let mut patterns = BTreeMap::new();
    for item in text.split([',', '\n']) {
        let (pattern, word) = item.split_once('=')?;
        let earlier = patterns.insert(pattern.trim().to_owned(), Raw::Text(word.trim().to_owned()));
        if earlier.is_some() {
            return None;
        }
    }
    Some(patterns)
}

fn read_patterns(patterns: &BTreeMap<String, Raw>) -> Result<Vec<(String, ChannelSetting)>, Wrong> {
    let mut mistakes = Vec::new();
    let mut settings = Vec::new();
    for (pattern, raw) in patterns {
        let inside = format!(".{}", pattern.escape_debug());
        if pattern.is_empty() || pattern.matches('*').count() > 1 {
            let found = format!("under {}", quoted(pattern));
            mistakes.push(mistake(inside.clone(), PATTERN, found));
        }
        settings.extend(read_setting(raw, inside, &mut mistakes).map(|it| (pattern.clone(), it)));
    }
    if mistakes.is_empty() { Ok(settings) } else { Err(Wrong::Inside(mistakes)) }
}

fn mistake(inside: String, expected: &str, found: String) -> Mistake {
    Mistake { inside, fault: Fault::Expected { expected: expected.to_owned(), found } }
}

fn read_setting(raw: &Raw, inside: String, mistakes: &mut Vec<Mistake>) -> Option<ChannelSetting> {
    if let Raw::Table(members) = raw {
        let table = Table::new(members, inside, NAMES, &[], mistakes);
        return Some(read_members(table));
    }
    let setting = raw.text().and_then(read_word);
    if setting.is_none() {
        mistakes.push(mistake(inside, SETTING, raw.to_string()));
    }
    setting
}

/// Parses a setting of one word. "inherit" sets nothing, and as the first match it hides
/// all other patterns.
fn read_word(word: &str) -> Option<ChannelSetting> {
    let unset = ChannelSetting::default();
    match word.to_ascii_lowercase().as_str() {
        "inherit" => Some(unset),
        "disabled" => Some(ChannelSetting { enabled: Some(false), ..unset }),
        name => Some(ChannelSetting { algorithm: Some(Algorithm::parse(name)?), ..unset }),
    }
}

fn read_members(mut table: Table<'_>) -> ChannelSetting {
    let algorithm = |raw: &Raw| raw.text().and_then(Algorithm::parse);
    let path = |raw: &Raw| raw.text().and_then(KeyPath::parse);
    let number = format!("a whole number from 1 to {CHAINS_CEILING}");
    ChannelSetting {
        enabled: table.read("enabled", FLAG, Raw::flag),
        algorithm: table.read("algorithm", "fossil or xdelta3", algorithm),
        conflation_key: table.read("conflation_key", KEY_PATH, path),
        keys_max: table.read("max_conflation_keys", &number, count),
        messages_per_key_max: table.read("max_messages_per_key", &number, count),
        shows_tags: table.read("enable_tags", FLAG, Raw::flag),
        cache_sync: table.read("cache_sync", FLAG, Raw::flag),
    }
}

fn count(raw: &Raw) -> Option<usize> {
    let number: u64 = raw.digits()?.parse().ok()?;
    (1..=CHAINS_CEILING).contains(&number).then_some(usize::try_from(number).ok()?)
}

/// TOML notation.
pub(super) fn shown(patterns: &[(String, ChannelSetting)]) -> String {
    let items = patterns.iter().map(|(pattern, it)| format!("{} = {}", quoted(pattern), shown_setting(it)));
    match patterns.is_empty() {
        true => "{}".to_owned(),
        false => format!("{{ {} }}", items.collect::<Vec<_>>().join(", ")),
    }
}

fn shown_setting(setting: &ChannelSetting) -> String {
    let ChannelSetting { enabled, algorithm, conflation_key, .. } = setting;
    let members = [
        enabled.map(|it| it.to_string()),
        algorithm.map(|it| quoted(it.name())),
        conflation_key.as_ref().map(|it| quoted(&it.text())),
        setting.messages_per_key_max.map(|it| it.to_string()),
        setting.keys_max.map(|it| it.to_string()),
        setting.shows_tags.map(|it| it.to_string()),
        setting.cache_sync.map(|it| it.to_string()),
    ];
    let word = ["inherit", "disabled"].into_iter().chain(Algorithm::ALL.map(Algorithm::name));
    if let Some(word) = word.into_iter().find(|word| read_word(word).as_ref() == Some(setting)) {
        return quoted(word);
    }
    let members = NAMES.iter().zip(members);
    let members: Vec<String> = members.filter_map(|(name, it)| Some(format!("{name} = {}", it?))).collect();
    format!("{{ {} }}", members.join(", "))
}
