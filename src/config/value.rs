//! Parses raw values into typed ones. [`Kind::read`] is the only constructor of a
//! [`Value`].

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};

use ipnet::IpNet;

use super::fault::Wrong;
use super::keys::Kind;
use super::message_rate::{self, MessageRate};
use super::raw::{Raw, listed, quoted};
use super::redis_url::{self, RedisUrlError};
use super::{channel_deltas, edge, webhooks};
use crate::app::{Secret, Webhook};
use crate::delta::channels::ChannelSetting;
use crate::delta::conflation::KeyPath;
use crate::limits;

/// A value that is valid for its key.
#[derive(Clone, PartialEq)]
pub enum Value {
    Address(SocketAddr),
    Text(String),
    Secret(Secret),
    /// May contain a password.
    RedisUrl(String),
    Flag(bool),
    Count(u64),
    Number(f64),
    List(Vec<String>),
    ChannelDeltas(Vec<(String, ChannelSetting)>),
    /// `None`: no conflation key.
    KeyPath(Option<KeyPath>),
    Secrets(Vec<Secret>),
    Networks(Vec<IpNet>),
    /// `None`: no limit.
    MessageRate(Option<MessageRate>),
    Webhooks(Vec<Webhook>),
    /// The text of a value for a key without effect.
    Idle(String),
}

impl Kind {
    pub(super) fn read(self, raw: &Raw) -> Result<Value, Wrong> {
        let read = match self {
            Kind::Address => raw.text().and_then(read_address).map(Value::Address),
            Kind::Word(extra) => raw.word().filter(|text| is_word(text, extra)).map(Value::Text),
            Kind::Secret => raw.text().filter(|it| !it.is_empty()).map(|it| Value::Secret(Secret::new(it))),
            Kind::Secrets => raw.texts().and_then(read_secrets).map(Value::Secrets),
            Kind::RedisUrl => return read_redis_url(raw),
            Kind::Flag => raw.flag().map(Value::Flag),
            Kind::Count(min, max) => raw
                .digits()
                .and_then(|it| it.parse().ok())
                .filter(|it| (min..=max).contains(it))
                .map(Value::Count),
            Kind::Limit(max) => raw.digits().and_then(|it| read_limit(it, max)).map(Value::Count),
            Kind::Number(min, max) => raw
                .digits()
                .and_then(|it| it.parse().ok())
                .filter(|it| (min..=max).contains(it))
                .map(Value::Number),
            Kind::Choice(choices) => raw.text().and_then(|it| read_choice(it, choices)).map(Value::Text),
            Kind::ClientPatterns => {
                raw.texts().filter(|list| list.iter().all(|it| is_client_pattern(it))).map(Value::List)
            }
            Kind::LogFilter => raw.text().filter(|it| is_log_filter(it)).map(|it| Value::Text(it.to_owned())),
            Kind::ChannelDeltas => return channel_deltas::read(raw).map(Value::ChannelDeltas),
            Kind::KeyPath if raw.is_empty() => Some(Value::KeyPath(None)),
            Kind::KeyPath => raw.text().and_then(KeyPath::parse).map(|it| Value::KeyPath(Some(it))),
            Kind::Origins => raw.texts().and_then(edge::read_origins).map(Value::List),
            Kind::Networks => raw.texts().and_then(|it| edge::read_networks(&it)).map(Value::Networks),
            Kind::PathPrefix => {
                raw.text().filter(|it| edge::is_path_prefix(it)).map(|it| Value::Text(it.to_owned()))
            }
            Kind::MessageRate => return message_rate::read(raw).map(Value::MessageRate),
            Kind::Webhooks => return webhooks::read(raw).map(Value::Webhooks),
            Kind::Unbuilt if !raw.is_empty() => return Err(Wrong::Unsupported),
            Kind::Unbuilt | Kind::Moot => Some(Value::Idle(raw.to_string())),
        };
        read.ok_or_else(|| Wrong::Expected(self.to_string()))
    }

    /// An invalid value as shown in error messages, without secrets.
    pub(super) fn shown(self, raw: &Raw) -> String {
        match self {
            Kind::Secret | Kind::Secrets | Kind::Webhooks => "[hidden]".to_owned(),
            Kind::RedisUrl => redis_url::hide_password(&raw.to_string()),
            _ => raw.to_string(),
        }
    }
}

/// The end of the sentence "must be …" in error messages.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Address => f.write_str("HOST:PORT, such as `0.0.0.0:6001` or `[::]:6001`"),
            Kind::Word(extra) => write!(
                f,
                "a text of at most {} ASCII letters, digits and the characters `{extra}`",
                limits::APP_NAME_BYTES_MAX
            ),
            Kind::Secret => f.write_str("a text that is not empty"),
            Kind::Secrets => {
                write!(f, "a list of at most {} texts that are not empty", limits::APP_SECRETS_MAX)
            }
            Kind::RedisUrl => f.write_str(
                "redis://[[USER]:PASSWORD@]HOST[:PORT][/DATABASE], or rediss:// for TLS, \
                 with `/`, `@`, `#` and `?` in a password written as %2F, %40, %23 and %3F",
            ),
            Kind::Flag => f.write_str("true or false"),
            Kind::Count(min, max) => write!(f, "a whole number from {min} to {max}"),
            Kind::Limit(max) => write!(f, "a whole number from 1 to {max}, or 0 for no limit"),
            Kind::Number(min, max) => write!(f, "a number from {min} to {max}"),
            Kind::Choice(choices) => f.write_str(&choices.join(" or ")),
            Kind::ClientPatterns => f.write_str("a list of `CLIENT/<=VERSION`, such as `python/<=2.2`"),
            Kind::LogFilter => f.write_str(
                "off, error, warn, info, debug or trace, or several as in `info,fanfare=debug`, \
                 each other word as MODULE=LEVEL",
            ),
            Kind::ChannelDeltas => f.write_str(channel_deltas::EXPECTED),
            Kind::KeyPath => f.write_str(channel_deltas::KEY_PATH),
            Kind::Origins => f.write_str(edge::ORIGINS_EXPECTED),
            Kind::Networks => f.write_str(edge::NETWORKS_EXPECTED),
            Kind::PathPrefix => f.write_str(edge::PATH_PREFIX_EXPECTED),
            Kind::MessageRate => f.write_str(message_rate::EXPECTED),
            Kind::Webhooks => f.write_str(webhooks::EXPECTED),
            Kind::Unbuilt => f.write_str("off"),
            Kind::Moot => f.write_str("anything"),
        }
    }
}

impl fmt::Display for Value {
    /// TOML notation, with secrets hidden.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Address(address) => write!(f, "\"{address}\""),
            Value::Text(text) => f.write_str(&quoted(text)),
            Value::Secret(_) => f.write_str("[hidden]"),
            Value::RedisUrl(url) => f.write_str(&quoted(&redis_url::hide_password(url))),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Count(count) => write!(f, "{count}"),
            Value::Number(number) => write!(f, "{number}"),
            Value::List(list) => f.write_str(&listed(list.iter().map(|it| quoted(it)))),
            Value::Secrets(secrets) => f.write_str(&listed(secrets.iter().map(|_| "[hidden]".to_owned()))),
            Value::Networks(networks) => f.write_str(&listed(networks.iter().map(|it| format!("\"{it}\"")))),
            Value::MessageRate(None) => f.write_str("{}"),
            Value::MessageRate(Some(limit)) => write!(f, "{limit}"),
            Value::Webhooks(hooks) => f.write_str(&listed(hooks.iter().map(webhooks::shown))),
            Value::ChannelDeltas(patterns) => f.write_str(&channel_deltas::shown(patterns)),
            Value::KeyPath(path) => {
                f.write_str(&quoted(&path.as_ref().map(KeyPath::text).unwrap_or_default()))
            }
            Value::Idle(written) => f.write_str(written),
        }
    }
}

/// Equal to `Display`, and so without secrets.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Resolves host names. IPv4 addresses are preferred: `localhost` is 127.0.0.1.
fn read_address(text: &str) -> Option<SocketAddr> {
    let addresses: Vec<SocketAddr> = text.trim().to_socket_addrs().ok()?.collect();
    addresses.iter().find(|it| it.is_ipv4()).or(addresses.first()).copied()
}

fn read_redis_url(raw: &Raw) -> Result<Value, Wrong> {
    let expected = || Wrong::Expected(Kind::RedisUrl.to_string());
    let url = raw.text().ok_or_else(expected)?.trim();
    match redis_url::check(url) {
        Ok(()) => Ok(Value::RedisUrl(url.to_owned())),
        Err(RedisUrlError::Unsupported(scheme)) => Err(Wrong::UnsupportedValue(scheme.to_owned())),
        Err(RedisUrlError::Malformed) => Err(expected()),
    }
}

fn read_choice(text: &str, choices: &[&str]) -> Option<String> {
    let word = text.trim().to_ascii_lowercase();
    choices.contains(&word.as_str()).then_some(word)
}

fn is_word(text: &str, extra: &str) -> bool {
    (1..=limits::APP_NAME_BYTES_MAX).contains(&text.len())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || extra.contains(char))
}

fn read_limit(digits: &str, max: u64) -> Option<u64> {
    match digits {
        "-1" => Some(0),
        digits => digits.parse().ok().filter(|it| *it <= max),
    }
}

fn read_secrets(texts: Vec<String>) -> Option<Vec<Secret>> {
    let good = texts.len() <= limits::APP_SECRETS_MAX && texts.iter().all(|text| !text.is_empty());
    good.then(|| texts.into_iter().map(Secret::new).collect())
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

    fn check(kind: Kind, text: &str, expect: impl Into<Option<Value>>) {
        assert_eq!(kind.read(&Raw::Text(text.to_owned())).ok(), expect.into(), "{kind:?} of `{text}`");
    }

    #[test]
    fn addresses() {
        let address = |text: &str| Some(Value::Address(text.parse().expect("an address")));
        check(Kind::Address, "[::]:6001", address("[::]:6001"));
        check(Kind::Address, "localhost:6001", address("127.0.0.1:6001"));
        for wrong in ["", "6001", ":", "0.0.0.0", "0.0.0.0:66000", "::1:x"] {
            check(Kind::Address, wrong, None);
        }
    }

    #[test]
    fn numbers_are_parsed_from_texts_within_their_range() {
        check(Kind::Count(1, 10), " 10 ", Some(Value::Count(10)));
        check(Kind::Count(1, 10), "11", None);
        check(Kind::Count(1, 10), "-1", None);
        check(Kind::Count(1, 10), "1.5", None);
        check(Kind::Number(0.0, 1.0), "0.5", Some(Value::Number(0.5)));
        check(Kind::Number(0.0, 1.0), "NaN", None);
        check(Kind::Number(0.0, 1.0), "1e9", None);
        assert_eq!(Kind::Count(1, 99).read(&Raw::Number("12".into())), Ok(Value::Count(12)));
    }

    #[test]
    fn limit_of_zero_or_minus_one_is_no_limit() {
        for (text, expect) in [("0", Some(0)), ("-1", Some(0)), ("7", Some(7)), ("11", None), ("-2", None)] {
            check(Kind::Limit(10), text, expect.map(Value::Count));
        }
    }

    #[test]
    fn secrets_are_a_bounded_list() {
        let secrets = |texts: &[&str]| Value::Secrets(texts.iter().map(|it| Secret::new(*it)).collect());
        check(Kind::Secrets, "new, old", Some(secrets(&["new", "old"])));
        check(Kind::Secrets, "new\nold", Some(secrets(&["new", "old"])));
        check(Kind::Secrets, "new,,old", None);
        check(Kind::Secrets, "1,2,3,4,5,6,7,8,9", None);
    }

    #[test]
    fn choices_ignore_case() {
        let kind = Kind::Choice(&["fossil", "xdelta3"]);
        check(kind, "Fossil", Some(Value::Text("fossil".into())));
        check(kind, " XDelta3", Some(Value::Text("xdelta3".into())));
        check(kind, "brotli", None);
        assert!(kind.read(&Raw::Number("1".into())).is_err());
    }

    #[test]
    fn key_paths() {
        check(Kind::KeyPath, "", Some(Value::KeyPath(None)));
        check(Kind::KeyPath, "data.asset.id", Some(Value::KeyPath(KeyPath::parse("asset.id"))));
        for wrong in ["a.", ".a", "a..b"] {
            check(Kind::KeyPath, wrong, None);
        }
    }

    #[test]
    fn log_filter_with_unknown_level_is_rejected() {
        for good in ["info", "DEBUG", "warn,fanfare=debug", "fanfare::ws=trace,info", "off"] {
            check(Kind::LogFilter, good, Some(Value::Text(good.into())));
        }
        for wrong in ["", "verbose", "inof", "fanfare=loud", "info,"] {
            check(Kind::LogFilter, wrong, None);
        }
    }

    #[test]
    fn client_patterns() {
        check(Kind::ClientPatterns, "", Some(Value::List(vec![])));
        check(
            Kind::ClientPatterns,
            "python/<=2.2, js/<=1",
            Some(Value::List(vec!["python/<=2.2".into(), "js/<=1".into()])),
        );
        for wrong in ["python", "python/2.2", "python/<=", "python/<=2.x", "/<=1", "a/<=1,"] {
            check(Kind::ClientPatterns, wrong, None);
        }
    }

    #[test]
    fn unbuilt_key_accepts_only_values_that_disable_it() {
        let text = |text: &str| Raw::Text(text.into());
        let table = |name: &str, value: Raw| Raw::Table(BTreeMap::from([(name.to_owned(), value)]));
        let off = table("enabled", Raw::Flag(false));
        for off in
            [Raw::Flag(false), Raw::Number("0".into()), text(""), text("false"), Raw::List(vec![]), off]
        {
            assert_eq!(Kind::Unbuilt.read(&off), Ok(Value::Idle(off.to_string())));
        }
        let (number, list) = (Raw::Number("1".into()), Raw::List(vec![text("")]));
        for on in [Raw::Flag(true), number, text("x"), list, table("url", text("x"))] {
            assert_eq!(Kind::Unbuilt.read(&on), Err(Wrong::Unsupported), "{on}");
            assert_eq!(Kind::Moot.read(&on), Ok(Value::Idle(on.to_string())));
        }
    }
}
