//! The keys and arguments that a script's header declares are those that its code uses and the
//! server sends.

use std::collections::{BTreeMap, BTreeSet};

use super::client::Client;
use super::source::{Script, all, header, read};
use crate::support::{Redis, STEP_TIMEOUT, bounded};

mod exercise;

/// The keys and arguments that a header declares, by name.
struct Declared {
    keys: Vec<String>,
    /// Repeated for each channel.
    keys_each: Vec<String>,
    /// Present only with a charge.
    keys_last: Vec<String>,
    /// Repeated for each channel with bases, after all others.
    keys_optional: Vec<String>,
    arguments: Vec<String>,
    /// Repeated for each channel, or for each user.
    arguments_each: Vec<String>,
}

impl Declared {
    fn of(script: &Script) -> Declared {
        let entries: Vec<(&str, &str, &str)> = script.header().lines().filter_map(declaration).collect();
        let (mut keys, mut keys_each, mut keys_last, mut keys_optional) = (vec![], vec![], vec![], vec![]);
        let mut arguments = vec![];
        for (list, index, name) in entries {
            match (list, index) {
                ("ARGV", "1..7") => arguments.extend(shared_arguments()),
                ("ARGV", _) => {
                    arguments.push(name.to_owned());
                    assert_eq!(index, arguments.len().to_string(), "{}: ARGV in order", script.name);
                }
                ("KEYS", index) if index.contains('i') => keys_each.push(name.to_owned()),
                ("KEYS", index) if index.contains('j') => keys_optional.push(name.to_owned()),
                ("KEYS", index) if index.contains('n') => keys_last.push(name.to_owned()),
                _ => {
                    keys.push(name.to_owned());
                    assert_eq!(index, keys.len().to_string(), "{}: KEYS in order", script.name);
                }
            }
        }
        let arguments_each = each(script.header());
        Declared { keys, keys_each, keys_last, keys_optional, arguments, arguments_each }
    }

    /// Names of `count` keys, in their order, for a number of channels.
    fn key_names(&self, count: usize, channels: usize) -> Option<Vec<&str>> {
        let each = self.keys_each.iter().cycle().take(channels * self.keys_each.len());
        let rest = count.checked_sub(self.keys.len() + channels * self.keys_each.len())?;
        let (optional, last) = match self.keys_optional.len() {
            0 => (0, rest),
            optional => (rest - rest % optional, rest % optional),
        };
        let names = self.keys.iter().chain(each).chain(self.keys_last.iter().take(last));
        let names = names.chain(self.keys_optional.iter().cycle().take(optional));
        let names: Vec<&str> = names.map(String::as_str).collect();
        (names.len() == count).then_some(names)
    }

    fn argument_names(&self, count: usize) -> Option<Vec<&str>> {
        let each = self.arguments_each.iter().cycle();
        let rest = count.checked_sub(self.arguments.len())?;
        let is_whole = rest == 0 || !self.arguments_each.is_empty() && rest % self.arguments_each.len() == 0;
        let names = self.arguments.iter().chain(each.take(rest)).map(String::as_str);
        is_whole.then(|| names.collect())
    }
}

/// `  ARGV[8]  kind     of …`, `  KEYS[3i]    subs  of …`.
fn declaration(line: &str) -> Option<(&str, &str, &str)> {
    let (list, rest) = line.strip_prefix("  ")?.split_at_checked(4)?;
    let (index, rest) = rest.strip_prefix('[')?.split_once(']')?;
    let name = rest.split_whitespace().next()?;
    matches!(list, "KEYS" | "ARGV").then_some((list, index, name))
}

/// The first arguments of all scripts that append entries.
fn shared_arguments() -> Vec<String> {
    let append = read("include/append.lua");
    let names: Vec<String> =
        header(&append).lines().filter_map(declaration).map(|it| it.2.to_owned()).collect();
    assert_eq!(names.len(), 7);
    names
}

/// The names that are indented below `then for each …, two:`.
fn each(header: &str) -> Vec<String> {
    let Some((_, rest)) = header.split_once("  ARGV") else { return Vec::new() };
    let Some((_, rest)) = rest.split_once("  then for each ") else { return Vec::new() };
    let (introduction, items) = rest.split_once(":\n").unwrap();
    let of_line =
        |line: &str| line.strip_prefix("    ").filter(|line| !line.starts_with(' ')).map(str::to_owned);
    let lines = items.lines().take_while(|line| !line.is_empty()).filter_map(of_line);
    let names: Vec<String> = lines.map(|line| line.split(' ').next().unwrap().to_owned()).collect();
    let (_, count) = [("two", 2), ("four", 4)].into_iter().find(|it| introduction.ends_with(it.0)).unwrap();
    assert_eq!(names.len(), count, "{names:?}");
    names
}

/// The code uses each declared key and argument under its name, and no others.
#[test]
fn script_uses_declared_keys_and_arguments() {
    for script in all() {
        let declared = Declared::of(&script);
        let code = script.source();
        for (list, suffix, names) in [("KEYS[", "_key", &declared.keys), ("ARGV[", "", &declared.arguments)] {
            let used: BTreeSet<usize> = code
                .split("]]\n")
                .flat_map(|part| part.split("--[[").next())
                .flat_map(|part| part.split(list).skip(1))
                .filter_map(|rest| rest.split(']').next()?.parse().ok())
                .collect();
            let expected: BTreeSet<usize> = (1..=names.len()).collect();
            assert_eq!(used, expected, "{}: {list}…]", script.name);
            for (name, index) in code.lines().flat_map(|line| named(line, list)) {
                let expected = [&names[index - 1], suffix].concat();
                assert_eq!(name, expected, "{}: {list}{index}]", script.name);
            }
        }
    }
}

/// Names that a line gives to keys or arguments: `local a, b = ARGV[1], ARGV[2]`.
fn named<'a>(line: &'a str, list: &str) -> Vec<(&'a str, usize)> {
    let Some((names, values)) = line.strip_prefix("local ").and_then(|line| line.split_once(" = ")) else {
        return Vec::new();
    };
    let (names, values): (Vec<&str>, Vec<&str>) = (names.split(", ").collect(), values.split(", ").collect());
    // A call has several results and several arguments.
    if names.len() != values.len() {
        return Vec::new();
    }
    let index = |value: &str| {
        let value = value.trim_start_matches("tonumber(").strip_prefix(list)?;
        value.split(']').next()?.parse::<usize>().ok()
    };
    let pairs = names.into_iter().zip(values);
    pairs.filter_map(|(name, value)| Some((name, index(value)?))).collect()
}

/// The server's calls have the keys and arguments that the headers declare.
#[tokio::test]
async fn server_sends_declared_keys_and_arguments() {
    bounded(async {
        let redis = Redis::start().await;
        let mut client = Client::connect(&redis).await;
        let mut scripts = BTreeMap::new();
        for script in all() {
            let sha = client.command(&[b"SCRIPT", b"LOAD", script.source().as_bytes()]).await.text();
            scripts.insert(sha, script);
        }
        let mut monitor = Client::connect(&redis).await;
        monitor.command(&[b"MONITOR"]).await;
        let observe = async {
            let mut missing: BTreeSet<&str> = all().iter().map(|script| script.name).collect();
            while !missing.is_empty() {
                let Ok(line) = tokio::time::timeout(STEP_TIMEOUT, monitor.next()).await else {
                    panic!("never called: {missing:?}")
                };
                let call = monitored(&line.text());
                if call.first().is_some_and(|word| word.eq_ignore_ascii_case("evalsha")) {
                    let script = scripts.get(&call[1]).expect("the server runs only the scripts of lua/");
                    let (keys, arguments) = call[3..].split_at(call[2].parse().unwrap());
                    assert_agrees(script, keys, arguments);
                    missing.remove(script.name);
                }
            }
        };
        tokio::join!(observe, exercise::all_scripts(&redis));
    })
    .await;
}

fn assert_agrees(script: &Script, keys: &[String], arguments: &[String]) {
    let context = format!("{}: {keys:?} {arguments:?}", script.name);
    let declared = Declared::of(script);
    let argument_names = declared.argument_names(arguments.len()).expect(&context);
    let descriptors: Vec<&String> =
        argument_names.iter().zip(arguments).filter(|it| *it.0 == "descriptor").map(|it| it.1).collect();
    let key_names = declared.key_names(keys.len(), descriptors.len()).expect(&context);
    for (name, key) in key_names.iter().zip(keys) {
        let (_, kind) = key.split_once("}:").expect("every key has a hash tag");
        let parts: Vec<&str> = kind.split(':').collect();
        let kind = if parts[0] == "webhooks" { parts[1] } else { parts[0] };
        assert_eq!(kind, *name, "{context}");
    }
    for (name, argument) in argument_names.iter().zip(arguments) {
        assert!(fits(name, argument), "{name} = {argument}: {context}");
    }
    let tag = |key: &String| key[..key.find('}').unwrap()].to_owned();
    if script.name == "publish_batch" {
        // Hash tag and name of the key's channel.
        let channel = |key: &String| (tag(key), key.split(':').skip(3).collect::<Vec<_>>().join(":"));
        let (of_publications, others) = keys.split_at(3 * descriptors.len());
        let bases: Vec<&String> = others.iter().filter(|key| key.contains(":base")).collect();
        for of_publication in of_publications.chunks(3) {
            assert!(
                of_publication.iter().all(|key| channel(key) == channel(&of_publication[0])),
                "one channel: {context}"
            );
        }
        for pair in bases.chunks(2) {
            assert_eq!(channel(pair[0]), channel(pair[1]), "{context}");
            assert!(
                of_publications.iter().any(|key| channel(key) == channel(pair[0])),
                "of the batch: {context}"
            );
        }
    } else {
        assert!(keys.iter().all(|key| tag(key) == tag(&keys[0])), "one slot: {context}");
    }
}

/// Whether the value is valid for an argument of this name.
fn fits(name: &str, value: &str) -> bool {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    match name {
        "log_max" => value == "3000",
        "run_id" => value.len() == 16 && value.bytes().all(|byte| byte.is_ascii_hexdigit()),
        "schema" => value == "4",
        "ttl_ms" => value == "3600000",
        "own_key" => value.len() == 64,
        "log_bytes_max" => value == "1048576",
        "log_age_ms" => value == "60000",
        "head_idle_ms" => value == "3600000",
        "outbox_max" => value == "10000",
        "due_max" => value == "100",
        "apps_max" => value == "1000",
        "app" => value == "1",
        "grace_ms" => value == "3000",
        "unthrottled_max" => value == "100",
        "expiry_ms" => value == "10000",
        "interval_ms" | "lease_ms" => ["5000", "0"].contains(&value),
        "wants_last" | "is_new" => ["0", "1"].contains(&value),
        "channel_id" => value.starts_with("1:") || value.is_empty(),
        // An incarnation, or the process of one.
        "node" => value.len() == 16 || value.len() == 12,
        "replaced" => value.is_empty() || value.len() == 16,
        "sent_ago_ms" => value.is_empty() || is_number,
        "rules" => value.is_empty() || value.split(' ').all(|part| part.parse::<u8>().is_ok()),
        "transition" => ["vacated 1:", "count 1:", "removed 1:"].iter().any(|start| value.starts_with(start)),
        "from" | "to" => value.starts_with(['[', '(']),
        "user" => exercise::USERS.contains(&value),
        "info" => value.is_empty() || value == exercise::INFO,
        "id" | "after" | "body" | "descriptor" => true,
        "state" => ["on", "off"].contains(&value),
        "before_max" => value == "64",
        "seen_seq" | "cost" | "limit" | "window_ms" | "count" | "kind" => is_number,
        "members_max" | "occupied_max" | "count_max" | "held" | "requested" | "max" | "epoch" | "counter"
        | "seen" => is_number,
        other => panic!("this test has no rule for argument {other}"),
    }
}

/// Splits a line of MONITOR into words: `1.2 [0 127.0.0.1:1] "GET" "a\"b"`.
fn monitored(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (&mut word, c) {
            (None, '"') => word = Some(String::new()),
            (Some(_), '"') => words.extend(word.take()),
            // Escape sequences are not decoded.
            (Some(text), '\\') => text.extend(chars.next()),
            (Some(text), c) => text.push(c),
            (None, _) => {}
        }
    }
    words
}
