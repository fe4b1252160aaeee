//! The shape of the source tree, where the compiler does not see it.

use std::path::{Path, PathBuf};

/// Modules from the edge to the ground: each may use those after it only. One
/// that is not here yet belongs somewhere in this line, and the test says so.
const ORDER: &[&str] = &[
    "main",
    "cli",
    "server",
    "logging",
    "http",
    "ws",
    "webhook",
    "publish",
    "node",
    "apps",
    "connection_limit",
    "channels",
    "subscribers",
    "sockets",
    "fan_out",
    "backend",
    "events",
    "webhook_event",
    "entry",
    "wire",
    "batch",
    "auth",
    "config",
    "filter",
    "event",
    "filter",
    "presence",
    "channel",
    "app",
    "delta",
    "json",
    "log_limit",
    "limits",
];

/// Counters: anyone may touch them.
const FREE: &[&str] = &["metrics"];

fn root() -> PathBuf {
    // A scratch crate may point elsewhere.
    std::env::var_os("FANFARE_TREE").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

pub struct Source {
    /// Below the root, such as `src/http/events.rs`.
    pub path: String,
    text: String,
}

pub fn sources(below: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(below), extension, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|this| this == extension) {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
            found.push(Source { path, text });
        }
    }
}

impl Source {
    /// The code that ships: without its tests, without comments.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("/tests.rs");
        let shipped = self.text.split("#[cfg(test)]\nmod ").next().filter(|_| !is_test);
        shipped
            .unwrap_or("")
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// `src/http/events.rs` and `src/http.rs` are `http`.
    fn module(&self) -> &str {
        let below = self.path.trim_start_matches("src/");
        below.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

/// Fails with all of them at once.
pub fn report(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n{}", faults.join("\n"));
}

/// Every line of shipped code for which `is_fault`.
fn lines(sources: &[Source], is_fault: impl Fn(&Source, &str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources {
        for (number, line) in source.code().filter(|(_, line)| is_fault(source, line)) {
            faults.push(format!("{}:{number}: {}", source.path, line.trim()));
        }
    }
    faults
}

#[test]
fn no_queue_is_unbounded() {
    let unbounded =
        |_: &Source, line: &str| line.contains("unbounded_channel") || line.contains("unbounded(");
    report("every queue has a bound", &lines(&sources("src", "rs"), unbounded));
}

/// A key or topic is made where its name can be read next to all others.
#[test]
fn redis_names_are_made_in_one_file() {
    let elsewhere = |source: &Source, line: &str| {
        let formats = ["format!(", "concat(", "push_str("].iter().any(|made| line.contains(made));
        let in_backend = source.path.starts_with("src/backend/redis");
        // A hash tag anywhere, or a colon between words, as keys have it.
        let tag = line.contains("{{") && line.contains("format!(") && in_backend;
        let colon = line.split('"').skip(1).step_by(2).any(has_key_colon) && in_backend;
        source.path != "src/backend/redis/keys.rs" && formats && (tag || colon)
    };
    report("names of keys are made in backend/redis/keys.rs", &lines(&sources("src", "rs"), elsewhere));
}

/// `a:b`, not `a: b` nor `a::b` nor the `{a:?}` of a format.
fn has_key_colon(literal: &str) -> bool {
    let mut depth = 0;
    let chars: Vec<char> = literal.chars().collect();
    chars.iter().enumerate().any(|(at, c)| {
        depth += i32::from(*c == '{') - i32::from(*c == '}');
        let next = chars.get(at + 1).copied().unwrap_or('x');
        let colons = next == ':' || at > 0 && chars[at - 1] == ':';
        *c == ':' && depth == 0 && !next.is_whitespace() && !colons && !literal.contains("://")
    })
}

#[test]
fn every_script_opens_with_its_contract() {
    let mut faults = Vec::new();
    for script in sources("lua", "lua").iter().filter(|script| !script.path.contains("include/")) {
        let header = script.text.strip_prefix("--[[").and_then(|rest| rest.split("]]").next());
        let Some(header) = header else {
            faults.push(format!("{}: does not begin with --[[", script.path));
            continue;
        };
        for word in ["KEYS", "ARGV", "Returns", "Errors"] {
            if !header.contains(word) {
                faults.push(format!("{}: the header does not say {word}", script.path));
            }
        }
    }
    report("a script opens with what it does, KEYS, ARGV, Returns and Errors", &faults);
}

#[test]
fn modules_use_only_what_is_below_them() {
    let place = |module: &str| ORDER.iter().position(|other| *other == module);
    let mut faults = Vec::new();
    for source in sources("src", "rs").iter().filter(|source| source.module() != "lib") {
        if FREE.contains(&source.module()) {
            continue;
        }
        let Some(own) = place(source.module()) else {
            faults.push(format!("{}: {} has no place in ORDER", source.path, source.module()));
            continue;
        };
        for (number, used) in uses(source) {
            let is_below = place(&used).is_some_and(|place| place >= own) || FREE.contains(&used.as_str());
            if !is_below {
                faults.push(format!("{}:{number}: {} uses {used}", source.path, source.module()));
            }
        }
    }
    report("imports go one way, as in tests/it/tidy.rs", &faults);
}

/// The modules of this crate that a file names: `crate::a`, `crate::{a, b::C}`,
/// and `fanfare::a` in the binary.
fn uses(source: &Source) -> Vec<(usize, String)> {
    let code: Vec<(usize, &str)> = source.code().collect();
    let mut found = Vec::new();
    for (at, (number, line)) in code.iter().enumerate() {
        for prefix in ["crate::", "fanfare::"] {
            for (position, _) in line.match_indices(prefix) {
                let rest = &line[position + prefix.len()..];
                if !rest.starts_with('{') {
                    found.push((*number, word(rest)));
                    continue;
                }
                let list: String = code[at..].iter().map(|(_, line)| *line).collect();
                let list = list.split_once(prefix).unwrap().1.split(';').next().unwrap();
                found.extend(top_level(list).into_iter().map(|module| (*number, module)));
            }
        }
    }
    // `crate::Something` in capitals is a re-export, which `lib.rs` has none of.
    found.retain(|(_, module)| !module.is_empty());
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// `{a::{b, c}, d}` names `a` and `d`.
fn top_level(list: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in list.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => parts.push(String::new()),
            _ => {}
        }
        let splits = depth == 1 && (c == '{' || c == ',');
        if !splits {
            parts.last_mut().unwrap().push(c);
        }
    }
    parts.iter().map(|part| word(part.trim())).collect()
}

#[test]
fn the_tidiness_tests_see_what_they_look_for() {
    assert_eq!(top_level("{a::{b, c}, d, e_f::G}"), ["a", "d", "e_f"]);
    let text = "use crate::hub::Hub;\nuse crate::{app::App, limits};\n// crate::no\n#[cfg(test)]\nmod tests { use crate::not; }";
    let source = Source { path: "src/http/events.rs".into(), text: text.into() };
    let used: Vec<String> = uses(&source).into_iter().map(|(_, module)| module).collect();
    assert_eq!((source.module(), used), ("http", vec!["hub".into(), "app".into(), "limits".into()]));
    assert!(has_key_colon("{prefix}:{channel}") && has_key_colon("head:{tag}"));
    assert!(
        !has_key_colon("{error:?}") && !has_key_colon("no answer: {error}") && !has_key_colon("redis://{x}")
    );
}
