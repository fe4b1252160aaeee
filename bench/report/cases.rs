//! Tables of cases: one table per server, one row per case, all measured figures.

use super::{
    Record, Section,
    markdown::{Table, cell, escape, verdict},
    numbers::{heading, number, words},
    spread::{self, Spread},
};

/// The first columns, in order. Other figures follow by name.
const FIRST: &[&str] = &["http_bytes", "server_cpu_us", "redis_cpu_us", "last_ms_median"];

const TITLES: &[(&str, &str)] = &[
    ("batching", "The value of batches"),
    ("members", "Presence members"),
    ("script", "The append script in Redis"),
];

pub fn section(table: &str, runs: &[&Record]) -> Section {
    let known = TITLES.iter().find(|(name, _)| *name == table);
    let title = known.map_or_else(|| escape(&heading(table)), |(_, title)| (*title).to_owned());
    let text = format!("## {title}\n\n{}\n{}", verdict(runs), tables(runs));
    Section { text, charts: Vec::new() }
}

/// One table per server.
fn tables(runs: &[&Record]) -> String {
    let of = |server| runs.iter().copied().filter(|run| run.server == server).collect::<Vec<_>>();
    let tables = spread::servers(runs).into_iter().map(|server| table(server, &of(server)));
    tables.collect::<Vec<_>>().join("\n")
}

fn table(server: &str, runs: &[&Record]) -> String {
    let figures = spread::figures(runs, FIRST);
    let mut head = vec![escape(server)];
    head.extend(figures.iter().map(|figure| escape(&words(figure))));
    let mut table = Table::new(&head);
    for (case, at) in spread::distinct(runs.iter().map(|run| (&run.case, run.at))) {
        let of_case: Vec<&Record> =
            runs.iter().copied().filter(|run| run.case == *case && run.at == at).collect();
        let at = at.map_or_else(String::new, |at| format!(", {}", number(at)));
        let mut cells = vec![format!("{}{at}", escape(case))];
        cells.extend(figures.iter().map(|figure| cell(Spread::of_figure(of_case.iter().copied(), figure))));
        table.row(&cells);
    }
    table.text()
}
