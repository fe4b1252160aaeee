//! Rules of the source tree that the compiler cannot check.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::module_graph::{ModuleGraph, circles};

/// All modules, from the edges to the data types: each may import only itself and those after it. A
/// test fails for a module that is not in the list.
const ORDER: &[&str] = &[
    "main",
    "reload",
    "cli",
    "server",
    "listener",
    "logging",
    "http",
    "ws",
    "webhook",
    "publish",
    "node",
    "apps",
    "channels",
    "subscribers",
    "encode",
    "sockets",
    "backend",
    "backend_events",
    "webhook_event",
    "entry",
    "resume_tokens",
    "wire",
    "batch",
    "auth",
    "config",
    "event",
    "filter",
    "presence",
    "channel",
    "app",
    "delta",
    "capacity",
    "json",
    "files",
    "log_limit",
    "task",
    "tls",
    "limits",
];

/// Counters, which every module may import.
pub const FREE: &[&str] = &["metrics"];

fn root() -> PathBuf {
    // Another crate can include these tests and set the root of the tree that they check.
    std::env::var_os("FANFARE_TREE").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

pub struct Source {
    /// Relative to the root, such as `src/http/events.rs`.
    pub path: String,
    text: String,
}

/// All files with this extension in a folder and its subfolders, sorted by path.
pub fn sources(folder: &str, extension: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(folder), extension, &mut found);
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
    /// The numbered lines of the shipped code: without unit tests, without comments.
    pub fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let is_test = self.path.ends_with("tests.rs") || self.path.contains("/tests/");
        let shipped = self.text.split("#[cfg(test)]\nmod tests {").next().filter(|_| !is_test);
        shipped
            .unwrap_or("")
            .lines()
            .enumerate()
            .map(|(number, line)| (number + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    /// The top-level module: `http` for `src/http/events.rs` and `src/http.rs`.
    fn module(&self) -> &str {
        let path = self.path.trim_start_matches("src/");
        path.split('/').next().unwrap().trim_end_matches(".rs")
    }
}

/// Fails with the rule and all faults, if there are any.
pub fn report(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

/// All lines of shipped code for which `is_fault` returns true.
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
fn queues_are_bounded() {
    let unbounded =
        |_: &Source, line: &str| line.contains("unbounded_channel") || line.contains("unbounded(");
    report("every queue has a bound", &lines(&sources("src", "rs"), unbounded));
}

/// One file contains the names of all keys and topics, so that they can be compared.
#[test]
fn redis_names_are_created_in_one_file() {
    let elsewhere = |source: &Source, line: &str| {
        let formats = ["format!(", "concat(", "push_str("].iter().any(|call| line.contains(call));
        let in_backend = source.path.starts_with("src/backend/redis");
        // The syntax of keys: a hash tag, or a colon between words.
        let tag = line.contains("{{") && line.contains("format!(") && in_backend;
        let colon = line.split('"').skip(1).step_by(2).any(has_key_colon) && in_backend;
        source.path != "src/backend/redis/keys.rs" && formats && (tag || colon)
    };
    report("Redis names are created in backend/redis/keys.rs", &lines(&sources("src", "rs"), elsewhere));
}

/// The contract hides which backend is in use. The server connects to one, and the command line
/// changes the apps in Redis.
#[test]
fn modules_use_the_backend_through_its_contract() {
    let uses_redis = |source: &Source, line: &str| {
        let is_exempt = ["src/backend/", "src/server.rs", "src/cli/"];
        line.contains("backend::redis") && !is_exempt.iter().any(|path| source.path.starts_with(path))
    };
    report("only server and cli use backend::redis", &lines(&sources("src", "rs"), uses_redis));
}

/// Whether a literal contains a colon as in `a:b`, but not as in `a: b`, `a::b`, `a://b` or the
/// `{a:?}` of a format string.
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
fn lua_scripts_begin_with_their_contract() {
    let mut faults = Vec::new();
    for script in sources("lua", "lua").iter().filter(|script| !script.path.contains("include/")) {
        let header = script.text.strip_prefix("--[[").and_then(|rest| rest.split("]]").next());
        let Some(header) = header else {
            faults.push(format!("{}: does not begin with --[[", script.path));
            continue;
        };
        for word in ["KEYS", "ARGV", "Returns", "Errors"] {
            if !header.contains(word) {
                faults.push(format!("{}: the header has no {word}", script.path));
            }
        }
    }
    report("a script begins with its purpose, KEYS, ARGV, Returns and Errors", &faults);
}

/// The codes of errors that a script raises are those of its header, and those of all headers are
/// those of the server.
#[test]
fn lua_errors_are_declared_and_known() {
    let mut faults = Vec::new();
    let mut declared = BTreeSet::new();
    for script in sources("lua", "lua") {
        let (header, code) = script.text.split_once("]]").unwrap();
        let raised: BTreeSet<&str> = code.split("error_reply('").skip(1).map(first_word).collect();
        let in_header = declared_errors(header);
        if raised != in_header
            || code.matches("error_reply(").count() != code.matches("error_reply('").count()
        {
            faults.push(format!("{}: declares {in_header:?}, raises {raised:?}", script.path));
        }
        declared.extend(in_header.into_iter().map(str::to_owned));
    }
    let error = std::fs::read_to_string(root().join("src/backend/redis/error.rs")).unwrap();
    let (_, parse) = error.split_once("fn parse(").unwrap();
    let parse = parse.split("_ =>").next().unwrap();
    let known: BTreeSet<String> = parse.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    if declared != known {
        faults.push(format!("src/backend/redis/error.rs: knows {known:?}, the headers declare {declared:?}"));
    }
    report("scripts raise the errors of their headers, and ScriptError has them", &faults);
}

/// The codes below `Errors` in the header of a script: the words in capitals that begin its lines.
fn declared_errors(header: &str) -> BTreeSet<&str> {
    let Some((_, errors)) = header.split_once("\n  Errors ") else { return BTreeSet::new() };
    let is_code = |word: &&str| word.len() > 1 && word.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    errors.lines().map(|line| first_word(line.trim_start())).filter(is_code).collect()
}

fn first_word(text: &str) -> &str {
    text.split([' ', '\'']).next().unwrap()
}

/// A duplicate would weaken the order: the first occurrence counts, so the module could import
/// everything between the two.
#[test]
fn module_order_lists_each_existing_module_once() {
    let sources = sources("src", "rs");
    let mut faults = Vec::new();
    for (index, module) in ORDER.iter().enumerate() {
        if ORDER[..index].contains(module) {
            faults.push(format!("{module}: listed twice"));
        }
        if !sources.iter().any(|source| source.module() == *module) {
            faults.push(format!("{module}: there is no such module"));
        }
    }
    report("ORDER in tests/it/repository/tidy.rs lists each module once", &faults);
}

#[test]
fn modules_import_only_modules_below_them() {
    let index = |module: &str| ORDER.iter().position(|other| *other == module);
    let mut faults = Vec::new();
    for source in sources("src", "rs").iter().filter(|source| source.module() != "lib") {
        if FREE.contains(&source.module()) {
            continue;
        }
        let Some(own) = index(source.module()) else {
            faults.push(format!("{}: {} is missing in ORDER", source.path, source.module()));
            continue;
        };
        for (number, import) in imports(source) {
            let is_below =
                index(&import).is_some_and(|index| index >= own) || FREE.contains(&import.as_str());
            if !is_below {
                faults.push(format!("{}:{number}: {} imports {import}", source.path, source.module()));
            }
        }
    }
    report("imports go one way, in the order of ORDER in tests/it/repository/tidy.rs", &faults);
}

/// The modules of this crate that a file imports, with line numbers: `crate::a`,
/// `crate::{a, b::C}`, and `fanfare::a` in the binary.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let paths =
        paths(source).into_iter().filter(|(_, path)| ["crate", "fanfare"].contains(&path[0].as_str()));
    // `lib.rs` has no re-exports, so every name after `crate::` is a module.
    paths.map(|(number, mut path)| (number, path.swap_remove(1))).filter(|(_, it)| !it.is_empty()).collect()
}

/// The paths in the code of a file, each with its line: of all imports, and elsewhere those that
/// begin with `crate::` or `super::`. Lists are expanded: `a::{b, c::D}` is `a::b` and `a::c::D`.
pub fn paths(source: &Source) -> Vec<(usize, Vec<String>)> {
    let code: Vec<(usize, &str)> = source.code().collect();
    let text = code.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
    let (mut line_start, mut found) = (0, Vec::new());
    for (number, line) in code {
        let starts: Vec<usize> = match line.split_once("use ") {
            Some((before, _)) if before.trim().is_empty() || before.starts_with("pub") => {
                vec![before.len() + "use ".len()]
            }
            _ => ["crate::", "super::", "fanfare::"]
                .iter()
                .flat_map(|start| line.match_indices(start).map(|(at, _)| at))
                .filter(|at| !line[..*at].ends_with("::"))
                .collect(),
        };
        for start in starts {
            let mut expanded = Vec::new();
            expand(&text[line_start + start..], &[], &mut expanded);
            found.extend(expanded.into_iter().filter(|path| path.len() > 1).map(|path| (number, path)));
        }
        line_start += line.len() + 1;
    }
    found
}

/// Returns the text after the path or list of paths with which `text` begins.
fn expand<'a>(text: &'a str, prefix: &[String], found: &mut Vec<Vec<String>>) -> &'a str {
    if let Some(mut rest) = text.strip_prefix('{') {
        while !rest.trim_start().starts_with('}') {
            rest = expand(rest.trim_start(), prefix, found);
            rest = &rest[rest.find([',', '}']).expect("a list of imports ends")..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        return &rest.trim_start()[1..];
    }
    let name = word(text);
    let (path, rest) = ([prefix, std::slice::from_ref(&name)].concat(), &text[name.len()..]);
    if let Some(rest) = rest.strip_prefix("::") {
        return expand(rest, &path, found);
    }
    found.push(path);
    rest
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[test]
fn tidy_helpers_find_imports_and_key_colons() {
    let mut expanded = Vec::new();
    expand("a::{b::{c, D as E}, f_g, *,}; h", &[], &mut expanded);
    assert_eq!(
        expanded.iter().map(|path| path.join("::")).collect::<Vec<_>>(),
        ["a::b::c", "a::b::D", "a::f_g", "a::"]
    );
    let text = "use crate::subscribers::Subscribers;\nuse crate::{app::App, limits};\n// crate::no\n#[cfg(test)]\nmod tests { use crate::not; }";
    let source = Source { path: "src/http/events.rs".into(), text: text.into() };
    let used: Vec<String> = imports(&source).into_iter().map(|(_, module)| module).collect();
    assert_eq!((source.module(), used), ("http", vec!["subscribers".into(), "app".into(), "limits".into()]));
    assert!(has_key_colon("{prefix}:{channel}") && has_key_colon("head:{tag}"));
    assert!(
        !has_key_colon("{error:?}") && !has_key_colon("no answer: {error}") && !has_key_colon("redis://{x}")
    );
}

/// A file with its folder counts as one file. The module file of a folder, such as `mod.rs`, is
/// its interface: it may import the files of the folder, and they what it defines.
#[test]
fn files_of_a_folder_import_each_other_without_circles() {
    let modules = ModuleGraph::read();
    let mut faults = Vec::new();
    for folder in modules.folders() {
        let imports = modules.imports_within(folder);
        let name = format!("src/{}", folder.join("/"));
        for circle in circles(&imports) {
            let files: Vec<&str> = circle.iter().copied().collect();
            faults.push(format!("{name}: {}", files.join(", ")));
        }
    }
    report("the files of a folder import each other in one direction", &faults);
}

/// Close codes are chosen at the edges. Inside, these files end a connection: the architecture
/// page lists them.
#[test]
fn close_codes_are_chosen_in_known_files() {
    const KNOWN: &[&str] = &[
        "src/apps/invalidation.rs",
        "src/channels/channel/delivery.rs",
        "src/server.rs",
        "src/sockets/write_buffer.rs",
    ];
    let is_inside =
        |path: &str| !["src/http/", "src/ws/", "src/wire/"].iter().any(|edge| path.starts_with(edge));
    let chooses = |source: &Source, line: &str| is_inside(&source.path) && line.contains("Close::");
    let sources = sources("src", "rs");
    let mut choosing: Vec<&str> = Vec::new();
    for source in &sources {
        if source.code().any(|(_, line)| chooses(source, line)) {
            choosing.push(&source.path);
        }
    }
    assert_eq!(choosing, KNOWN, "correct the list here and in docs/explanation/architecture.md");
}

/// Only the edges translate errors to an HTTP status.
#[test]
fn http_statuses_are_chosen_at_the_edges() {
    let inside = |source: &Source, line: &str| {
        let is_edge =
            ["src/http/", "src/webhook/", "src/cli/"].iter().any(|edge| source.path.starts_with(edge));
        !is_edge && line.contains("StatusCode")
    };
    report("HTTP statuses are chosen in src/http", &lines(&sources("src", "rs"), inside));
}
