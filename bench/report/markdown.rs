//! Markdown tables, and escaping of text in them.

use super::{
    Faults, Record,
    numbers::{ABSENT, range},
    spread::{self, Spread},
};

/// Column names of the counts that [`faults`] formats, in its order.
pub const FAULTS: &str = "lost / duplicated / reordered / undecodable / closed";

/// A table with names in the first column and numbers in all others.
pub struct Table {
    text: String,
    columns: usize,
}

impl Table {
    pub fn new(head: &[String]) -> Table {
        let mut table = Table { text: String::new(), columns: head.len() };
        table.row(head);
        let rule: Vec<String> =
            (0..head.len()).map(|at| if at == 0 { "---" } else { "---:" }.into()).collect();
        table.row(&rule);
        table
    }

    /// Appends a row. Missing cells are empty.
    pub fn row(&mut self, cells: &[String]) {
        let missing = self.columns.saturating_sub(cells.len());
        self.text.push_str(&format!("| {} |{}\n", cells.join(" | "), " |".repeat(missing)));
    }

    pub fn text(self) -> String {
        self.text
    }
}

/// Escapes arbitrary text for Markdown and HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' | '#' => escaped.extend(['\\', c]),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// The text of a cell. A dash if there is no value.
pub fn cell(spread: Option<Spread>) -> String {
    spread.map_or_else(|| ABSENT.into(), range)
}

/// The five fault counts. Counts other than zero are bold.
pub fn faults(faults: Faults) -> String {
    let Faults { lost, duplicated, reordered, undecodable, closed } = faults;
    let counts = [lost, duplicated, reordered, undecodable, closed];
    let texts = counts.map(|count| if count == 0 { "0".into() } else { format!("**{count}**") });
    let mark = if faults == Faults::default() { "" } else { " **FAULT**" };
    format!("{}{mark}", texts.join(" / "))
}

/// A sentence on repeats and faults, for tables without a row of faults.
pub fn verdict(runs: &[&Record]) -> String {
    let repeats = spread::repeats(runs.iter().copied());
    let mut text = format!("Repeats: {repeats}. ");
    let mut is_clean = true;
    for server in spread::servers(runs) {
        let sum = spread::faults(runs.iter().copied().filter(|run| run.server == server));
        if sum != Faults::default() {
            is_clean = false;
            text.push_str(&format!("{}: {FAULTS}: {}. ", escape(server), faults(sum)));
        }
    }
    if is_clean {
        text.push_str("Nothing lost, duplicated, reordered or undecodable; no socket closed.");
    }
    format!("{}\n", text.trim_end())
}
