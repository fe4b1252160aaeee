//! The documents: every link and citation resolves, every page is in the book.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::repository::tidy::report;

/// Where text cites documents.
const ROOTS: &[&str] =
    &["src", "lua", "tests", "bench", "benches", "clients", "scripts", "docs", "haproxy", ".github"];
const EXTENSIONS: &[&str] = &["rs", "lua", "md", "txt", "js", "ts", "py", "cfg", "yml", "yaml", "toml", ""];
const IGNORED: &[&str] = &["node_modules", ".venv", "target", "results"];

struct Document {
    /// Below the root of the repository.
    path: String,
    text: String,
}

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn documents() -> Vec<Document> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "md") {
            read(&path, &mut found);
        }
    }
    ROOTS.iter().for_each(|below| collect(&root().join(below), &mut found));
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 200, "the repository has more files than {}", found.len());
    found
}

fn collect(dir: &Path, found: &mut Vec<Document>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !IGNORED.contains(&name.as_str()) {
            collect(&path, found);
        } else if path.is_file() && EXTENSIONS.contains(&extension.as_str()) {
            read(&path, found);
        }
    }
}

fn read(path: &Path, found: &mut Vec<Document>) {
    // What is not text cites nothing.
    let Ok(text) = std::fs::read_to_string(path) else { return };
    let path = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    found.push(Document { path, text });
}

fn page(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text as one line, without the marks of comments, so that a citation may span
/// two lines.
fn joined(text: &str) -> String {
    let marks = |c: char| c.is_whitespace() || "/!-#*".contains(c);
    text.lines().map(|line| line.trim_start_matches(marks)).collect::<Vec<_>>().join(" ")
}

/// The numbers in `name 2.1, 2.3 to 2.5 and 4`, for every occurrence of the name.
fn cited(text: &str, name: &str) -> Vec<String> {
    let mut numbers = Vec::new();
    for (at, _) in text.match_indices(name) {
        let mut rest = &text[at + name.len()..];
        while let Some((number, after)) = number(rest.strip_prefix(' ').unwrap_or(rest)) {
            numbers.push(number.to_owned());
            let next = [", ", " and ", " to "].iter().find_map(|separator| after.strip_prefix(separator));
            let Some(next) = next else { break };
            rest = next;
        }
    }
    numbers
}

/// A clause number at the beginning, such as `2` or `2.10`.
fn number(text: &str) -> Option<(&str, &str)> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let fraction = text[whole..].strip_prefix('.').map_or(0, digits);
    let end = if fraction > 0 { whole + 1 + fraction } else { whole };
    (whole > 0 && whole <= 2).then(|| text.split_at(end))
}

/// The numbers that headings begin with.
fn headings(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let first = headings.filter_map(|line| line.trim_start_matches('#').split_whitespace().next());
    first.map(|word| word.trim_end_matches('.').to_owned()).collect()
}

#[test]
fn citations_of_numbered_documents_have_a_heading() {
    let clauses = BTreeMap::from(
        [("protocol.md", "docs/protocol.md"), ("design.md", "docs/design.md")]
            .map(|(name, path)| (name, headings(&page(path)))),
    );
    let mut faults = Vec::new();
    for Document { path, text } in &documents() {
        let text = joined(text);
        for (name, headings) in &clauses {
            for number in cited(&text, name).into_iter().filter(|number| !headings.contains(number)) {
                faults.push(format!("{path}: {name} {number}"));
            }
        }
        for number in cited(&text.replace("promises P", "promise P"), "promise P") {
            if !clauses["design.md"].contains(&format!("P{number}")) {
                faults.push(format!("{path}: promise P{number}"));
            }
        }
    }
    report("every citation has a heading: correct the number, or add the clause to docs/", &faults);
}

#[test]
fn paths_of_documents_exist() {
    let mut faults = Vec::new();
    for Document { path, text } in &documents() {
        let is_path = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
        for (at, _) in text.match_indices("docs/") {
            let cited = text[at..].split(|c| !is_path(c)).next().unwrap_or_default();
            let is_absolute = !text[..at].ends_with(is_path);
            let decision = cited.strip_prefix("docs/decisions/").filter(|rest| rest.len() >= 4);
            let exists = match decision {
                Some(rest) => decisions().any(|name| {
                    name.starts_with(&rest[..4])
                        && name.starts_with(rest.trim_end_matches(".md").trim_end_matches('.'))
                }),
                None => !cited.ends_with(".md") || root().join(cited).is_file(),
            };
            if is_absolute && !exists {
                faults.push(format!("{path}: {cited}"));
            }
        }
    }
    report("every document that is named exists", &faults);
}

fn decisions() -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(root().join("docs/decisions")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
}

#[test]
fn links_between_pages_resolve() {
    let mut faults = Vec::new();
    for Document { path, text } in documents().iter().filter(|document| document.path.ends_with(".md")) {
        for link in links(text) {
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => root().join(path),
                file => root().join(path).parent().unwrap().join(file),
            };
            if !target.exists() {
                faults.push(format!("{path}: {link}: no such file"));
            } else if !anchor.is_empty() && file.ends_with(".md") | file.is_empty() {
                let text = std::fs::read_to_string(&target).unwrap();
                if !anchors(&text).contains(anchor) {
                    faults.push(format!("{path}: {link}: no such heading"));
                }
            }
        }
    }
    report("every relative link resolves", &faults);
}

/// The relative links of a page, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        for (at, _) in line.match_indices("](") {
            let link = line[at + 2..].split([')', ' ']).next().unwrap_or_default();
            let is_absolute = link.contains("://") || link.starts_with("mailto:");
            if !is_absolute && !link.is_empty() {
                links.push(link.to_owned());
            }
        }
    }
    links
}

/// The lines outside of fenced blocks, without inline code.
fn prose(text: &str) -> Vec<String> {
    let mut in_code = false;
    let mut lines = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            lines.push(line.split('`').step_by(2).collect::<Vec<_>>().join("`"));
        }
    }
    lines
}

/// The anchors that GitHub and mdBook make of headings.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_page_is_in_the_book() {
    let summary = page("docs/SUMMARY.md");
    let listed: BTreeSet<String> = links(&summary).into_iter().collect();
    let pages = documents().into_iter().filter_map(|document| {
        let below = document.path.strip_prefix("docs/")?.to_owned();
        (below.ends_with(".md") && below != "SUMMARY.md").then_some(below)
    });
    let missing: Vec<String> = pages.filter(|page| !listed.contains(page)).collect();
    report("every page of docs/ is listed in docs/SUMMARY.md", &missing);
}

/// A metric that a page names exists, and the reference names every metric.
#[test]
fn metrics_in_documents_exist() {
    let known: BTreeSet<&str> = fanfare::metrics::names().collect();
    let mut faults = Vec::new();
    for Document { path, text } in documents().iter().filter(|document| document.path.ends_with(".md")) {
        for (at, _) in text.match_indices("fanfare_") {
            let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            let name = text[at..].split(|c| !is_name(c)).next().unwrap_or_default();
            let is_whole = !text[..at].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '/');
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| name.strip_suffix(suffix));
            let exists = known.contains(name) || histogram.is_some_and(|name| known.contains(name));
            if is_whole && !exists && !["fanfare_js", "fanfare_"].contains(&name) {
                faults.push(format!("{path}: {name}"));
            }
        }
    }
    report("every metric that a page names exists", &faults);
}

#[test]
fn citations_are_found() {
    // Of another name, or this file would cite the documents.
    let text = joined("//! (a.md 2.1, 2.3 to 2.5\n/// and 4). A.md 3. a.md\n-- 1.10: b.md 12 x");
    assert_eq!(cited(&text, ".md"), ["2.1", "2.3", "2.5", "4", "3", "1.10", "12"]);
    assert_eq!(cited(&text, "b.md"), ["12"]);
    assert_eq!(cited("a.md describes 3", "a.md"), [""; 0]);
    let page = "# Title\n\n## 2. Two\n### 2.10 Ten `x`\n### P1 A batch is all or nothing\n";
    assert_eq!(headings(page), ["2", "2.10", "P1", "Title"].map(str::to_owned).into());
    assert!(anchors(page).contains("p1-a-batch-is-all-or-nothing") && anchors(page).contains("210-ten-x"));
    assert_eq!(links("[a](b.md#c) `[x](y)` [d](https://e) \n```\n[f](g)\n```\n"), ["b.md#c"]);
}
