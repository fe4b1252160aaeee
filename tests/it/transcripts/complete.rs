//! Completeness of the transcripts: every protocol event, close code and error text of the
//! server occurs in one. The tests read them from the sources, as `repository/tidy.rs` does.

use std::collections::BTreeSet;

use fanfare::http::error_code::ErrorCode;

use super::script::{Script, directory};
use super::{CLUSTER_ONLY, SINGLE_NODE};
use crate::repository::tidy::{report, sources};

/// Events, codes and texts that occur in no transcript, and the reason.
const EXCEPTIONS: &[(&str, &str)] = &[
    ("close slow_client", "needs a client that does not read: connections/slow_client.rs"),
    ("close over_capacity", "needs apps that cannot be looked up"),
    ("code request_timeout", "needs a body that does not arrive for 30 s"),
    ("code internal_error", "needs a defect of ours, or a Redis that refuses its scripts"),
    ("code too_many_connections", "needs many connections: connections/http_limits.rs"),
    ("code over_capacity", "as too_many_connections"),
    ("text Too many HTTP connections from this address", "as too_many_connections"),
    ("text The node has no place for further connections", "as too_many_connections"),
    ("text The body was not received in time", "as request_timeout"),
    (
        "text The connection ended before the body was complete",
        "a client that disconnects early receives no response",
    ),
    (
        "text The app has too many batches in progress: the operation was not executed",
        "needs concurrent requests: limits/publishes.rs",
    ),
    ("text Internal error: see the log of the node", "as internal_error"),
    (
        "text The node is starting: the operation was not executed",
        "needs a node without Redis: cluster/start.rs",
    ),
    ("text WebSocket refused", "is only logged"),
    ("text WebSocket refused: unknown path", "is only logged"),
    (
        "text The WebSocket upgrade was sent over HTTP/1.0, which has no upgrades: the proxy in front must use HTTP/1.1 \
         (nginx: `proxy_http_version 1.1`)",
        "needs HTTP/1.0: connections/handshake.rs",
    ),
    ("text the user id must not be empty", "an earlier check refuses an empty id: `id` must not be empty"),
];

/// All lines that are expected from the server, of all transcripts.
fn received_lines() -> Vec<String> {
    let names = SINGLE_NODE.iter().chain(CLUSTER_ONLY);
    let scripts = names.map(|name| Script::read(name));
    scripts.flat_map(|script| script.received_texts().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The shipped code of a file, or of all files in a folder.
fn code(path: &str) -> String {
    // Its texts are for the reference page.
    let is_page = |path: &str| path == "src/http/error_code.rs";
    let files = sources("src", "rs");
    let files = files.iter().filter(|source| source.path.starts_with(path) && !is_page(&source.path));
    let text: String = files
        .flat_map(|source| source.code().map(|(_, line)| line.to_owned() + "\n").collect::<Vec<_>>())
        .collect();
    assert!(!text.is_empty(), "no source at {path}");
    text
}

/// Fails unless each item is either covered by a transcript or an exception.
fn check(kind: &str, items: impl IntoIterator<Item = (String, bool)>) {
    let mut faults = BTreeSet::new();
    for (item, is_covered) in items {
        let item = format!("{kind} {item}");
        let is_excepted = EXCEPTIONS.iter().any(|(exception, _)| *exception == item);
        if is_covered == is_excepted {
            faults.insert(match is_covered {
                true => format!("{item}: in a transcript, remove the exception"),
                false => format!("{item}: in no transcript"),
            });
        }
    }
    report("every frame, close code and error is in a transcript", &faults.into_iter().collect::<Vec<_>>());
}

#[test]
fn every_transcript_file_is_listed() {
    let mut faults: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(directory()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let is_listed = SINGLE_NODE.iter().chain(CLUSTER_ONLY).any(|listed| *listed == name);
        if path.extension().is_some_and(|this| this == "txt") && !is_listed {
            faults.push(format!("{name}.txt is never replayed"));
        }
    }
    report("every transcript is in the lists of transcripts/mod.rs", &faults);
}

#[test]
fn every_close_code_is_in_a_transcript() {
    let close = code("src/wire/close.rs");
    let (codes, reasons, labels) =
        (arms(&close, "fn code"), arms(&close, "fn reason"), arms(&close, "fn label"));
    let received = received_lines();
    let find = |table: &[(String, String)], variant: &str| {
        let found = table.iter().find(|(other, _)| other == variant);
        found.unwrap_or_else(|| panic!("Close::{variant} is missing in close.rs")).1.clone()
    };
    check(
        "close",
        labels.iter().map(|(variant, label)| {
            let close = format!("close {} {}", find(&codes, variant), find(&reasons, variant));
            // Some reasons continue with details, such as the path.
            (label.clone(), received.iter().any(|line| line.starts_with(close.trim_end())))
        }),
    );
}

#[test]
fn every_http_error_code_is_in_a_transcript() {
    let received = received_lines();
    check(
        "code",
        ErrorCode::ALL.map(|code| {
            let member = format!("\"code\":\"{}\"", code.name());
            (code.name().to_owned(), received.iter().any(|line| line.contains(&member)))
        }),
    );
}

#[test]
fn every_protocol_event_is_in_a_transcript() {
    let received = received_lines();
    let code = code("src/wire/reply.rs") + &code("src/wire/envelope.rs");
    // The three forms of event names in these files: protocol events, internal events, and
    // format strings.
    let forms = [
        ("own(event_prefix, \"", "pusher"),
        ("internal(event_prefix, \"", "pusher_internal"),
        ("{prefix}:", "pusher"),
    ];
    let names = forms.into_iter().flat_map(|(form, prefix)| {
        let after = code.split(form).skip(1);
        let is_name = |c: char| c.is_ascii_lowercase() || c == '_';
        let names = after.map(move |rest| rest.split(|c| !is_name(c)).next().unwrap());
        names.filter(|name| !name.is_empty()).map(move |name| format!("{prefix}:{name}"))
    });
    let names: Vec<String> = names.collect();
    assert!(names.len() > 10, "expected more than 10 protocol events: {names:?}");
    check(
        "event",
        names.into_iter().map(|name| {
            let member = format!("\"event\":\"{name}\"");
            (name, received.iter().any(|line| line.contains(&member)))
        }),
    );
}

#[test]
fn every_type_of_refused_subscription_is_in_a_transcript() {
    let received = received_lines();
    let ws = code("src/ws/") + &code("src/channels/");
    let kinds = ws.split("Refusal::new(").skip(1).filter_map(|rest| rest.trim_start().strip_prefix('"'));
    check(
        "type",
        kinds.map(|rest| {
            let kind = rest.split('"').next().unwrap();
            let member = format!("\"type\":\"{kind}\"");
            (kind.to_owned(), received.iter().any(|line| line.contains(&member)))
        }),
    );
}

#[test]
fn every_error_text_is_in_a_transcript() {
    let received = received_lines();
    let files = [
        "src/wire/command.rs",
        "src/wire/identity.rs",
        "src/ws/",
        "src/batch.rs",
        "src/channel.rs",
        "src/channels/",
        "src/filter/",
    ];
    let code: String = files.into_iter().chain(["src/http/"]).map(code).collect();
    let is_text = |before: &str, text: &str| {
        let is_sentence = text.contains(' ') && text.starts_with(|c: char| c.is_uppercase() || c == '`');
        // Error enums have the attribute, texts of HTTP errors are sentences.
        before.ends_with("#[error(") || is_sentence
    };
    let texts = literals(&code).into_iter().filter(|(before, text, _)| is_text(before, text));
    check(
        "text",
        texts.map(|(_, text, _)| {
            let text = text.split("\\\n").map(str::trim_start).collect::<String>();
            let is_covered = received.iter().any(|line| has_in_order(line, &pieces(&text)));
            (text, is_covered)
        }),
    );
}

/// The variants of `Close` in the `match` of a function, each with its value.
fn arms(code: &str, function: &str) -> Vec<(String, String)> {
    let (_, body) = code.split_once(function).unwrap_or_else(|| panic!("close.rs has no {function}"));
    let body = body.split("\n    }\n").next().unwrap();
    let parts: Vec<&str> = body.split("=>").collect();
    let mut arms = Vec::new();
    for pair in parts.windows(2) {
        let value = pair[1].trim_start();
        let value = match value.strip_prefix('"') {
            Some(text) => text.split('"').next(),
            None => value.split([',', ' ']).next(),
        };
        let variants = pair[0].split("Close::").skip(1);
        let name = |text: &str| text.chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
        arms.extend(variants.map(|variant| (name(variant), value.unwrap().to_owned())));
    }
    arms
}

/// Every string literal of some code, with the code before and after it.
fn literals(code: &str) -> Vec<(&str, String, &str)> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some((before, text)) = rest.split_once('"') {
        let is_quote = before.ends_with('\'');
        let mut escaped = false;
        let end = text.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        });
        let Some(end) = end.filter(|_| !is_quote) else {
            rest = text;
            continue;
        };
        let after = &text[end + 1..];
        found.push((before.trim_end(), text[..end].to_owned(), after.trim_start()));
        rest = after;
    }
    found
}

/// The literal text around the `{…}` of a format string.
fn pieces(format: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    let mut depth = 0;
    for c in format.chars() {
        depth += i32::from(c == '{');
        match c {
            '{' if depth == 1 => pieces.push(String::new()),
            _ if depth == 0 => pieces.last_mut().unwrap().push(c),
            _ => {}
        }
        depth -= i32::from(c == '}');
    }
    pieces
}

fn has_in_order(line: &str, pieces: &[String]) -> bool {
    let mut rest = line;
    pieces.iter().all(|piece| match rest.split_once(piece.as_str()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn completeness_helpers_find_match_arms_literals_and_pieces() {
    let code = "match self {\n Close::A\n | Close::B => 4009,\n Close::C => \"Why, so\",\n}";
    let arms = arms(&format!("fn code(self) {code}\n    }}\n"), "fn code");
    let arms: Vec<(&str, &str)> = arms.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(arms, [("A", "4009"), ("B", "4009"), ("C", "Why, so")]);
    let found = literals("new(X, \"a_b\", '\"', \"c\\\"d\")");
    let words: Vec<&str> = found.iter().map(|(_, word, _)| word.as_str()).collect();
    assert_eq!(words, ["a_b", "c\\\"d"]);
    assert_eq!(pieces("has {chars} characters, {0:?}."), ["has ", " characters, ", "."]);
    assert!(has_in_order("it has 7 characters, no.", &pieces("has {n} characters")));
    assert!(!has_in_order("it has 7 letters", &pieces("has {n} characters")));
}
