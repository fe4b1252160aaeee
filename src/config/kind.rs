//! The types of keys: how a raw value is parsed, stored and shown.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use ipnet::IpNet;

use super::fault::Wrong;
use super::message_rate::{self, MessageRate};
use super::raw::{HIDDEN, Raw, listed, quoted};
use super::redis_url::{self, RedisUrlError};
use super::{channel_deltas, edge, webhooks};
use crate::app::{Secret, Webhook};
use crate::delta::channels::ChannelSetting;
use crate::delta::conflation::KeyPath;
use crate::limits;

/// Stores a valid value in settings of type `S`.
type Set<S, T> = fn(&mut S, T);

/// The type of a key, and where its value is stored.
#[derive(Debug)]
pub enum Kind<S> {
    /// `HOST:PORT`
    Address(Set<S, SocketAddr>),
    /// ASCII letters, digits and these characters.
    Word(&'static str, Set<S, String>),
    /// A text that [`Secret::parse`] accepts; never shown.
    Secret(Set<S, Secret>),
    /// A list of secrets; never shown.
    Secrets(Set<S, Vec<Secret>>),
    /// Shown without its password.
    RedisUrl(Set<S, String>),
    Flag(Set<S, bool>),
    /// A whole number in this range, bounds included.
    Count(u64, u64, Set<S, u64>),
    /// 1 to this number, or no limit: 0, or -1 as in soketi.
    Limit(u64, Set<S, Option<u64>>),
    /// A number in this range, bounds included, that may have a fraction.
    Number(f64, f64, Set<S, f64>),
    /// One of these, in any case.
    Choice(&'static [&'static str], Set<S, &'static str>),
    /// A list of `client/<=version`.
    ClientPatterns(Set<S, Vec<String>>),
    LogFilter(Set<S, String>),
    /// Channel patterns and their delta settings.
    ChannelDeltas(Set<S, Vec<(String, ChannelSetting)>>),
    /// Path of a member within an event's data: `symbol`, `asset.id`. `None` if it is empty.
    KeyPath(Set<S, Option<KeyPath>>),
    /// A list of origins such as `https://*.example.com`; `*` is all.
    Origins(Set<S, Vec<String>>),
    /// A list of addresses and CIDRs.
    Networks(Set<S, Vec<IpNet>>),
    /// Empty, or `/path` without a trailing slash.
    PathPrefix(Set<S, String>),
    /// A table: the rate limit of one connection's messages. `None` is no limit.
    MessageRate(Set<S, Option<MessageRate>>),
    /// A list of tables.
    Webhooks(Set<S, Vec<Webhook>>),
    /// A key of Sockudo for something that needs no setting here. Any value is accepted
    /// and has no effect.
    Moot,
    /// A key of Sockudo for a feature that is not implemented yet. Only values that
    /// disable it are accepted: false, 0, empty, or a table with `enabled = false`.
    Unbuilt,
}

impl<S> Kind<S> {
    /// An invalid value as shown in error messages, without secrets.
    pub(super) fn shown(&self, raw: &Raw) -> String {
        match self {
            Kind::Secret(_) | Kind::Secrets(_) | Kind::Webhooks(_) => HIDDEN.to_owned(),
            Kind::RedisUrl(_) => redis_url::hide_password(&raw.to_string()),
            _ => raw.to_string(),
        }
    }

    /// Parses a value, stores it in `settings`, and returns it in TOML notation, with secrets
    /// hidden.
    pub(super) fn read(&self, raw: &Raw, settings: &mut S) -> Result<String, Wrong> {
        let shown = match self {
            Kind::Address(set) => {
                put(settings, *set, raw.text().and_then(read_address), |it| format!("\"{it}\""))
            }
            Kind::Word(extra, set) => {
                put(settings, *set, raw.word().filter(|text| is_word(text, extra)), |it| quoted(it))
            }
            Kind::Secret(set) => {
                put(settings, *set, raw.text().and_then(Secret::parse), |_| HIDDEN.to_owned())
            }
            Kind::Secrets(set) => {
                put(settings, *set, raw.texts().and_then(|it| read_secrets(&it)), |secrets| {
                    listed(secrets.iter().map(|_| HIDDEN.to_owned()))
                })
            }
            Kind::RedisUrl(set) => {
                let url = raw.text().map(str::trim);
                match url.map(redis_url::check) {
                    Some(Err(RedisUrlError::Unsupported(scheme))) => {
                        return Err(Wrong::UnsupportedValue(scheme.to_owned()));
                    }
                    Some(Ok(())) => put(settings, *set, url.map(str::to_owned), |it| {
                        quoted(&redis_url::hide_password(it))
                    }),
                    _ => None,
                }
            }
            Kind::Flag(set) => put(settings, *set, raw.flag(), bool::to_string),
            Kind::Count(min, max, set) => put(settings, *set, read_in_range(raw, *min, *max), u64::to_string),
            Kind::Limit(max, set) => {
                let limit = raw.digits().and_then(|it| read_limit(it, *max));
                put(settings, *set, limit, |it| it.unwrap_or(0).to_string())
            }
            Kind::Number(min, max, set) => {
                put(settings, *set, read_in_range(raw, *min, *max), f64::to_string)
            }
            Kind::Choice(choices, set) => {
                put(settings, *set, raw.text().and_then(|it| read_choice(it, choices)), |it| quoted(it))
            }
            Kind::ClientPatterns(set) => {
                let patterns = raw.texts().filter(|list| list.iter().all(|it| is_client_pattern(it)));
                put(settings, *set, patterns, |it| quoted_list(it))
            }
            Kind::LogFilter(set) => {
                let filter = raw.text().filter(|it| is_log_filter(it));
                put(settings, *set, filter.map(str::to_owned), |it| quoted(it))
            }
            Kind::ChannelDeltas(set) => {
                put(settings, *set, Some(channel_deltas::read(raw)?), |it| channel_deltas::shown(it))
            }
            Kind::KeyPath(set) => {
                let path = match raw.is_empty() {
                    true => Some(None),
                    false => raw.text().and_then(KeyPath::parse).map(Some),
                };
                put(settings, *set, path, |it| quoted(&it.as_ref().map(KeyPath::text).unwrap_or_default()))
            }
            Kind::Origins(set) => {
                put(settings, *set, raw.texts().and_then(edge::read_origins), |it| match it.is_empty() {
                    true => quoted("*"),
                    false => quoted_list(it),
                })
            }
            Kind::Networks(set) => {
                let networks = raw.texts().and_then(|it| edge::read_networks(&it));
                put(settings, *set, networks, |it| listed(it.iter().map(|it| format!("\"{it}\""))))
            }
            Kind::PathPrefix(set) => {
                let prefix = raw.text().filter(|it| edge::is_path_prefix(it));
                put(settings, *set, prefix.map(str::to_owned), |it| quoted(it))
            }
            Kind::MessageRate(set) => put(settings, *set, Some(message_rate::read(raw)?), |it| {
                it.as_ref().map_or("{}".to_owned(), MessageRate::to_string)
            }),
            Kind::Webhooks(set) => {
                put(settings, *set, Some(webhooks::read(raw)?), |it| listed(it.iter().map(webhooks::shown)))
            }
            Kind::Unbuilt if !raw.is_empty() => return Err(Wrong::Unsupported),
            Kind::Unbuilt | Kind::Moot => Some(raw.to_string()),
        };
        shown.ok_or_else(|| Wrong::Expected(self.to_string()))
    }
}

/// A kind of the settings of the server or of an app.
pub trait AnyKind: fmt::Display {
    fn is_moot(&self) -> bool;
    fn is_unbuilt(&self) -> bool;
    /// Whether values must not be in an environment which others can read.
    fn is_secret(&self) -> bool;
}

impl<S> AnyKind for Kind<S> {
    fn is_moot(&self) -> bool {
        matches!(self, Kind::Moot)
    }

    fn is_unbuilt(&self) -> bool {
        matches!(self, Kind::Unbuilt)
    }

    fn is_secret(&self) -> bool {
        matches!(self, Kind::Secret(_) | Kind::Secrets(_) | Kind::RedisUrl(_))
    }
}

/// What [`Secret::parse`] accepts.
pub const SECRET_EXPECTED: &str = "without quotes or white space around it, and without control characters";

/// Stores a value and returns it as shown; `None` if there is none.
fn put<S, T>(
    settings: &mut S,
    set: Set<S, T>,
    value: Option<T>,
    show: impl Fn(&T) -> String,
) -> Option<String> {
    let value = value?;
    let shown = show(&value);
    set(settings, value);
    Some(shown)
}

fn quoted_list(texts: &[String]) -> String {
    listed(texts.iter().map(|it| quoted(it)))
}

/// The end of the sentence "must be …" in error messages.
impl<S> fmt::Display for Kind<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Address(_) => f.write_str("HOST:PORT, such as `0.0.0.0:6001` or `[::]:6001`"),
            Kind::Word(extra, _) => write!(
                f,
                "a text of at most {} ASCII letters, digits and the characters `{extra}`",
                limits::APP_NAME_BYTES_MAX
            ),
            Kind::Secret(_) => write!(f, "a text that is not empty, {SECRET_EXPECTED}"),
            Kind::Secrets(_) => write!(
                f,
                "a list of at most {} texts that are not empty, {SECRET_EXPECTED}",
                limits::APP_SECRETS_MAX
            ),
            Kind::RedisUrl(_) => f.write_str(
                "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS, \
                 with `%`, `/`, `@`, `#` and `?` in a password written as %25, %2F, %40, %23 and %3F, \
                 and without spaces and quotes",
            ),
            Kind::Flag(_) => f.write_str("true or false"),
            Kind::Count(min, max, _) => write!(f, "a whole number from {min} to {max}"),
            Kind::Limit(max, _) => write!(f, "a whole number from 1 to {max}, or 0 for no limit"),
            Kind::Number(min, max, _) => write!(f, "a number from {min} to {max}"),
            Kind::Choice(choices, _) => f.write_str(&choices.join(" or ")),
            Kind::ClientPatterns(_) => f.write_str("a list of `CLIENT/<=VERSION`, such as `python/<=2.2`"),
            Kind::LogFilter(_) => f.write_str(
                "off, error, warn, info, debug or trace, or several as in `info,fanfare=debug`, \
                 each other word as MODULE=LEVEL",
            ),
            Kind::ChannelDeltas(_) => f.write_str(channel_deltas::EXPECTED),
            Kind::KeyPath(_) => f.write_str(channel_deltas::KEY_PATH),
            Kind::Origins(_) => f.write_str(edge::ORIGINS_EXPECTED),
            Kind::Networks(_) => f.write_str(edge::NETWORKS_EXPECTED),
            Kind::PathPrefix(_) => f.write_str(edge::PATH_PREFIX_EXPECTED),
            Kind::MessageRate(_) => f.write_str(message_rate::EXPECTED),
            Kind::Webhooks(_) => f.write_str(webhooks::EXPECTED),
            Kind::Unbuilt => f.write_str("off"),
            Kind::Moot => f.write_str("anything"),
        }
    }
}

/// Resolves host names. IPv4 addresses are preferred: `localhost` is 127.0.0.1.
fn read_address(text: &str) -> Option<SocketAddr> {
    let addresses: Vec<SocketAddr> = text.trim().to_socket_addrs().ok()?.collect();
    addresses.iter().find(|it| it.is_ipv4()).or(addresses.first()).copied()
}

fn read_choice(text: &str, choices: &[&'static str]) -> Option<&'static str> {
    choices.iter().copied().find(|choice| choice.eq_ignore_ascii_case(text.trim()))
}

fn is_word(text: &str, extra: &str) -> bool {
    (1..=limits::APP_NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || extra.contains(char))
}

/// `Some(None)` is no limit.
fn read_limit(digits: &str, max: u64) -> Option<Option<u64>> {
    let count = if digits == "-1" { 0 } else { digits.parse().ok()? };
    (count <= max).then_some(Some(count).filter(|it| *it > 0))
}

fn read_in_range<T: FromStr + PartialOrd>(raw: &Raw, min: T, max: T) -> Option<T> {
    raw.digits()?.parse().ok().filter(|it| (min..=max).contains(it))
}

fn read_secrets(texts: &[String]) -> Option<Vec<Secret>> {
    let secrets: Option<Vec<Secret>> = texts.iter().map(|text| Secret::parse(text)).collect();
    secrets.filter(|secrets| secrets.len() <= limits::APP_SECRETS_MAX)
}

fn is_client_pattern(text: &str) -> bool {
    let Some((client, version)) = text.split_once("/<=") else { return false };
    is_word(client, "-_.") && version.split('.').all(|part| part.parse::<u32>().is_ok())
}

/// Whether the text is a log filter in which every bare word is a level. `EnvFilter`
/// parses another word as the name of a module: `FANFARE_LOG=verbose` would log only the
/// module `verbose`, that is, nothing.
fn is_log_filter(text: &str) -> bool {
    let is_level =
        |word: &str| !word.is_empty() && word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let bare_words_are_levels =
        text.split(',').all(|part| part.contains(['=', '[', ']']) || is_level(part.trim()));
    bare_words_are_levels && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Checks the stored value; `None` if the text is invalid.
    fn check<T: fmt::Debug + PartialEq>(
        kind: impl Fn(Set<Option<T>, T>) -> Kind<Option<T>>,
        text: &str,
        expect: Option<T>,
    ) {
        let mut stored = None;
        let kind = kind(|stored, value| *stored = Some(value));
        let read = kind.read(&Raw::Text(text.to_owned()), &mut stored);
        assert_eq!((read.is_ok(), stored), (expect.is_some(), expect), "{kind} of `{text}`");
    }

    #[test]
    fn addresses() {
        let address = |text: &str| Some(text.parse().expect("an address"));
        check(Kind::Address, "[::]:6001", address("[::]:6001"));
        check(Kind::Address, "localhost:6001", address("127.0.0.1:6001"));
        for wrong in ["", "6001", ":", "0.0.0.0", "0.0.0.0:66000", "::1:x"] {
            check(Kind::Address, wrong, None);
        }
    }

    #[test]
    fn numbers_are_parsed_from_texts_within_their_range() {
        for (text, expect) in [(" 10 ", Some(10)), ("11", None), ("-1", None), ("1.5", None)] {
            check(|set| Kind::Count(1, 10, set), text, expect);
        }
        for (text, expect) in [("0.5", Some(0.5)), ("NaN", None), ("1e9", None)] {
            check(|set| Kind::Number(0.0, 1.0, set), text, expect);
        }
        let mut count = 0;
        let kind = Kind::Count(1, 99, |count, value| *count = value);
        assert_eq!(kind.read(&Raw::Number("12".into()), &mut count), Ok("12".to_owned()));
        assert_eq!(count, 12);
    }

    #[test]
    fn limit_of_zero_or_minus_one_is_no_limit() {
        for (text, expect) in [
            ("0", Some(None)),
            ("00", Some(None)),
            ("-1", Some(None)),
            ("7", Some(Some(7))),
            ("11", None),
            ("-2", None),
        ] {
            check(|set| Kind::Limit(10, set), text, expect);
        }
    }

    #[test]
    fn secrets_are_a_bounded_list() {
        let secrets = |texts: &[&str]| Some(texts.iter().map(|it| Secret::new(*it)).collect());
        check(Kind::Secrets, "new, old", secrets(&["new", "old"]));
        check(Kind::Secrets, "new\nold", secrets(&["new", "old"]));
        check(Kind::Secrets, "new,,old", None);
        check(Kind::Secrets, "1,2,3,4,5,6,7,8,9", None);
    }

    #[test]
    fn choices_ignore_case() {
        let choice = |set| Kind::Choice(&["fossil", "xdelta3"], set);
        check(choice, "Fossil", Some("fossil"));
        check(choice, " XDelta3", Some("xdelta3"));
        check(choice, "brotli", None);
        assert!(choice(|_, _| {}).read(&Raw::Number("1".into()), &mut None).is_err());
    }

    #[test]
    fn key_paths() {
        check(Kind::KeyPath, "", Some(None));
        check(Kind::KeyPath, "data.asset.id", Some(KeyPath::parse("asset.id")));
        for wrong in ["a.", ".a", "a..b"] {
            check(Kind::KeyPath, wrong, None);
        }
    }

    #[test]
    fn log_filter_with_unknown_level_is_rejected() {
        for good in ["info", "DEBUG", "warn,fanfare=debug", "fanfare::ws=trace,info", "off"] {
            check(Kind::LogFilter, good, Some(good.to_owned()));
        }
        for wrong in ["", "verbose", "inof", "fanfare=loud", "info,"] {
            check(Kind::LogFilter, wrong, None);
        }
    }

    #[test]
    fn client_patterns() {
        check(Kind::ClientPatterns, "", Some(vec![]));
        let patterns = vec!["python/<=2.2".to_owned(), "js/<=1".to_owned()];
        check(Kind::ClientPatterns, "python/<=2.2, js/<=1", Some(patterns));
        for wrong in ["python", "python/2.2", "python/<=", "python/<=2.x", "/<=1", "a/<=1,"] {
            check(Kind::ClientPatterns, wrong, None);
        }
    }

    #[test]
    fn unbuilt_key_accepts_only_values_that_disable_it() {
        let read = |kind: Kind<()>, raw: &Raw| kind.read(raw, &mut ());
        let text = |text: &str| Raw::Text(text.into());
        let table = |name: &str, value: Raw| Raw::Table(BTreeMap::from([(name.to_owned(), value)]));
        let off = table("enabled", Raw::Flag(false));
        for off in
            [Raw::Flag(false), Raw::Number("0".into()), text(""), text("false"), Raw::List(vec![]), off]
        {
            assert_eq!(read(Kind::Unbuilt, &off), Ok(off.to_string()));
        }
        let (number, list) = (Raw::Number("1".into()), Raw::List(vec![text("")]));
        for on in [Raw::Flag(true), number, text("x"), list, table("url", text("x"))] {
            assert_eq!(read(Kind::Unbuilt, &on), Err(Wrong::Unsupported), "{on}");
            assert_eq!(read(Kind::Moot, &on), Ok(on.to_string()));
        }
    }
}
