//! Requirements on Redis, checked at start, when an operator can act: its version, and permission to
//! use each command.

use fred::interfaces::{ClientInterface, ClientLike, PubsubInterface};
use fred::prelude::{Client, Error, Value};
use fred::types::{ClusterHash, CustomCommand, InfoKind};

use super::keys::Keys;
use super::{ConnectError, scripts};
use crate::backend::BackendError;
use crate::limits;

/// Scripts pass the option GET of SET.
const REDIS_VERSION_MIN: (u32, u32) = (6, 2);

/// The commands on keys that scripts and reads use, in an order in which all succeed on a key that
/// does not exist. The first one removes what others have written.
const COMMANDS: &[(&str, &[&str])] = &[
    ("DEL", &[]),
    ("HSET", &["field", "1"]),
    ("HGET", &["field"]),
    ("HMGET", &["field"]),
    ("HGETALL", &[]),
    ("HSCAN", &["0"]),
    ("HEXISTS", &["field"]),
    ("HLEN", &[]),
    ("HINCRBY", &["field", "1"]),
    ("HDEL", &["field"]),
    ("ZADD", &["1", "member"]),
    ("ZCARD", &[]),
    ("ZRANGEBYSCORE", &["-inf", "+inf"]),
    ("ZRANGEBYLEX", &["-", "+"]),
    ("ZPOPMIN", &[]),
    ("ZREM", &["member"]),
    ("RPUSH", &["element"]),
    ("LLEN", &[]),
    ("LRANGE", &["0", "0"]),
    ("LINDEX", &["0"]),
    ("LTRIM", &["1", "0"]),
    ("SADD", &["member"]),
    ("SCARD", &[]),
    ("SRANDMEMBER", &["1"]),
    ("SREM", &["member"]),
    ("SET", &["1", "PX", "60000", "GET"]),
    ("GET", &[]),
    ("PTTL", &[]),
    ("PEXPIRE", &["60000"]),
    ("PEXPIREAT", &["1"]),
    ("XADD", &["*", "field", "1"]),
    ("XLEN", &[]),
    ("XRANGE", &["-", "+"]),
    ("XDEL", &["0-1"]),
    ("DEL", &[]),
    // The key is a topic here.
    ("PUBLISH", &[""]),
];

/// Refuses a version that is known to be too old.
pub(super) async fn check_version(client: &Client) -> Result<(), ConnectError> {
    let info = client.info::<String>(Some(InfoKind::Server)).await;
    let info = info.map_err(|error| answer("INFO server", error))?;
    match old_version(&info) {
        Some(version) => Err(ConnectError::Version { version: version.to_owned(), min: REDIS_VERSION_MIN }),
        None => Ok(()),
    }
}

/// Calls every command once, on a key and a topic of this call.
pub(super) async fn check_commands(
    client: &Client,
    subscriber: &Client,
    keys: &Keys,
) -> Result<(), ConnectError> {
    let probe = keys.probe(&format!("{:016x}", rand::random::<u64>()));
    let mut refusals = Refusals::default();
    for (command, arguments) in COMMANDS {
        let words = std::iter::once(&*probe).chain(arguments.iter().copied()).map(str::to_owned);
        let words: Vec<String> = words.collect();
        let custom = CustomCommand::new_static(command, ClusterHash::FirstKey, false);
        let called = client.with_options(&scripts::once()).custom::<Value, _>(custom, words).await;
        refusals.note(command, called);
        if refusals.commands.first() == Some(&"DEL") {
            // Keys that the other commands write could not be deleted.
            break;
        }
    }
    check_subscribe(client, subscriber, probe, &mut refusals).await;
    refusals.into_result()
}

/// fred returns before Redis has executed SUBSCRIBE. If the connection has the same id before and
/// after, it was executed, and has an effect: one receiver of a publication.
async fn check_subscribe(client: &Client, subscriber: &Client, topic: String, refusals: &mut Refusals) {
    let once = scripts::once();
    for _ in 0..limits::SUBSCRIBE_CHECKS_MAX {
        let before = subscriber.with_options(&once).client_id::<u64>().await;
        refusals.note("SUBSCRIBE", subscriber.subscribe(topic.clone()).await);
        let after = subscriber.with_options(&once).client_id::<u64>().await;
        let receivers = client.with_options(&once).publish::<u64, _, _>(topic.clone(), "").await;
        refusals.note("UNSUBSCRIBE", subscriber.unsubscribe(topic.clone()).await);
        match (before, after, receivers) {
            (Ok(before), Ok(after), Ok(0)) if before == after => {
                return refusals
                    .add("SUBSCRIBE", "a subscription has no effect without permission".to_owned());
            }
            (Ok(before), Ok(after), Ok(_)) if before == after => return,
            (Err(error), ..) if is_refused(&error) => return refusals.note::<()>("CLIENT ID", Err(error)),
            // The answer to SUBSCRIBE, for which fred does not wait.
            (_, Err(error), _) if is_refused(&error) => return refusals.note::<()>("SUBSCRIBE", Err(error)),
            (.., Err(error)) if is_refused(&error) => return,
            // The connection was lost during the check.
            _ => tokio::time::sleep(limits::RETRY_DELAY).await,
        }
    }
}

/// Errors that pass, such as full memory, are reported while the node runs.
fn is_refused(error: &Error) -> bool {
    matches!(BackendError::from(error.clone()), BackendError::Refused(_))
}

/// The commands that Redis has refused, and its first error.
#[derive(Debug, Default)]
struct Refusals {
    commands: Vec<&'static str>,
    error: String,
}

impl Refusals {
    fn note<T>(&mut self, command: &'static str, called: Result<T, Error>) {
        if let Some(error) = called.err().filter(is_refused) {
            self.add(command, error.details().to_owned());
        }
    }

    fn add(&mut self, command: &'static str, error: String) {
        if self.commands.is_empty() {
            self.error = error;
        }
        self.commands.push(command);
    }

    fn into_result(self) -> Result<(), ConnectError> {
        let Refusals { commands, error } = self;
        if commands.is_empty() { Ok(()) } else { Err(ConnectError::Forbids { commands, error }) }
    }
}

fn answer(command: &'static str, error: Error) -> ConnectError {
    ConnectError::Answer { command, error: error.into() }
}

/// The version in the answer to `INFO server`, if it is that of a Redis which is too old. Valkey
/// reports the version of Redis that it is compatible with, and its own.
fn old_version(info: &str) -> Option<&str> {
    let value = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    if value("valkey_version").is_some() {
        return None;
    }
    let version = value("redis_version")?.trim();
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    let number = (numbers.next()?, numbers.next().unwrap_or_default());
    (number < REDIS_VERSION_MIN).then_some(version)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn old_versions_of_redis_are_refused() {
        for (info, expected) in [
            ("# Server\r\nredis_version:6.0.16\r\nos:Linux\r\n", Some("6.0.16")),
            ("redis_version:6.2.0\r\n", None),
            ("redis_version:7.0.15\r\n", None),
            ("redis_version:8\r\n", None),
            ("redis_version:5\r\n", Some("5")),
            ("redis_version:2.8.0\r\nvalkey_version:8.1.1\r\n", None),
            ("redis_version:next\r\n", None),
            ("", None),
        ] {
            assert_eq!(old_version(info), expected, "{info}");
        }
    }

    /// Every command of the scripts, except those that a renewal of the lease calls at start.
    #[test]
    fn all_commands_of_scripts_are_checked() {
        let checked: BTreeSet<&str> = COMMANDS.iter().map(|(command, _)| *command).collect();
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
        let mut used = BTreeSet::new();
        for directory in [directory.join("include"), directory] {
            for file in std::fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file")) {
                if file.path().extension().is_some_and(|extension| extension == "lua") {
                    let text = std::fs::read_to_string(file.path()).expect("a script");
                    let calls = text.split("redis.call('").skip(1).filter_map(|rest| rest.split('\'').next());
                    used.extend(calls.map(str::to_owned));
                }
            }
        }
        assert!(used.len() > 30, "{used:?}");
        for command in used.iter().filter(|used| !["INFO", "TIME"].contains(&used.as_str())) {
            assert!(checked.contains(command.as_str()), "{command} is not checked at start");
        }
    }
}
